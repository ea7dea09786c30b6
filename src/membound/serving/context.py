"""The cached tokens of caught-up requests as a running sum, so that the cost of a step needs no visit."""

from heapq import heappop, heappush


class ContextSum:
    """Σ min(cached, window) over the caught-up requests; each grows by a token per step until its window."""

    __slots__ = ("_crossings", "_next", "growing", "total", "window")

    def __init__(self, window: int) -> None:
        self.window = window  # tokens
        self.total = 0
        self.growing = 0  # requests whose cache is still shorter than the window
        self._crossings: dict[int, int] = {}  # step count -> how many reach their window at it
        self._next: list[int] = []  # heap of those step counts, some of them obsolete

    def add(self, cached: int, steps: int) -> None:
        """A request with `cached` tokens joins when `steps` steps are carried out."""
        self._count(cached, steps, 1)

    def remove(self, cached: int, steps: int) -> None:
        self._count(cached, steps, -1)

    def _count(self, cached: int, steps: int, sign: int) -> None:
        window = self.window
        if cached >= window:
            self.total += sign * window
        else:
            self.growing += sign
            self.total += sign * cached
            crossing = steps + window - cached
            if crossing not in self._crossings:
                heappush(self._next, crossing)
            self._crossings[crossing] = self._crossings.get(crossing, 0) + sign

    def advance(self, times: int, steps: int) -> None:
        """`times` steps ran, which makes `steps`; `times` is at most what `steady` allowed."""
        self.total += times * self.growing
        while self._next and self._next[0] <= steps:
            self.growing -= self._crossings.pop(heappop(self._next))

    def steady(self, steps: int) -> int | None:
        """For how many steps the growth stays what it is; None is without end."""
        while self._next and not self._crossings[self._next[0]]:
            del self._crossings[heappop(self._next)]
        return self._next[0] - steps if self._next else None
