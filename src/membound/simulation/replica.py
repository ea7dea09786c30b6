"""One engine in virtual time: its scheduler, its executor, and the step that is under way.

A step's results are not visible before its end: `start` begins one, `finish` commits it when its time has
come. Between the two others may add requests; they wait for the next step.
"""

from __future__ import annotations

from membound.executors.predicted import PredictedExecutor
from membound.serving.request import Request
from membound.serving.scheduler import Scheduler
from membound.serving.step import Outcome
from membound.simulation.watch import Watch

NEVER = float("inf")


class Replica:
    """`ends` is when the step under way will end, infinite if there is none."""

    def __init__(self, scheduler: Scheduler, executor: PredictedExecutor, speed: float = 1.0) -> None:
        """`speed` is what it can do beside others, for routing."""
        self.scheduler = scheduler
        self.executor = executor
        self.speed = speed
        self.ends = NEVER
        self.watch = Watch(scheduler.pool.blocks)
        self._outcome: Outcome | None = None

    @property
    def under_way(self) -> bool:
        """Whether a step is."""
        return self._outcome is not None

    @property
    def outstanding(self) -> int:
        """Requests that wait or run."""
        return len(self.scheduler.waiting) + len(self.scheduler.running)

    def add(self, request: Request, output_tokens: int) -> None:
        """A request is there; it takes part from the next step on."""
        self.scheduler.add(request)
        self.executor.expect(request, output_tokens)

    def start(self, now: float, until: float) -> None:
        """Begin a step, if there is anything to do; simple ones are repeated up to `until`."""
        scheduler = self.scheduler
        step = scheduler.schedule()
        if step is None:
            return
        for request, _ in step.chunks:
            if request.admitted is None:
                request.admitted = now
        self._outcome = outcome = self.executor.execute(step, now, until)
        self.ends = outcome.now
        self.watch.see(now, step, outcome, scheduler)

    def finish(self) -> list[Request]:
        """Commit the step under way: its time has come. The requests that ended."""
        outcome = self._outcome
        assert outcome is not None
        self._outcome = None
        self.ends = NEVER
        return self.scheduler.commit(outcome)
