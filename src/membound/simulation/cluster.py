"""Many engines in one virtual time: what happens next, wherever it happens, happens first.

At one moment steps end before requests arrive, and requests arrive before steps begin; engines in the order
of their numbers. A single engine is a cluster of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count

from membound.serving.request import Request
from membound.simulation.disaggregation import Handover
from membound.simulation.replica import NEVER, Ended, Engine
from membound.simulation.routing import Router
from membound.workloads.arrivals import Arrival, Traffic

Admit = Callable[[Arrival, float], Request | None]


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
        coming = self._next
        if self._brought and (coming is None or self._brought[0][0] < coming.time_s):
            arrival = heappop(self._brought)[2]
        else:
            assert coming is not None
            arrival = coming
            self._next = next(self._coming, None)
        self._look()
        return arrival

    def bring(self, arrival: Arrival) -> None:
        heappush(self._brought, (arrival.time_s, next(self._serial), arrival))
        self._look()

    def _look(self) -> None:
        moment = NEVER if self._next is None else self._next.time_s
        if self._brought and self._brought[0][0] < moment:
            moment = self._brought[0][0]
        self.moment = moment + self._delay_s


class Cluster:
    """Engines, and who gets which request; with a `handover`, the first of them compute prompts only."""

    def __init__(self, engines: Sequence[Engine], router: Router, handover: Handover | None = None) -> None:
        self.engines = engines
        self.router = router
        self.handover = handover
        self.now = 0.0
        self._ends: list[tuple[float, int]] = []  # heap: when the step of an engine ends
        self._sent: list[tuple[float, int, Request]] = []  # heap: when what was handed over arrives
        self._serial = count()
        self._arrivals: dict[Request, Arrival] = {}  # of requests under way, where ends or handovers ask

    def run(self, traffic: Traffic, admit: Admit, ended: Ended, delay_s: float = 0.0) -> None:
        """Serve it all. `admit` makes the request of an arrival, or refuses it; `ended` takes those that are
        done.
        """
        if traffic.responds or self.handover is not None:
            self._run_brought(traffic, admit, ended, delay_s)
        else:
            self._run_open(traffic, admit, ended, delay_s)
        for engine in self.engines:
            for replica in engine.replicas:
                replica.watch.close()

    def _run_brought(self, traffic: Traffic, admit: Admit, ended: Ended, delay_s: float) -> None:
        """Traffic of which some is brought about by ends, at the same engine or another: event by event."""
        feed, responds = Feed(traffic, delay_s), traffic.responds
        engines, ends, sent = self.engines, self._ends, self._sent
        entries = engines if self.handover is None else engines[: self.handover.prefills]
        cautious = len(engines) > 1  # an end at one may bring a request to another
        while True:
            moment = feed.moment
            if ends and ends[0][0] <= moment:
                moment = ends[0][0]
            if sent and sent[0][0] < moment:
                moment = sent[0][0]
            if moment == NEVER:
                return
            self.now = moment
            ready: list[int] = []
            while ends and ends[0][0] <= moment:
                number = heappop(ends)[1]
                ready.append(number)
                for request in engines[number].finish():
                    if self._handed_over(request, number):
                        continue
                    ended(request)
                    following = traffic.after(self._arrivals.pop(request), moment) if responds else None
                    if following is not None:
                        feed.bring(following)
            while feed.moment <= moment:
                arrival = feed.pop()
                new = admit(arrival, moment)
                if new is None:
                    continue
                number = self.router.choose(new, entries) if len(entries) > 1 else 0
                engines[number].add(new, arrival.output_tokens if self.handover is None else 1)
                self._arrivals[new] = arrival
                if number not in ready and engines[number].ends == NEVER:
                    ready.append(number)
            if sent:
                self._receive(moment, ready)
            until = feed.moment
            if cautious:
                until = moment if len(ready) > 1 or not ends else min(until, ends[0][0])
                if sent:
                    until = min(until, sent[0][0])
            if len(ready) > 1:
                ready.sort()
            for number in ready:
                engines[number].start(moment, until)
                if engines[number].ends != NEVER:
                    heappush(ends, (engines[number].ends, number))

    def _run_open(self, traffic: Traffic, admit: Admit, ended: Ended, delay_s: float) -> None:
        """Traffic that nothing brings about: between arrivals every engine goes on by itself.

        The same order of events, but for ends, which come engine by engine.
        """
        engines, router = self.engines, self.router
        alone = len(engines) == 1
        coming = iter(traffic)
        arrival = next(coming, None)
        while arrival is not None:
            self.now = moment = arrival.time_s + delay_s
            for engine in engines:
                if engine.ends <= moment:
                    engine.advance(moment, ended)
            new = admit(arrival, moment)
            if new is not None:
                number = 0 if alone else router.choose(new, engines)
                engines[number].add(new, arrival.output_tokens)
            arrival = next(coming, None)
            until = NEVER if arrival is None else arrival.time_s + delay_s
            if until > moment:  # all that arrive now are there
                for engine in engines:
                    if engine.ends == NEVER:
                        engine.start(moment, until)
        for engine in engines:
            while (moment := engine.ends) != NEVER:
                self.now = max(self.now, moment)
                engine.advance(moment, ended)
                engine.start(moment, NEVER)

    def _handed_over(self, request: Request, number: int) -> bool:
        """Whether a request that ended at an engine goes on at another."""
        handover = self.handover
        if handover is None or number >= handover.prefills:
            return False
        if self._arrivals[request].output_tokens == 1:
            return False
        request.move()
        arrives = handover.arrives(request, number, self.now)
        heappush(self._sent, (arrives, next(self._serial), request))
        return True

    def _receive(self, moment: float, ready: list[int]) -> None:
        """What was handed over arrives."""
        assert self.handover is not None
        while self._sent and self._sent[0][0] <= moment:
            request = heappop(self._sent)[2]
            number = self.handover.choose(request, self.engines)
            self.engines[number].add(request, self._arrivals[request].output_tokens)
            if number not in ready and self.engines[number].ends == NEVER:
                ready.append(number)
