"""Many engines in one virtual time: what happens next, wherever it happens, happens first.

At one moment steps end before requests arrive, and requests arrive before steps begin; replicas in the order
of their numbers. A single engine is a cluster of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count

from membound.serving.request import Request
from membound.simulation.replica import NEVER, Replica
from membound.simulation.routing import Router
from membound.workloads.arrivals import Arrival, Traffic


class Feed:
    """Arrivals in order of time: those that come of themselves, and those that ends bring."""

    def __init__(self, traffic: Traffic, delay_s: float = 0.0) -> None:
        """Requests reach the engine `delay_s` after they were sent."""
        self._coming: Iterator[Arrival] = iter(traffic)
        self._next: Arrival | None = next(self._coming, None)
        self._brought: list[tuple[float, int, Arrival]] = []
        self._serial = count()
        self._delay_s = delay_s
        self.moment = NEVER
        self._look()

    def pop(self) -> Arrival:
        """The next arrival, due at `moment`."""
        if self._brought and (self._next is None or self._brought[0][0] < self._next.time_s):
            arrival = heappop(self._brought)[2]
        else:
            assert self._next is not None
            arrival = self._next
            self._next = next(self._coming, None)
        self._look()
        return arrival

    def bring(self, arrival: Arrival) -> None:
        heappush(self._brought, (arrival.time_s, next(self._serial), arrival))
        self._look()

    def _look(self) -> None:
        moment = NEVER if self._next is None else self._next.time_s
        if self._brought:
            moment = min(moment, self._brought[0][0])
        self.moment = moment + self._delay_s


class Cluster:
    """Replicas, and who gets which request."""

    def __init__(self, replicas: list[Replica], router: Router) -> None:
        self.replicas = replicas
        self.router = router
        self.now = 0.0
        self._ends: list[tuple[float, int]] = []  # heap: when the step of a replica ends

    def run(
        self,
        traffic: Traffic,
        admit: Callable[[Arrival, float], Request | None],
        ended: Callable[[Request], None],
        delay_s: float = 0.0,
    ) -> None:
        """Serve it all. `admit` makes the request of an arrival, or refuses it; `ended` takes those that are
        done.
        """
        feed = Feed(traffic, delay_s)
        replicas, ends, router = self.replicas, self._ends, self.router
        responds = traffic.responds
        arrival_of: dict[Request, Arrival] = {}
        cautious = responds and len(replicas) > 1  # an end at one may bring a request to another
        while True:
            moment = feed.moment
            if ends and ends[0][0] <= moment:
                moment = ends[0][0]
            if moment == NEVER:
                return
            self.now = moment
            ready: list[int] = []
            while ends and ends[0][0] <= moment:
                number = heappop(ends)[1]
                ready.append(number)
                for request in replicas[number].finish():
                    ended(request)
                    if responds:
                        following = traffic.after(arrival_of.pop(request), moment)
                        if following is not None:
                            feed.bring(following)
            while feed.moment <= moment:
                arrival = feed.pop()
                request_ = admit(arrival, moment)
                if request_ is None:
                    continue
                number = router.choose(request_, replicas)
                replicas[number].add(request_, arrival.output_tokens)
                if responds:
                    arrival_of[request_] = arrival
                if not replicas[number].under_way and number not in ready:
                    ready.append(number)
            until = feed.moment
            if cautious:
                until = moment if len(ready) > 1 or not ends else min(until, ends[0][0])
            for number in sorted(ready):
                replica = replicas[number]
                replica.start(moment, until)
                if replica.ends != NEVER:
                    heappush(ends, (replica.ends, number))
