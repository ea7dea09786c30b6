"""What ran and waited over the time of a run, all replicas together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from membound.simulation.watch import Moment, Watch


@dataclass(frozen=True)
class Point:
    """Requests that run and wait, and the share of the KV cache in use, at a moment."""

    time_s: float
    running: int
    waiting: int
    used_share: float


def timeline(watches: Sequence[Watch], end_s: float, points: int = 240) -> list[Point]:
    """Evenly spaced points from 0 to `end_s`; each replica as it was when last looked at."""
    times = [[moment.time_s for moment in watch.moments] for watch in watches]
    found = []
    for number in range(points):
        now = end_s * number / (points - 1)
        seen = [
            moment
            for watch, at in zip(watches, times, strict=True)
            if (moment := _at(watch, at, now)) is not None
        ]
        found.append(
            Point(
                now,
                sum(moment.running for moment in seen),
                sum(moment.waiting for moment in seen),
                sum(moment.used_share for moment in seen) / len(watches),
            )
        )
    return found


def _at(watch: Watch, times: Sequence[float], now: float) -> Moment | None:
    """The last moment seen, unless nothing ran since."""
    place = bisect_right(times, now) - 1
    if place < 0:
        return None
    moment = watch.moments[place]
    return moment if now <= moment.until_s + watch.spacing_s else None
