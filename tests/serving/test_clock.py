"""Clocks never go back, and each knows what a second is."""

import pytest

from membound.serving.clock import Paced, Virtual, Wall


class Ticker:
    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []

    def read(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds * 0.75  # sleeps may end early


def test_the_wall_ignores_what_an_executor_says() -> None:
    ticker = Ticker()
    clock = Wall(ticker.read)
    ticker.time += 2
    assert clock.reach(50.0) == 2.0


def test_virtual_time_passes_when_told_and_never_back() -> None:
    clock = Virtual()
    assert [clock.reach(moment) for moment in (1.0, 3.0, 2.0)] == [1.0, 3.0, 3.0]


def test_paced_time_sleeps_until_the_moment_has_come() -> None:
    ticker = Ticker()
    clock = Paced(ticker.read, ticker.sleep)
    assert clock.reach(1.0) == pytest.approx(1.0)
    assert ticker.slept[:2] == [1.0, 0.25]
    slept = len(ticker.slept)
    clock.reach(0.5)
    assert len(ticker.slept) == slept, "a moment that has passed is not waited for"
