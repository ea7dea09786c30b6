"""The native engine tested: a run of Poisson requests through it, and their simulation.

A machine that shares its cores or its last cache with others changes its speed by a third from one second to
the next, so the run halts every so often, its clock with it, while a second engine takes a few of the steps
that are fitted: both see the same machine, and the simulation's changes its pace as these steps did.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from membound.costs.deployment import Deployment
from membound.costs.folded_plain import fold
from membound.costs.this_machine import ENGINE
from membound.errors import RunError
from membound.executors.predicted import PredictedExecutor, StepSeconds
from membound.measuring.neighbours import Neighbours
from membound.measuring.speed import SpeedTest, made_up
from membound.scoreboard.this_machine import (
    RUNNING,
    STEP_TOKENS,
    Sample,
    Timed,
    chunks_of,
    gathered,
    predicted_s,
    steps_of_a_round,
)
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

PROMPT, OUTPUT, COUNT = 128, 48, 100  # tokens and requests of the test
TURN_S, BESIDE_S = 0.25, 0.5  # of the run, then of the steps that are fitted, in turns


@dataclass(frozen=True)
class Pace:
    """Of a machine over a run: factors of a step's seconds at some moments, linear between."""

    moments: tuple[float, ...] = (0.0,)
    factors: tuple[float, ...] = (1.0,)

    def at(self, moment: float) -> float:
        return float(np.interp(moment, self.moments, self.factors))

    @property
    def spread(self) -> float:
        """Standard deviation of the factors."""
        return statistics.pstdev(self.factors)


EVEN = Pace()


@dataclass(frozen=True)
class Test:
    """A run at a share of saturation: what was measured, and what its simulation says."""

    share: float
    rate: float
    measured: dict[str, float]  # tpot_s, ttft_p50_s, throughput
    predicted: dict[str, float]
    unsteady: float  # standard deviation of the machine's pace over the run
    others: float  # share of the processor that other work took
    priced: float  # what the very steps of the run are predicted to take, beside what they took: relatively


class Beside:
    """Rounds of steps on the second engine, a few at a time, between the run's."""

    def __init__(self, test: SpeedTest, read: Callable[[], float] = time.perf_counter) -> None:
        self._test = test
        self._read = read
        self._rounds: list[list[Timed]] = []  # the last is under way
        self._turns: list[tuple[float, list[tuple[int, int]]]] = []
        self._begin()

    def _begin(self) -> None:
        self._steps = steps_of_a_round(self._test, self._test.engines[1])
        self._rounds.append([])

    def _step(self) -> bool:
        """Whether the round had one left."""
        timed = next(self._steps, None)
        if timed is not None:
            self._rounds[-1].append(timed)
        return timed is not None

    def turn(self, now: float) -> None:
        """As many steps as fit, at a moment of the run."""
        end = self._read() + BESIDE_S
        self._turns.append((now, []))
        while self._read() < end:
            if self._step():
                self._turns[-1][1].append((len(self._rounds) - 1, len(self._rounds[-1]) - 1))
            else:
                self._begin()

    def finish(self) -> list[list[Sample]]:
        """All rounds, the last of them gone through to its end."""
        while self._step():
            pass
        return [gathered(timed) for timed in self._rounds]

    def pace(self) -> Pace:
        """Of the machine at a moment of the run, if all is done."""
        return pace_of([[seconds for seconds, _ in timed] for timed in self._rounds], self._turns)


Turn = tuple[float, Sequence[tuple[int, int]]]  # its moment, and which steps of which round it took


def pace_of(rounds: Sequence[Sequence[float]], turns: Sequence[Turn]) -> Pace:
    """How long each turn's steps took beside the same steps of the other rounds. Even where there was a
    single round: nobody knows.
    """
    seconds = np.array(rounds)
    taken = [(moment, steps) for moment, steps in turns if steps]
    if len(seconds) < 2 or not taken:
        return Pace()
    others = (seconds.sum(axis=0) - seconds) / (len(seconds) - 1)
    factors = [
        float(sum(seconds[at] for at in steps) / sum(others[at] for at in steps)) for _, steps in taken
    ]
    return Pace(tuple(moment for moment, _ in taken), tuple(factors))


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


def requests_at(rate: float, seed: int) -> list[Arrival]:
    """COUNT Poisson requests of one size."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, COUNT)
    return [Arrival(float(at), PROMPT, OUTPUT) for at in np.cumsum(gaps)]


@dataclass(frozen=True)
class Served:
    """A run of requests through the engine."""

    measured: dict[str, float]  # mean TPOT and median TTFT in seconds, output tokens per second
    others: float  # share of the processor that other work took meanwhile; 0 where the system does not tell
    steps: list[Sample]
    beside: list[list[Sample]]  # rounds of the steps that are fitted, taken in turns with the run's
    pace: Pace

    def priced(self, asked: Deployment) -> float:
        """By how much the steps are predicted to take longer than they took."""
        return float(predicted_s(asked, self.steps).sum()) / sum(one.seconds for one in self.steps) - 1


def served(test: SpeedTest, arrivals: Sequence[Arrival]) -> Served:
    """What the requests felt, the steps that they took, and the machine beside them."""
    neighbours, beside = Neighbours(), Beside(test)
    measured, steps = _serve(test.engine, Halting(beside.turn), arrivals, test.vocabulary)
    others = neighbours.share() or 0.0
    return Served(measured, others, steps, beside.finish(), beside.pace())


def simulated(asked: Deployment, arrivals: Sequence[Arrival], pace: Pace = EVEN) -> dict[str, float]:
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

    def turn(self) -> None:
        """Between two steps."""
        ...

    def wait(self, moment: float) -> None:
        """Until then, or less long."""
        ...


class Halting:
    """The wall's seconds, without those of other work that is done every so often."""

    def __init__(
        self,
        work: Callable[[float], None],
        read: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._work = work
        self._read = read
        self._sleep = sleep
        self._zero = read()
        self._next = TURN_S

    def now(self) -> float:
        return self._read() - self._zero

    def turn(self) -> None:
        halted = self.now()
        if halted >= self._next:
            self._work(halted)
            self._zero = self._read() - halted
            self._next = halted + TURN_S

    def wait(self, moment: float) -> None:
        self._sleep(max(0.0, min(moment, self._next) - self.now()))


class Simulated(Virtual):
    def turn(self) -> None:
        pass

    def wait(self, moment: float) -> None:
        self.reach(moment)


def _serve(
    engine: Engine, clock: RunClock, arrivals: Sequence[Arrival], vocabulary: int
) -> tuple[dict[str, float], list[Sample]]:
    """What the requests felt, and the steps."""
    places: dict[Request, int] = {}
    first, last = np.zeros(len(arrivals)), np.zeros(len(arrivals))
    seen: set[int] = set()
    steps: list[Sample] = []
    while len(places) < len(arrivals) or engine.busy:
        clock.turn()
        while len(places) < len(arrivals) and arrivals[len(places)].time_s <= clock.now():
            place = len(places)
            prompt = made_up(PROMPT, vocabulary, 1000 + place)
            places[engine.add(prompt, Sampling(max_tokens=OUTPUT, ignore_eos=True))] = place
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
    sent = np.array([arrival.time_s for arrival in arrivals])
    felt = {
        "tpot_s": float((last - first).mean()) / (OUTPUT - 1),
        "ttft_p50_s": percentile((first - sent).tolist(), 0.5),
        "throughput": len(arrivals) * OUTPUT / float(last.max() - sent.min()),
    }
    return felt, steps
