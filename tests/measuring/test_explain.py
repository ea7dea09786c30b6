"""A step taken apart: parts that add up, and the same tokens as ever."""

import pytest

from membound.measuring.explain import OPERATORS, PYTHON, explain
from membound.measuring.speed import SpeedTest, made_up
from membound.measuring.watch import Timed, Watch
from membound.models.tokenizer import Tokenizer
from membound.serving.sampling import Sampling
from tests.real_models import real_model

SHORT = Sampling(max_tokens=8, ignore_eos=True)


class Clock:
    """Says what time it is by how often it was asked."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_inner_parts_are_not_counted_to_outer_ones() -> None:
    watch = Watch(Clock())

    def inner() -> str:
        return watch.call("leaf", str, 1) + watch.call("leaf", str, 2)

    assert watch.call("outer", inner) == "12"
    # The clock ticks once at each beginning and end: 1 [2 3] [4 5] 6.
    assert watch.seconds == {"leaf": 2.0, "outer": 3.0}


def test_what_fails_is_counted_too() -> None:
    watch = Watch(Clock())
    with pytest.raises(ZeroDivisionError):
        watch.call("outer", lambda: watch.call("inner", lambda: 1 // 0))
    assert watch.seconds == {"inner": 1.0, "outer": 2.0}


def test_only_named_methods_are_timed() -> None:
    watch = Watch(Clock())
    letters = Timed(watch, ["b", "a"], {"sort": "sorting"})
    letters.sort()
    assert letters.index("b") == 1
    assert watch.seconds == {"sorting": 1.0}


@pytest.fixture(scope="module")
def test() -> SpeedTest:
    return SpeedTest(real_model("smollm2"), rows=3)


@pytest.mark.parametrize("steps", [0, 5])
def test_parts_add_up(test: SpeedTest, steps: int) -> None:
    prompts = [made_up(20, test.vocabulary, row) for row in range(3)]
    explained = explain(test, Tokenizer.of(test.weights), prompts, steps)
    assert explained.steps == (3 if steps else 1)  # the quicker half
    assert [part.name for part in explained.parts] == [*OPERATORS, *PYTHON]
    # Where each key has one reader, attention rotates and stores it; greedy tokens are found by the head.
    elsewhere = ("rotation", "sampling")
    assert all(part.seconds > 0 for part in explained.parts if part.name not in elsewhere)
    assert all((part.limit_s or 0) > 0 for part in explained.parts if OPERATORS.get(part.name))
    sides = [explained.seconds_of(side) for side in ("kernels", "waiting", "python")]
    assert sum(sides) == pytest.approx(explained.seconds)


def test_the_engine_is_left_as_it_was(test: SpeedTest) -> None:
    prompt = made_up(20, test.vocabulary)
    before = test.engine.generate([prompt], SHORT)[0].token_ids
    engine, core = dict(vars(test.engine)), test.executor.core
    explain(test, Tokenizer.of(test.weights), [prompt], 3)
    assert (test.engine.scheduler, test.engine.executor) == (engine["scheduler"], engine["executor"])
    assert test.engine.codec is None
    assert test.executor.core is core
    assert core.phase_seconds() == {}
    assert test.engine.generate([prompt], SHORT)[0].token_ids == before
