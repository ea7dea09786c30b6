"""What happens in a replica, summed while it happens, so that a million requests need little memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from membound.serving.scheduler import Scheduler
from membound.serving.step import Outcome, Step

BINS: Final = 1000  # of gaps between tokens, for each factor of e: percentiles to a twentieth of a percent
MOMENTS: Final = 512  # at most so many are kept of a run
COLUMNS: Final = 7  # numbers kept of a step until it is summed up
FULL: Final = 4096 * COLUMNS

Vector: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moment:
    """A step as it was at a moment; moments are evenly spaced in time, so each stands for an equal share."""

    time_s: float
    until_s: float  # when the step, or its last repetition, ended
    running: int
    waiting: int
    used_share: float  # of the blocks
    decodes: int
    context: dict[int | None, int]
    chunks: tuple[tuple[int, int], ...]  # new tokens, cached tokens


class Watch:
    """Sums over the steps of one replica, complete after `close`."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.steps = 0
        self.busy_s = 0.0
        self.decoded_tokens = 0  # by caught-up requests
        self.chunk_tokens = 0
        self.used_block_s = 0.0
        self.most_used = 0  # blocks
        self.held_s: dict[str, float] = {}  # seconds in which requests waited, by what they waited for
        self.gaps: dict[int, int] = {}  # of ITL: bin -> tokens
        self.gap_s = 0.0
        self.moments: list[Moment] = []
        self.spacing_s = 0.05
        self._next_moment = 0.0
        self._seen: list[float] = []  # COLUMNS of the steps that are not summed up yet
        self._sampled_at: list[tuple[float, int]] = []  # of requests whom a step of prompts alone held up

    def see(self, now: float, step: Step, outcome: Outcome, scheduler: Scheduler) -> None:
        """A step that began at `now` and will have come to `outcome`."""
        times, end, decodes = outcome.times, outcome.now, step.decodes
        used = self.blocks - scheduler.pool.free
        decoded = gaps = decodes * times
        if outcome.counts:  # drafts were verified: one event for each request, with several tokens
            decoded, gaps = sum(outcome.counts.values()), len(outcome.counts)
        elif not decodes and len(step.running) > len(step.chunks):
            self._stall(now, step, outcome)
        elif self._sampled_at:
            self._after_a_stall(now + (end - now) / times)
            gaps -= decodes
        seen = self._seen
        seen += (now, end, times, used, step.tokens - decodes, decoded, gaps)
        if len(seen) >= FULL:
            self._sum_up()
        if scheduler.waiting:
            what = _held_by(scheduler, step.tokens)
            self.held_s[what] = self.held_s.get(what, 0.0) + (end - now)
        if end >= self._next_moment:
            self._remember(step, end, used, len(scheduler.waiting))

    def close(self) -> None:
        """All steps have been seen."""
        self._sum_up()

    def _sum_up(self) -> None:
        """Many steps at once, as arrays."""
        if not self._seen:
            return
        now, end, times, used, tokens, decoded, gaps = np.array(self._seen, np.float64).reshape(-1, COLUMNS).T
        self._seen.clear()
        seconds = end - now
        self.steps += int(times.sum())
        self.busy_s += float(seconds.sum())
        self.used_block_s += float(used @ seconds)
        self.most_used = max(self.most_used, int(used.max()))
        self.chunk_tokens += int(tokens.sum())
        self.decoded_tokens += int(decoded.sum())
        some = gaps > 0
        self._gap((seconds / times)[some], gaps[some])

    def _gap(self, seconds: Vector, counts: Vector) -> None:
        """So many gaps between tokens of so many seconds each."""
        self.gap_s += float(seconds @ counts)
        if not len(seconds):
            return
        places = (np.log(seconds) * BINS).astype(np.int64)
        first = int(places.min())
        tokens = np.bincount(places - first, counts)
        for place in np.flatnonzero(tokens).tolist():
            self.gaps[first + place] = self.gaps.get(first + place, 0) + int(tokens[place])

    def _stall(self, now: float, step: Step, outcome: Outcome) -> None:
        """Prompts alone: those that decode wait, and those that catch up begin to."""
        if not self._sampled_at:
            self._sampled_at.append((now, len(step.running) - len(step.chunks)))
        caught_up = sum(request.computed + count == request.length for request, count in step.chunks)
        self._sampled_at.append((outcome.now, caught_up))

    def _after_a_stall(self, end: float) -> None:
        since, counts = np.array(self._sampled_at).T
        self._gap((end - since)[counts > 0], counts[counts > 0])
        self._sampled_at.clear()

    def _remember(self, step: Step, until: float, used: int, waiting: int) -> None:
        chunks = tuple((count, request.computed) for request, count in step.chunks)
        self.moments.append(
            Moment(
                self._next_moment, until, len(step.running), waiting, used / self.blocks, step.decodes,
                step.context, chunks,
            )
        )  # fmt: skip
        if len(self.moments) > MOMENTS:
            self.spacing_s *= 2
            kept = {int(moment.time_s / self.spacing_s): moment for moment in reversed(self.moments)}
            self.moments = [kept[place] for place in sorted(kept)]
        self._next_moment = self.spacing_s * (int(until / self.spacing_s) + 1)


def gap_percentiles(gaps: Mapping[int, int], shares: tuple[float, ...]) -> list[float]:
    """Of binned gaps, in seconds: the middle of the bin in which each share of the tokens is reached."""
    total, reached, found = sum(gaps.values()), 0, []
    wanted = list(shares)
    for place in sorted(gaps):
        reached += gaps[place]
        while wanted and reached >= wanted[0] * total:
            found.append(exp((place - 0.5 if place <= 0 else place + 0.5) / BINS))
            wanted.pop(0)
    return found


def _held_by(scheduler: Scheduler, tokens: int) -> str:
    """Why the first in line does not run beside a step of so many tokens."""
    if len(scheduler.running) >= scheduler.max_running:
        return "max-num-seqs"
    if tokens >= scheduler.max_step_tokens:
        return "max-batched-tokens"
    return "kv-cache"
