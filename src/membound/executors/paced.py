"""Predicted steps that follow each other without a gap, as on the machine that they stand for.

What it takes here to bring tokens to their clients must not add to the prediction: while there is work, a
step begins when the one before it was due, not when we got round to it. How far we are behind is the lag.
"""

from membound.serving.step import Executor, Outcome, Step


class PacedExecutor:
    """`inner` on a paced clock. The time after a step may have passed already: then nobody sleeps."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self._due = 0.0  # when the last step was to end
        self.lag_s = 0.0  # of the latest step's begin

    def execute(self, step: Step, now: float, until: float) -> Outcome:
        follows = step.decodes > 0 or any(request.computed > request.hit_tokens for request, _ in step.chunks)
        start = min(self._due, now) if follows else now
        self.lag_s = now - start
        outcome = self._inner.execute(step, start, until)
        outcome.seconds = outcome.now - start
        self._due = outcome.now
        return outcome
