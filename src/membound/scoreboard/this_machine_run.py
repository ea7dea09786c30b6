"""The native engine tested: runs of Poisson requests through it, and their simulation.

A machine that shares its cores or its last cache with others changes its speed by a fifth within tenths of
a second, so a run halts after each step, its clock with it, while a second engine goes on with other requests
of the same kind for as long: both see the same machine. The simulation's goes at the pace of that engine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from membound.costs.deployment import Deployment
from membound.costs.features import Vector
from membound.costs.folded_plain import fold
from membound.costs.this_machine import ENGINE
from membound.errors import RunError
from membound.executors.predicted import PredictedExecutor, StepSeconds
from membound.measuring.neighbours import Neighbours
from membound.measuring.speed import SpeedTest, made_up
from membound.scoreboard.this_machine import RUNNING, STEP_TOKENS, Sample, chunks_of, predicted_s
from membound.serving.clock import Virtual
from membound.serving.engine import Engine
from membound.serving.request import BLOCK_TOKENS, Request
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler
from membound.serving.step import Outcome, Step
from membound.simulation.engines import EngineSettings, engine_settings
from membound.simulation.simulate import simulate
from membound.simulation.speculation import windows_of
from membound.workloads.arrivals import Arrival, Open
from membound.workloads.metrics import percentile

PROMPT, OUTPUT, COUNT = 128, 48, 100  # tokens and requests of a run
BESIDE_SEED = 1000  # and on: of what runs beside; a run's own seeds are below
PACE_S = 0.3  # before and after a moment, from which on steps say nothing of the machine's pace at it


@dataclass(frozen=True)
class Pace:
    """Of a machine over a run: factors of a step's seconds at some moments, linear between."""

    moments: tuple[float, ...] = (0.0,)
    factors: tuple[float, ...] = (1.0,)

    def at(self, moment: float) -> float:
        return float(np.interp(moment, self.moments, self.factors))


EVEN = Pace()


def pace_of(moments: Sequence[float], seconds: Vector, predicted: Vector) -> Pace:
    """How long steps at some moments, in order, took beside what they are predicted to. Those near a moment
    say the most of it: what single steps vary by would have queues grow that did not.
    """
    at = np.array(moments)
    known: dict[float, float] = {}
    for moment in np.arange(0.0, at.max(initial=0.0) + PACE_S, PACE_S / 6).tolist():
        near = slice(*np.searchsorted(at, (moment - PACE_S, moment + PACE_S)))
        weights = np.maximum(0.0, 1 - np.abs(at[near] - moment) / PACE_S)
        if (expected := weights @ predicted[near]) > 0:
            known[moment] = float(weights @ seconds[near] / expected)
    return Pace(tuple(known), tuple(known.values())) if known else EVEN


@dataclass(frozen=True)
class Felt:
    """What the requests of a run felt."""

    tpot_s: list[float]
    ttft_s: list[float]
    seconds: float  # from the first one sent to the last token


def figures(runs: Sequence[Felt]) -> dict[str, float]:
    """Mean TPOT and median TTFT in seconds, and output tokens per second, of the requests of all runs."""
    return {
        "tpot_s": statistics.fmean(one for run in runs for one in run.tpot_s),
        "ttft_p50_s": percentile([one for run in runs for one in run.ttft_s], 0.5),
        "throughput": sum(len(run.tpot_s) for run in runs) * OUTPUT / sum(run.seconds for run in runs),
    }


@dataclass(frozen=True)
class Test:
    """Runs at a share of saturation: what was measured, and what their simulation says."""

    share: float
    rate: float
    measured: dict[str, float]  # tpot_s, ttft_p50_s, throughput
    predicted: dict[str, float]
    unsteady: float  # standard deviation of the machine's pace over the runs
    others: float  # share of the processor that other work took
    priced: float  # what the very steps of the runs are predicted to take, beside what they took: relatively


