"""What seconds mean: those of the wall, those of a simulation, or a simulation slowed to the wall."""

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """The one place that knows the time; everything below it is told."""

    def now(self) -> float:
        """Seconds since the clock began; never less than before."""
        ...

    def reach(self, moment: float) -> float:
        """The executor says it is done at `moment`; the time that it is then."""
        ...


class Wall:
    """Real seconds: work takes what it takes, whatever the executor says."""

    def __init__(self, read: Callable[[], float] = time.perf_counter) -> None:
        self._read = read
        self._began = read()

    def now(self) -> float:
        return self._read() - self._began

    def reach(self, moment: float) -> float:
        return self.now()


class Virtual:
    """Seconds that pass only when an executor says so."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def reach(self, moment: float) -> float:
        self._now = max(self._now, moment)
        return self._now


class Paced:
    """Predicted seconds that really pass: the clock sleeps until the moment has come."""

    def __init__(
        self, read: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._wall = Wall(read)
        self._sleep = sleep

    def now(self) -> float:
        return self._wall.now()

    def reach(self, moment: float) -> float:
        while (now := self._wall.now()) < moment:
            self._sleep(moment - now)
        return now
