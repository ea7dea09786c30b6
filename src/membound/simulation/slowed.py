"""Steps that take longer, or less long, than predicted: a run at the ends of an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from membound.executors.predicted import Chunk, StepSeconds, Window


class Slowed:
    """Another cost, each step of which takes `pace` times as long."""

    def __init__(self, cost: StepSeconds, pace: float) -> None:
        self._cost = cost
        self._pace = pace

    def seconds(self, sequences: int, context: Mapping[Window, int], chunks: Sequence[Chunk] = ()) -> float:
        return self._pace * self._cost.seconds(sequences, context, chunks)

    def run(
        self,
        sequences: int,
        context: Mapping[Window, int],
        growth: Mapping[Window, int],
        now: float,
        until: float,
        most: int,
    ) -> tuple[float, int]:
        left = (until - now) / self._pace
        elapsed, times = self._cost.run(sequences, context, growth, 0.0, left, most)
        return now + self._pace * elapsed, times
