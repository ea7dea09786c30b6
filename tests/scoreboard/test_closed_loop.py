"""The steps of a closed loop, recorded once: exact for one sequence, and their sums are the means."""

import numpy as np
import pytest

from membound.costs.calibration import fitted
from membound.costs.deployment import deployment
from membound.scoreboard.closed_loop import Loop, Recording, record
from membound.scoreboard.recorded import condensed

COST = deployment("Qwen3-8B", "h100-sxm", calibration=fitted()).cost


def recorded(loop: Loop, mixed: bool = True) -> tuple[Recording, np.ndarray]:
    found = record(loop, COST.features, 4096, 512, 64, mixed)
    return found, COST.seconds(np.ascontiguousarray(found.features.T))


def test_alone_a_request_waits_for_its_prompt_and_then_for_each_step() -> None:
    found, seconds = recorded(Loop(1, [(100, 9), (100, 9)]))
    ttft, tpot = found.latencies(seconds)
    prompt = COST.step_seconds([(100, 0)])
    steps = [COST.step_seconds([(1, 100 + n)]) for n in range(8)]
    assert ttft[0] == pytest.approx(prompt)
    assert tpot[0] == pytest.approx(sum(steps) / 8, rel=1e-4)  # repeated steps stand for their middle one


@pytest.mark.parametrize("mixed", [True, False])
def test_weights_give_the_means(mixed: bool) -> None:
    loop = Loop.uniform(8, 300, 40, 40, spread=0.5)
    found, seconds = recorded(loop, mixed)
    ttft, tpot = found.latencies(seconds)
    for_ttft, for_tpot = found.weights()
    assert for_ttft @ seconds == pytest.approx(ttft.mean())
    assert for_tpot @ seconds == pytest.approx(tpot.mean())
    assert len(ttft) == 40
    assert (ttft > 0).all()


def test_all_tokens_are_computed_once() -> None:
    loop = Loop.uniform(8, 300, 40, 40, spread=0.5)
    found, _ = recorded(loop)
    rows = found.features[:, COST.features.place("rows")] @ found.times
    assert rows == sum(prompt + output - 1 for prompt, output in loop.lengths)


def test_few_kinds_of_steps_say_the_same() -> None:
    found, seconds = recorded(Loop.uniform(16, 300, 60, 120, spread=0.2))
    place = COST.features.place
    kinds = condensed(found, place("rows"), place("rows_many"))
    short = COST.seconds(np.ascontiguousarray(kinds.features.T))
    ttft, tpot = found.latencies(seconds)
    assert kinds.ttft @ short == pytest.approx(ttft.mean(), rel=0.02)
    assert kinds.tpot @ short == pytest.approx(tpot.mean(), rel=0.01)
    assert kinds.run @ short == pytest.approx(seconds @ found.times, rel=0.01)
    assert len(short) < len(seconds) / 4


def test_prompts_first_wait_less_and_decode_slower() -> None:
    loop = Loop.uniform(16, 1000, 40, 80, spread=0.2)
    (mixed, mixed_s), (apart, apart_s) = recorded(loop), recorded(loop, mixed=False)
    assert apart.latencies(apart_s)[0].mean() < mixed.latencies(mixed_s)[0].mean()
    assert apart.latencies(apart_s)[1].mean() > mixed.latencies(mixed_s)[1].mean()
