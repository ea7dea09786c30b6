"""Which replica gets a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from membound.errors import InputError
from membound.serving.request import Request
from membound.simulation.replica import Replica


class Router(Protocol):
    """Chooses the number of a replica, knowing what is visible at the moment."""

    def choose(self, request: Request, replicas: Sequence[Replica]) -> int: ...


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, request: Request, replicas: Sequence[Replica]) -> int:
        number = self._next % len(replicas)
        self._next = number + 1
        return number


class LeastLoaded:
    """The fewest requests that wait or run, for what the replica can do; of equals the first."""

    def choose(self, request: Request, replicas: Sequence[Replica]) -> int:
        return min(range(len(replicas)), key=lambda n: (replicas[n].outstanding / replicas[n].speed, n))


class PrefixAware:
    """The longest prefix in the cache, unless that replica has fallen behind; else the least loaded.

    As SGLang's router: a replica counts as behind with `slack` more requests than the least loaded and
    `ratio` times as many.
    """

    def __init__(self, slack: int = 32, ratio: float = 1.5) -> None:
        self._slack = slack
        self._ratio = ratio
        self._least = LeastLoaded()

    def choose(self, request: Request, replicas: Sequence[Replica]) -> int:
        least = self._least.choose(request, replicas)
        if not request.shareable:
            return least
        found = [replica.scheduler.cached_blocks(request) for replica in replicas]
        best = max(range(len(replicas)), key=lambda n: (found[n], -replicas[n].outstanding, -n))
        few = replicas[least].outstanding
        behind = replicas[best].outstanding > max(few + self._slack, few * self._ratio)
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
