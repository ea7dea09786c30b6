"""The steps of a closed loop, recorded once, from which TTFT and TPOT follow for any speed of a step.

A closed loop without think time has no clock of its own: a request is sent when one ends, so which steps
run, and what is in them, does not depend on how long they take. The scheduler runs once and every step is
kept with its weight in each mean; the means are then sums over steps, linear in their seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from membound.costs.features import Features, Window
from membound.executors.predicted import Chunk, PredictedExecutor
from membound.models.operators import Chunk as Work
from membound.serving.request import Request
from membound.serving.scheduler import Scheduler

Vector = NDArray[np.float64]
JITTER = 4


@dataclass(frozen=True)
class Loop:
    """What a load tester does: `concurrency` requests under way at any time."""

    concurrency: int
    lengths: Sequence[tuple[int, int]]  # (prompt, output) tokens of each request

    @staticmethod
    def uniform(concurrency: int, prompt: int, output: int, count: int, spread: float, seed: int = 0) -> Loop:
        """`count` requests of lengths drawn evenly between (1 - spread) and the whole of the nominal ones."""
        random = np.random.default_rng(seed)
        low = np.maximum(1, np.round((1 - spread) * np.array([prompt, output]))).astype(int)
        drawn = random.integers(low, np.array([prompt, output]) + 1, size=(count, 2))
        return Loop(concurrency, [(int(p), int(o)) for p, o in drawn])


@dataclass(frozen=True)
class Recording:
    """Steps by what they hold, one entry for runs of like steps.

    `features` (entries, features) are those of one step; `times` how often it ran. `begin`, `first` and
    `last` give each request's arrival, first and last token as counts of entries.
    """

    features: Vector
    times: Vector
    begin: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    outputs: Vector

    def latencies(self, seconds: Vector) -> tuple[Vector, Vector]:
        """TTFT and TPOT of each request (NaN for a single token), if entries' steps take these seconds."""
        clock = np.concatenate([[0.0], np.cumsum(seconds * self.times)])
        ttft = clock[self.first] - clock[self.begin]
        with np.errstate(divide="ignore", invalid="ignore"):
            tpot = (clock[self.last] - clock[self.first]) / (self.outputs - 1)
        return ttft, tpot

    def weights(self) -> tuple[Vector, Vector]:
        """Of each entry's step seconds in the mean TTFT and the mean TPOT."""
        many = self.outputs > 1
        waiting = _covered(len(self.times), self.begin, self.first, np.ones(len(many)) / len(many))
        share = 1 / (self.outputs[many] - 1) / max(1, many.sum())
        decoding = _covered(len(self.times), self.first[many], self.last[many], share)
        return waiting * self.times, decoding * self.times


def _covered(count: int, start: NDArray[np.int64], end: NDArray[np.int64], weight: Vector) -> Vector:
    """The sum of weights over the ranges [start, end) that cover each entry."""
    change = np.zeros(count + 1)
    np.add.at(change, start, weight)
    np.add.at(change, end, -weight)
    return np.cumsum(change)[:-1]


class _Recorder:
    """Seconds that are entries: a cost for the predicted executor that keeps what it is asked."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.kept: list[Vector] = []
        self.times: list[int] = []

    def seconds(self, sequences: int, context: Mapping[Window, int], chunks: Iterable[Chunk] = ()) -> float:
        self.kept.append(self.features.decoding(sequences, context, [Work(*chunk) for chunk in chunks]))
        self.times.append(1)
        return 1.0

    def run(
        self,
        sequences: int,
        context: Mapping[Window, int],
        growth: Mapping[Window, int],
        now: float,
        until: float,
        most: int,
    ) -> tuple[float, int]:
        """One entry for all repetitions, with the context of the middle one."""
        middle = {w: total + (most - 1) * growth[w] // 2 for w, total in context.items()}
        now += self.seconds(sequences, middle)
        self.times[-1] = most
        return now, most


def record(
    loop: Loop, features: Features, blocks: int, max_step_tokens: int, max_running: int, mixed: bool = True
) -> Recording:
    """Runs the scheduler through a closed loop; InputError if a request could never fit."""
    scheduler = Scheduler(
        blocks,
        max_step_tokens=max_step_tokens,
        max_running=max_running,
        windows=[window for window in features.windows if window is not None],
        prefix_reuse=False,
        prompts_first=not mixed,
    )
    recorder = _Recorder(features)
    executor = PredictedExecutor(recorder)
    requests: list[Request] = []
    coming: list[tuple[int, Request]] = []  # (steps until it is there, request)
    random = Random(0)

    def send(delay: int) -> None:
        if len(requests) < len(loop.lengths):
            prompt, output = loop.lengths[len(requests)]
            requests.append(Request(len(requests), max_tokens=output, prompt_length=prompt))
            coming.append((delay, requests[-1]))

    def arrive(now: float) -> None:
        """Those that are due; the others come a step nearer."""
        due = [request for steps, request in coming if not steps]
        coming[:] = [(steps - 1, request) for steps, request in coming if steps]
        for request in due:
            request.arrival = now
            scheduler.add(request)
            executor.expect(request, loop.lengths[int(str(request.id))][1])

    for _ in range(loop.concurrency):
        send(0)
    now = 0.0
    while scheduler.busy or coming:
        arrive(now)
        while not scheduler.busy:
            arrive(now)
        step = scheduler.schedule()
        assert step is not None
        if coming:
            step.repeat = 1
        outcome = executor.execute(step, now, float("inf"))
        now = outcome.now
        for _ in scheduler.commit(outcome):
            send(random.randrange(JITTER))

    def places(times: Iterable[float | None]) -> NDArray[np.int64]:
        return np.array([int(t) for t in times if t is not None], dtype=np.int64)

    return Recording(
        np.array(recorder.kept),
        np.array(recorder.times, dtype=np.float64),
        places(r.arrival for r in requests),
        places(r.first_token for r in requests),
        places(r.last_token for r in requests),
        np.array([output for _, output in loop.lengths[: len(requests)]], dtype=np.float64),
    )