class Beside:
    """Poisson requests through the second engine, each of its steps between two of the run's."""

    def __init__(
        self, test: SpeedTest, rate: float, seed: int, read: Callable[[], float] = time.perf_counter
    ) -> None:
        self._test = test
        self._read = read
        self._arrivals = poisson(rate, seed)
        self._next = next(self._arrivals)
        self._clock = 0.0  # seconds of its steps; there is no waiting
        self._owed = 0.0
        self.moments: list[float] = []
        self.steps: list[Sample] = []

    def turn(self, now: float, busy: float) -> None:
        """Steps at a moment of the run whose last took `busy` seconds, until these have taken as long."""
        self._owed += busy
        while self._owed > 0:
            step = self._step()
            self._clock += step.seconds
            self._owed -= step.seconds
            self.moments.append(now)
            self.steps.append(step)

    def _step(self) -> Sample:
        engine = self._test.engines[1]
        if not engine.busy:
            self._clock = max(self._clock, self._next)
        while self._next <= self._clock:
            _add(engine, self._test.vocabulary, BESIDE_SEED + len(self.steps))
            self._next = next(self._arrivals)
        began = self._read()
        engine.step()
        return Sample((chunks_of(engine.log[-1]),), self._read() - began)

    def finish(self) -> None:
        """What is under way is carried out, and not kept."""
        while self._test.engines[1].busy:
            self._test.engines[1].step()


def settings_here(asked: Deployment) -> EngineSettings:
    """As this package's own engine is started."""
    return engine_settings(
        ENGINE,
        asked.cluster.accelerator,
        max_step_tokens=STEP_TOKENS,
        max_running=RUNNING,
        prefix_reuse=False,
    )


