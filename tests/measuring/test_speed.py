"""Whole steps, timed."""

from membound.measuring.speed import SpeedTest, made_up
from tests.real_models import real_model


def test_what_is_timed_does_not_wait_for_the_systems_memory() -> None:
    test = SpeedTest(real_model("smollm2"), rows=2, engines=2)
    first, second = test.executors
    assert first.ready_ahead()  # at first there is memory to ready
    assert second.ready_ahead()
    test.prefill(made_up(20, test.vocabulary))
    assert not first.ready_ahead()
    assert not second.ready_ahead()
