"""One engine in virtual time: its scheduler, its executor, and the step that is under way.

A step's results are not visible before its end: `start` begins one, `finish` commits it when its time has
come. Between the two others may add requests; they wait for the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from membound.executors.predicted import (
    Chunk,
    PredictedExecutor,
    StepSeconds,
    Window,
    chunks_of,
)
from membound.serving.request import Request
from membound.serving.scheduler import Scheduler
from membound.serving.step import Outcome, Step
from membound.simulation.watch import Watch

NEVER: Final = float("inf")
Ended = Callable[[Request], None]


class Engine(Protocol):
    """What a cluster asks of an engine: a `Replica`, or several in `Lockstep`."""

    ends: float
    """When the step under way will end; infinite if there is none."""
    speed: float
    """What it can do beside others, for routing."""

    @property
    def replicas(self) -> Sequence[Replica]: ...

    @property
    def outstanding(self) -> int:
        """Requests that wait or run."""
        ...

    def cached_blocks(self, request: Request) -> int:
        """How many leading blocks of a request are in its cache."""
        ...

    def add(self, request: Request, output_tokens: int) -> None:
        """A request is there; it takes part from the next step on."""
        ...

    def start(self, now: float, until: float) -> None:
        """Begin a step, if there is anything to do; simple ones are repeated up to `until`."""
        ...

    def finish(self) -> list[Request]:
        """Commit the step under way: its time has come. The requests that ended."""
        ...

    def advance(self, until: float, ended: Ended) -> None:
        """All that is under way and done by `until`, and the steps that follow; none begins at `until`."""
        ...


class Replica:
    """One scheduler with an executor."""

    def __init__(self, scheduler: Scheduler, executor: PredictedExecutor, speed: float = 1.0) -> None:
        self.scheduler = scheduler
        self.executor = executor
        self.speed = speed
        self.ends = NEVER
        self.watch = Watch(scheduler.pool.blocks)
        self._outcome: Outcome | None = None

    @property
    def replicas(self) -> Sequence[Replica]:
        return (self,)

    @property
    def outstanding(self) -> int:
        return len(self.scheduler.waiting) + len(self.scheduler.running)

    def cached_blocks(self, request: Request) -> int:
        return self.scheduler.cached_blocks(request)

    def add(self, request: Request, output_tokens: int) -> None:
        self.scheduler.add(request)
        self.executor.expect(request, output_tokens)

    def start(self, now: float, until: float) -> None:
        step = self.scheduler.schedule()
        if step is not None:
            self.carry_out(step, now, until)

    def carry_out(self, step: Step, now: float, until: float) -> None:
        """Begin a step that the scheduler made."""
        for request, _ in step.chunks:
            if request.admitted is None:
                request.admitted = now
        self._outcome = outcome = self.executor.execute(step, now, until)
        self.ends = outcome.now
        self.watch.see(now, step, outcome, self.scheduler)

    def finish(self) -> list[Request]:
        outcome = self._outcome
        assert outcome is not None
        self._outcome = None
        self.ends = NEVER
        return self.scheduler.commit(outcome)

    def advance(self, until: float, ended: Ended) -> None:
        scheduler = self.scheduler
        while (now := self.ends) <= until:
            assert self._outcome is not None
            for request in scheduler.commit(self._outcome):
                ended(request)
            step = scheduler.schedule() if now < until else None
            if step is None:
                self._outcome = None
                self.ends = NEVER
                return
            self.carry_out(step, now, until)


class Pace:
    """What a step takes, told from outside."""

    def __init__(self) -> None:
        self.step_s = 0.0

    def seconds(self, sequences: int, context: Mapping[Window, int], chunks: Sequence[Chunk] = ()) -> float:
        return self.step_s

    def run(
        self,
        sequences: int,
        context: Mapping[Window, int],
        growth: Mapping[Window, int],
        now: float,
        until: float,
        most: int,
    ) -> tuple[float, int]:
        return now + self.step_s, 1


class Lockstep:
    """Data-parallel ranks that share experts: each has its own requests and cache, but every step ends for
    all of them when the slowest is done. A rank without work waits along.

    The experts compute the rows of all ranks, so they take what the mean of the ranks brings them, whoever
    brings it; the rest is each rank's own.
    """

    def __init__(
        self,
        schedulers: Sequence[Scheduler],
        cost: StepSeconds,
        experts: Callable[[float], float] = lambda rows: 0.0,
        speed: float = 1.0,
    ) -> None:
        """One scheduler for each rank; `cost` is that of a rank beside others that do the same, and `experts`
        the part of it that the experts take, by the rank's rows.
        """
        self._cost = cost
        self._experts = experts
        self._pace = Pace()
        self._ranks = [Replica(scheduler, PredictedExecutor(self._pace)) for scheduler in schedulers]
        self.speed = speed
        self.ends = NEVER

    @property
    def replicas(self) -> Sequence[Replica]:
        return self._ranks

    @property
    def outstanding(self) -> int:
        return sum(rank.outstanding for rank in self._ranks)

    def cached_blocks(self, request: Request) -> int:
        return max(rank.cached_blocks(request) for rank in self._ranks)

    def add(self, request: Request, output_tokens: int) -> None:
        """To the rank with the fewest requests; of equals to the one that holds most of its prefix."""
        best = min(self._ranks, key=lambda rank: (rank.outstanding, -rank.cached_blocks(request)))
        best.add(request, output_tokens)

    def start(self, now: float, until: float) -> None:
        scheduled = [(rank, rank.scheduler.schedule()) for rank in self._ranks]
        steps = [(rank, step) for rank, step in scheduled if step is not None]
        if not steps:
            return
        rows = [step.tokens for _, step in steps]
        own = max(
            self._cost.seconds(step.decodes, step.context, chunks_of(step)) - self._experts(count)
            for (_, step), count in zip(steps, rows, strict=True)
        )
        self._pace.step_s = own + self._experts(sum(rows) / len(self._ranks))
        for rank, step in steps:
            rank.carry_out(step, now, until)
        self.ends = now + self._pace.step_s

    def finish(self) -> list[Request]:
        self.ends = NEVER
        return [request for rank in self._ranks if rank.ends != NEVER for request in rank.finish()]

    def advance(self, until: float, ended: Ended) -> None:
        while self.ends <= until:
            now = self.ends
            for request in self.finish():
                ended(request)
            if now < until:
                self.start(now, until)