def saturation(asked: Deployment) -> float:
    """Requests of the test per second that the engine serves when they all come at once."""
    burst = [Arrival(0.0, PROMPT, OUTPUT) for _ in range(COUNT)]
    return simulate(asked, Open(lambda: iter(burst)), settings=settings_here(asked)).req_per_s


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Moments without end."""
    random, now = np.random.default_rng(seed), 0.0
    while True:
        now += float(random.exponential(1 / rate))
        yield now


def requests_at(rate: float, seed: int) -> list[Arrival]:
    """COUNT Poisson requests of one size."""
    return [Arrival(at, PROMPT, OUTPUT) for at, _ in zip(poisson(rate, seed), range(COUNT), strict=False)]


@dataclass(frozen=True)
class Served:
    """A run of requests through the engine."""

    arrivals: list[Arrival]
    felt: Felt
    others: float  # share of the processor that other work took meanwhile; 0 where the system does not tell
    steps: list[Sample]
    moments: list[float]  # of the run, at which each step beside it was taken
    beside: list[Sample]

    def pace(self, asked: Deployment) -> Pace:
        """Of the machine over the run, by what was taken beside it."""
        seconds = np.array([one.seconds for one in self.beside])
        return pace_of(self.moments, seconds, predicted_s(asked, self.beside))


def served(test: SpeedTest, rate: float, seed: int) -> Served:
    """What the requests felt, the steps that they took, and what was taken beside them."""
    arrivals = requests_at(rate, seed)
    neighbours, beside = Neighbours(), Beside(test, rate, BESIDE_SEED + seed)
    felt, steps = _serve(test.engine, Halting(beside.turn), arrivals, test.vocabulary)
    others = neighbours.share() or 0.0
    beside.finish()
    return Served(arrivals, felt, others, steps, beside.moments, beside.steps)


def simulated(asked: Deployment, arrivals: Sequence[Arrival], pace: Pace = EVEN) -> Felt:
    """The same of their simulation, on a machine whose speed may change."""
    settings, cost = settings_here(asked), fold(asked.cost)
    blocks = settings.max_running * -(-(PROMPT + OUTPUT) // BLOCK_TOKENS)
    scheduler = Scheduler(
        blocks,
        max_step_tokens=settings.max_step_tokens,
        max_running=settings.max_running,
        windows=[window for window in windows_of(cost) if window is not None],
        prefix_reuse=settings.prefix_reuse,
    )
    clock = Simulated()
    return _serve(Engine(scheduler, Paced(cost, pace), clock), clock, arrivals, 1000)[0]


def compared(asked: Deployment, share: float, rate: float, runs: Sequence[Served]) -> Test:
    """Runs beside their simulations."""
    paces = [run.pace(asked) for run in runs]
    steps = [step for run in runs for step in run.steps]
    return Test(
        share,
        rate,
        measured=figures([run.felt for run in runs]),
        predicted=figures(
            [simulated(asked, run.arrivals, pace) for run, pace in zip(runs, paces, strict=True)]
        ),
        unsteady=statistics.pstdev([factor for pace in paces for factor in pace.factors]),
        others=max(run.others for run in runs),
        priced=float(predicted_s(asked, steps).sum()) / sum(step.seconds for step in steps) - 1,
    )


class Paced:
    """Carries steps out in predicted seconds, each at the pace of its moment."""

    def __init__(self, cost: StepSeconds, pace: Pace) -> None:
        self._predicted = PredictedExecutor(cost, token=lambda request, n: 0)
        self._pace = pace

    def execute(self, step: Step, now: float, until: float) -> Outcome:
        """One step: there is no time for a second."""
        outcome = self._predicted.execute(step, now, now)
        return replace(outcome, now=now + (outcome.now - now) * self._pace.at(now))


class RunClock(Protocol):
    def now(self) -> float: ...

    def turn(self, busy: float) -> None:
        """After a step that took so many seconds."""
        ...

    def wait(self, moment: float) -> None: ...


class Halting:
    """The wall's seconds, without those of other work that is done after each step."""

    def __init__(
        self,
        work: Callable[[float, float], None],
        read: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._work = work
        self._read = read
        self._sleep = sleep
        self._zero = read()

    def now(self) -> float:
        return self._read() - self._zero

    def turn(self, busy: float) -> None:
        halted = self.now()
        self._work(halted, busy)
        self._zero = self._read() - halted

    def wait(self, moment: float) -> None:
        self._sleep(max(0.0, moment - self.now()))


class Simulated(Virtual):
    def turn(self, busy: float) -> None:
        pass

    def wait(self, moment: float) -> None:
        self.reach(moment)


def _serve(
    engine: Engine, clock: RunClock, arrivals: Sequence[Arrival], vocabulary: int
) -> tuple[Felt, list[Sample]]:
    """What the requests felt, and the steps."""
    places: dict[Request, int] = {}
    first, last = np.zeros(len(arrivals)), np.zeros(len(arrivals))
    seen: set[int] = set()
    steps: list[Sample] = []
    while len(places) < len(arrivals) or engine.busy:
        while len(places) < len(arrivals) and arrivals[len(places)].time_s <= clock.now():
            place = len(places)
            places[_add(engine, vocabulary, place)] = place
        if not engine.busy:
            clock.wait(arrivals[len(places)].time_s)
            continue
        began = clock.now()
        events = engine.step()
        now = clock.now()
        steps.append(Sample((chunks_of(engine.log[-1]),), now - began))
        for event in events:
            if event.error is not None:
                raise RunError(event.error)
            place = places[event.request]
            if event.token_ids and place not in seen:
                seen.add(place)
                first[place] = now
            last[place] = now
        clock.turn(now - began)
    sent = np.array([arrival.time_s for arrival in arrivals])
    felt = Felt(
        ((last - first) / (OUTPUT - 1)).tolist(),
        (first - sent).tolist(),
        float(last.max() - sent.min()),
    )
    return felt, steps


def _add(engine: Engine, vocabulary: int, seed: int) -> Request:
    """A request of the test."""
    prompt = made_up(PROMPT, vocabulary, seed)
    return engine.add(prompt, Sampling(max_tokens=OUTPUT, ignore_eos=True))
