"""The highest rate that still holds the SLO: doubled until it fails, then bisected.

The search suggests rates and is told what came of them, so that a simulator and a load tester drive the
same one.
"""

from collections.abc import Callable

ENOUGH = 0.9  # attainment at which a rate counts as held (DistServe)


class RateSearch:
    """Rates in requests/s, starting at `first`, until the answer is known within `precision` (relative).

    The rate is raised by factors of `stride` to at most `most`, or lowered to at least `least`.
    """

    def __init__(
        self,
        first: float,
        *,
        precision: float = 0.05,
        enough: float = ENOUGH,
        stride: float = 2.0,
        least: float = 1e-3,
        most: float = 1e6,
    ) -> None:
        self.held: float | None = None
        self.failed: float | None = None
        self._first, self._precision, self._enough = first, precision, enough
        self._stride, self._least, self._most = stride, least, most

    def next(self) -> float | None:
        """The rate to try, or None when the answer is `held` (itself None if no rate holds)."""
        if self.held is None:
            if self.failed is None:
                return self._first
            rate = self.failed / self._stride
            return rate if rate >= self._least else None
        if self.failed is None:
            rate = self.held * self._stride
            return rate if rate <= self._most else None
        if self.failed <= self.held * (1 + self._precision):
            return None
        return (self.held + self.failed) / 2

    def tell(self, rate: float, attainment: float) -> None:
        """What came of a rate. A rate above one that failed never counts as held."""
        if attainment >= self._enough and (self.failed is None or rate < self.failed):
            self.held = rate
        else:
            self.failed = rate if self.failed is None else min(rate, self.failed)


def highest_rate(attainment: Callable[[float], float], first: float, precision: float = 0.05) -> float | None:
    """Where the attainment of each rate can be had at once; None if none holds."""
    search = RateSearch(first, precision=precision)
    while (rate := search.next()) is not None:
        search.tell(rate, attainment(rate))
    return search.held
