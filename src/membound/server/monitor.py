"""Steps against the roof, as they come: totals for the metrics, and the latest as points for the page."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from membound.costs.roof import Roof
from membound.serving.engine import Engine, StepRecord

POINTS = 400  # steps that the page shows
BEHIND = 2000  # steps that one look takes in; older ones it has missed count as the average of these


class Meter(Protocol):
    """What a step took: `measuring.step_work.StepWork`, or a prediction's."""

    def of(self, record: StepRecord) -> tuple[float, float]:
        """(bytes, FLOPs)."""
        ...


@dataclass(frozen=True, slots=True)
class Point:
    """One step. Seconds on the engine's clock."""

    number: int
    began: float
    seconds: float
    bytes: float
    flops: float
    prefill: float  # share of its tokens that belong to prompts: 0 … 1
    tokens: int
    share: float  # of the limit


class Monitor:
    """Looks at the engine's log when asked to. The event loop alone does; the engine never waits for it."""

    def __init__(self, engine: Engine, meter: Meter, roof: Roof) -> None:
        self.engine = engine
        engine.log = deque(engine.log, maxlen=BEHIND)  # nobody else reads it in a server
        self.meter = meter
        self.roof = roof
        self.points: deque[Point] = deque(maxlen=POINTS)
        self.steps = 0
        self.seconds = 0.0
        self.bytes = 0.0
        self.flops = 0.0
        self.limit_s = 0.0  # the least time for all of these
        self.latest = 0.0  # share of the limit of the steps of the last look

    def look(self, each: Callable[[StepRecord], None] = lambda record: None) -> None:
        """Take in the steps since the last look."""
        engine = self.engine
        count = engine.steps - self.steps
        if not count:
            return
        log = list(engine.log)  # one atomic copy: the engine goes on appending
        fresh = list(islice(log, max(0, len(log) - min(count, BEHIND)), None))
        number = self.steps + count - len(fresh)
        seconds = bytes_ = flops = limit = 0.0
        for record in fresh:
            moved, done = self.meter.of(record)
            least = self.roof.least_s(moved, done)
            seconds += record.seconds
            bytes_ += moved
            flops += done
            limit += least
            prompt = sum(new for new, _ in record.chunks) / record.tokens
            share = least / record.seconds if record.seconds > 0 else 0.0
            self.points.append(
                Point(number, record.began, record.seconds, moved, done, prompt, record.tokens, share)
            )
            number += 1
            each(record)
        scale = count / len(fresh)
        self.steps += count
        self.seconds += seconds * scale
        self.bytes += bytes_ * scale
        self.flops += flops * scale
        self.limit_s += limit * scale
        self.latest = limit / seconds if seconds else 0.0
