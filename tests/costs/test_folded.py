"""A folded cost is the step cost it was made from, to rounding."""

import random
from dataclasses import replace

import pytest

from membound.costs.calibration import IDEAL, ByRows, Calibration, fitted
from membound.costs.folded_plain import fold
from membound.costs.parallel import Layout, layout
from membound.costs.precisions import precisions
from membound.costs.roofline import StepCost
from membound.hardware.lookup import find
from membound.models.names import catalog, dimensions_of
from membound.models.operators import Chunk

ONE = layout()
CASES = [(name, ONE, "none", 0.0) for name in catalog()] + [
    ("Meta-Llama-3.1-70B", layout(4), "vllm", 0.0),
    ("Meta-Llama-3.1-70B", layout(2, 4), "vllm", 0.0),
    ("DeepSeek-V3", layout(1, 1, 8), "sglang", 0.5),
    ("gpt-oss-120b", layout(2, 2, 2), "trtllm", 1.0),
    ("Qwen3-30B-A3B", layout(2, 1, 2), "vllm", 0.3),
]


MEASURED = replace(  # as kernels were timed by rows
    fitted(),
    by_rows=ByRows((1, 8, 9, 512), (0.4, 0.7, 1.5, 0.9)),
    by_sampled=ByRows((1, 32), (2.0, 1.1)),
)


def step_cost(name: str, shape: Layout, engine: str, skew: float, calibration: Calibration) -> StepCost:
    model = dimensions_of(name)
    return StepCost(model, find("h100-sxm"), precisions(model, "bf16"), shape, calibration, engine, skew)


@pytest.mark.parametrize(("name", "shape", "engine", "skew"), CASES)
@pytest.mark.parametrize("calibration", [fitted(), IDEAL, MEASURED], ids=["fitted", "ideal", "measured"])
def test_same_seconds(name: str, shape: Layout, engine: str, skew: float, calibration: Calibration) -> None:
    cost = step_cost(name, shape, engine, skew, calibration)
    folded, random_ = fold(cost), random.Random(1)
    for _ in range(20):
        sequences = random_.choice([0, 1, 3, 64, 700])
        lengths = [random_.randrange(1, 20_000) for _ in range(sequences)]
        context = {w: sum(n if w is None else min(n, w) for n in lengths) for w in (None, *folded.windows)}
        chunks = [
            (random_.choice([1, 2, 511, 2048]), random_.choice([0, 16, 9000]), random_.randrange(2))
            for _ in range(random_.randrange(0 if sequences else 1, 4))
        ]
        expected = cost.decode_seconds(sequences, context, [Chunk(*c) for c in chunks])
        assert folded.seconds(sequences, context, chunks) == pytest.approx(expected, rel=1e-9)


def test_a_long_run_is_many_short_ones_to_the_last_bit() -> None:
    folded = fold(step_cost("Meta-Llama-3.1-70B", ONE, "vllm", 0.0, fitted()))
    never = float("inf")
    for sequences, most, until in ((1, 6000, never), (7, 500, 9.0), (300, 60, never), (3, 30, 0.9)):
        now, times, context = 0.25, 0, 1000 * sequences
        while times < most and now < until:
            now, one = folded.run(sequences, {None: context}, {None: sequences}, now, until, 1)
            times, context = times + one, context + sequences
        start: dict[int | None, int] = {None: 1000 * sequences}
        assert folded.run(sequences, start, {None: sequences}, 0.25, until, most) == (now, times)


@pytest.mark.parametrize("name", ["Meta-Llama-3.1-70B", "gpt-oss-120b", "DeepSeek-V3"])
def test_a_run_is_step_after_step(name: str) -> None:
    folded = fold(step_cost(name, ONE, "vllm", 0.0, fitted()))
    context = {window: 5000 if window is None else 900 for window in (None, *folded.windows)}
    growth = {window: 10 if window is None else 4 for window in context}
    moments = [0.25]
    for step in range(50):
        grown = {window: context[window] + step * growth[window] for window in context}
        moments.append(moments[-1] + folded.seconds(10, grown))
    now, times = folded.run(10, context, growth, 0.25, float("inf"), 50)
    assert now == pytest.approx(moments[50], rel=1e-12)
    assert times == 50
    assert folded.run(10, context, growth, 0.25, moments[20] - 1e-9, 50)[1] == 20
    assert folded.run(10, context, growth, 0.25, moments[20] + 1e-9, 50)[1] == 21
