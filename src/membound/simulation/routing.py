"""Which engine gets a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from membound.errors import InputError
from membound.serving.request import Request
from membound.simulation.replica import Engine


class Router(Protocol):
    """Chooses the number of an engine, knowing what is visible at the moment."""

    def choose(self, request: Request, engines: Sequence[Engine]) -> int: ...


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, request: Request, engines: Sequence[Engine]) -> int:
        number = self._next % len(engines)
        self._next = number + 1
        return number


class LeastLoaded:
    """The fewest requests that wait or run, for what the engine can do; of equals the first."""

    def choose(self, request: Request, engines: Sequence[Engine]) -> int:
        return min(range(len(engines)), key=lambda n: (engines[n].outstanding / engines[n].speed, n))


class PrefixAware:
    """The longest prefix in the cache, unless that engine has fallen behind; else the least loaded.

    As SGLang's router: an engine counts as behind with `slack` more requests than the least loaded and
    `ratio` times as many.
    """

    def __init__(self, slack: int = 32, ratio: float = 1.5) -> None:
        self._slack = slack
        self._ratio = ratio
        self._least = LeastLoaded()

    def choose(self, request: Request, engines: Sequence[Engine]) -> int:
        least = self._least.choose(request, engines)
        if not request.shareable:
            return least
        found = [engine.cached_blocks(request) for engine in engines]
        best = max(range(len(engines)), key=lambda n: (found[n], -engines[n].outstanding, -n))
        few = engines[least].outstanding
        behind = engines[best].outstanding > max(few + self._slack, few * self._ratio)
        return least if behind or not found[best] else best


ROUTERS: dict[str, Callable[[], Router]] = {
    "round-robin": RoundRobin,
    "least-loaded": LeastLoaded,
    "prefix": PrefixAware,
}


def router(name: str) -> Router:
    """By name."""
    if name not in ROUTERS:
        raise InputError(f"--routing {name}: one of {', '.join(ROUTERS)}")
    return ROUTERS[name]()
