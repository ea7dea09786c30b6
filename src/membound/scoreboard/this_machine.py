"""The native engine on this machine as a row of the scoreboard: fitted from its own steps, then tested.

A step's parts each get a factor: what reads, what multiplies, what each weight costs to unpack however many
rows there are, what is fixed, attention. Then the kernels over rows get a factor for each number of rows that
was timed. The test is a run of Poisson requests through the engine and its simulation. A machine that shares
its cores or its last cache with others changes its speed by a third from one second to the next, so the run
halts every so often, its clock with it, while a second engine takes a few of the steps that are fitted: both
see the same machine, and the simulation's changes its pace as these steps changed theirs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np

from membound.costs.calibration import ByRows, fitted
from membound.costs.deployment import Deployment, deployment
from membound.costs.features import Vector
from membound.costs.folded_plain import fold
from membound.costs.this_machine import ENGINE, Parameters
from membound.errors import InputError, RunError
from membound.executors.predicted import PredictedExecutor, StepSeconds
from membound.hardware.probe import probe
from membound.measuring.neighbours import Neighbours
from membound.measuring.speed import SpeedTest, made_up
from membound.serving.clock import Virtual
from membound.serving.engine import Engine, StepRecord
from membound.serving.request import BLOCK_TOKENS, Request
from membound.serving.sampling import Sampling
from membound.serving.scheduler import Scheduler
from membound.serving.step import Outcome, Step
from membound.simulation.engines import EngineSettings, engine_settings
from membound.simulation.simulate import simulate
from membound.simulation.speculation import windows_of
from membound.workloads.arrivals import Arrival, Open
from membound.workloads.metrics import percentile

STEP_TOKENS, RUNNING = 512, 32  # of the engine, as `membound.LLM` starts it
SHORT = range(2, RUNNING + 1)  # prompts alone: as many rows as sequences decode together
LONG = (48, 64, 96, 128, 192, 256, 384, STEP_TOKENS)
SEVERAL = ((128, 128), (128,) * 3, (128,) * 4)  # prompts in one step: as many rows with less attention
AFTER = 5  # steps after a long prompt that are counted with it: they find the caches cold
TRAFFIC = (  # prompts that come together, and every how many steps, until RUNNING decode and end in turn
    ((16,), 2),
    ((64, 64), 4),
)
FAR, FEW = 448, 4  # tokens of longer prompts, and how many of these decode together
PLAUSIBLE = 4.0  # factors beyond which, or below whose inverse, a fit has explained a disturbance
MOST_UNPACK = 8.0  # likewise
WORST_FIT = 0.2  # median error of the steps
LEAST_FACTOR = 0.05  # of rows, where the fit would have it below: no kernel is for nothing
PRIORS = np.array([0.7, 0.7, 1.5, 1.5, 1.0, 1.0])  # of the logarithms of the factors
SIGMA = 0.02  # of a sample, relatively
SPREAD, JUMP = 0.5, 0.3  # by how much a factor of rows differs from one, and from those of rows beside it
PROMPT, OUTPUT, COUNT = 128, 48, 100  # tokens and requests of the test
TURN_S, BESIDE_S = 0.25, 0.5  # of the run, then of the steps that are fitted, in turns


Chunks = tuple[tuple[int, int], ...]  # of a step: new tokens, cached tokens


@dataclass(frozen=True)
class Sample:
    """A step, or one with long prompts and the few that came after it."""

    steps: tuple[Chunks, ...]
    seconds: float

    @property
    def rows(self) -> int:
        """Of its first step."""
        return sum(new for new, _ in self.steps[0])


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


Timed = tuple[float, StepRecord]  # seconds of a step, and what it was


def time_steps(test: SpeedTest) -> list[Sample]:
    """One round through whole steps of the engine: prompts alone, and in traffic with what decodes."""
    return gathered([*steps_of_a_round(test, test.engine)])


def steps_of_a_round(test: SpeedTest, engine: Engine) -> Iterator[Timed]:
    for length in SHORT:
        yield from test.staggered([[length]], 1, 1, engine=engine)
    for prompts in (*((length,) for length in LONG), *SEVERAL):
        yield from test.staggered([prompts], 1, 2 * AFTER, engine=engine)
    for prompts, every in TRAFFIC:
        together = RUNNING // len(prompts)
        yield from test.staggered([prompts] * together, every, together * every, engine=engine)
    yield from test.staggered([(FAR,)] * FEW, 1, 4 * FEW, engine=engine)


class Beside:
    """Rounds of steps on the second engine, a few at a time, between the run's."""

    def __init__(self, test: SpeedTest) -> None:
        self._test = test
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
        end = time.perf_counter() + BESIDE_S
        self._turns.append((now, []))
        while time.perf_counter() < end:
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


def gathered(timed: Sequence[tuple[float, StepRecord]]) -> list[Sample]:
    """Steps as samples: up to AFTER that decode after long prompts belong to these; after short ones, which
    many such steps share, they are left out.
    """
    found: list[Sample] = []
    cold = 0  # steps from now on
    for seconds, record in timed:
        chunks = chunks_of(record)
        if record.chunks:
            found.append(Sample((chunks,), seconds))
            cold = AFTER
            continue
        if not cold:
            found.append(Sample((chunks,), seconds))
        elif found[-1].rows >= LONG[0]:
            last = found.pop()
            found.append(Sample((*last.steps, chunks), last.seconds + seconds))
        cold = max(0, cold - 1)
    return found


def chunks_of(record: StepRecord) -> Chunks:
    return (*record.chunks, *((1, cached) for cached in record.decodes))


def averaged(rounds: Sequence[Sequence[Sample]]) -> list[Sample]:
    """The mean of each step over the rounds, and not the median: what slows the machine for a third of the
    time slows a third of a run's steps.
    """
    return [
        replace(same[0], seconds=statistics.fmean(sample.seconds for sample in same))
        for same in zip(*rounds, strict=True)
    ]


def predicted_s(asked: Deployment, samples: Sequence[Sample]) -> Vector:
    """Shape (samples,)."""
    cost = asked.cost
    found = np.column_stack([cost.features.of(step) for sample in samples for step in sample.steps])
    return np.add.reduceat(cost.seconds(found), _starts(samples))


def _starts(samples: Sequence[Sample]) -> list[int]:
    """Places of the samples' first steps among all steps."""
    return [0, *accumulate(len(sample.steps) for sample in samples[:-1])]


def fit_steps(asked: Deployment, samples: Sequence[Sample], usual: Parameters) -> Parameters:
    """The parameters that explain the samples best, held by priors around what is usual: factors first,
    then what is left by rows.
    """
    return fit_rows(asked, samples, fit_factors(asked, samples, usual))


def fit_factors(asked: Deployment, samples: Sequence[Sample], usual: Parameters) -> Parameters:
    """Of all parts of a step."""
    shipped = asked.calibration
    measured = np.array([sample.seconds for sample in samples])

    def of(logs: Vector) -> Parameters:
        memory, math, unpack, fixed, attention, prefill = np.exp(logs).tolist()
        return Parameters(memory, usual.math * math, usual.unpack * unpack, fixed, attention, prefill)

    def residuals(logs: Vector) -> Vector:
        tried = replace(asked, calibration=of(logs).applied(shipped))
        off = np.log(predicted_s(tried, samples) / measured) / SIGMA
        return np.concatenate([off, logs / PRIORS])

    logs: Vector = np.zeros(len(PRIORS))
    damping = 1.0
    present = residuals(logs)
    for _ in range(40):
        slopes = np.column_stack(
            [(residuals(logs + 1e-4 * unit) - present) / 1e-4 for unit in np.eye(len(logs))]
        )
        square = slopes.T @ slopes
        move = np.linalg.solve(square + damping * np.diag(np.diag(square)), -slopes.T @ present)
        move = np.clip(move, -0.5, 0.5)  # not to where shares of the roofs are one, and nothing has a slope
        tried = residuals(logs + move)
        if tried @ tried < present @ present:
            gained = present @ present - tried @ tried
            logs, present, damping = logs + move, tried, damping / 3
            if gained < 1e-6 * (present @ present):
                break
        else:
            damping *= 4
            if damping > 1e9:
                break
    return of(logs)


def fit_rows(asked: Deployment, samples: Sequence[Sample], factors: Parameters) -> Parameters:
    """Factors of the kernels over each number of rows, and with them those of attention. Linear: the seconds
    of a step are those of its rows, of the rows that sample, of both kinds of attention, and the rest.
    """
    steps = [step for sample in samples for step in sample.steps]
    found = np.column_stack([asked.cost.features.of(step) for step in steps])
    all_rows, sampled = (*range(1, RUNNING + 1), *LONG), tuple(range(1, RUNNING + 1))

    def seconds(
        of_rows: float = 0.0, of_sampled: float = 0.0, attention: float = 1.0, prefill: float = 1.0
    ) -> Vector:
        flat = replace(
            factors,
            attention=factors.attention * attention,
            prefill=factors.prefill * prefill,
            by_rows=ByRows((1,), (of_rows,)),
            by_sampled=ByRows((1,), (of_sampled,)),
        )
        return replace(asked, calibration=flat.applied(asked.calibration)).cost.seconds(found)

    rest = seconds()
    of_rows, of_sampled = seconds(of_rows=1.0) - rest, seconds(of_sampled=1.0) - rest
    attending = np.column_stack([seconds(attention=2.0) - rest, seconds(prefill=2.0) - rest])
    rest = rest - attending.sum(axis=1)
    at_rows = weights(all_rows, found[asked.cost.features.place("rows")]) * of_rows[:, None]
    at_sampled = weights(sampled, found[asked.cost.features.place("sampled")]) * of_sampled[:, None]
    measured = np.array([sample.seconds for sample in samples])
    off = SIGMA * measured
    ends = len(all_rows), len(all_rows) + len(sampled)
    unit = np.eye(ends[1] + 2)
    beside = np.delete(np.diff(unit, axis=0), [ends[0] - 1, ends[1] - 1, ends[1]], axis=0)
    left = [
        np.add.reduceat(np.hstack([at_rows, at_sampled, attending]), _starts(samples)) / off[:, None],
        unit / SPREAD,
        beside / JUMP,
    ]
    right = [
        (measured - np.add.reduceat(rest, _starts(samples))) / off,
        np.ones(len(unit)) / SPREAD,
        np.zeros(len(beside)),
    ]
    solved = np.linalg.lstsq(np.vstack(left), np.concatenate(right), rcond=None)[0]
    solved = np.maximum(solved, LEAST_FACTOR).tolist()
    attention, prefill = solved[ends[1] :]
    return replace(
        factors,
        attention=factors.attention * attention,
        prefill=factors.prefill * prefill,
        by_rows=ByRows(all_rows, tuple(solved[: ends[0]])),
        by_sampled=ByRows(sampled, tuple(solved[ends[0] : ends[1]])),
    )


def weights(measured: Sequence[int], rows: Vector) -> Vector:
    """How much the factor at each measured number counts at `rows`: shape (steps, measured)."""
    return np.stack([np.interp(rows, measured, unit) for unit in np.eye(len(measured))], axis=1)


def refuse_implausible(
    asked: Deployment, samples: Sequence[Sample], found: Parameters, usual: Parameters
) -> None:
    """RunError where the steps' times are not those of this engine alone."""
    fitted_here = replace(asked, calibration=found.applied(asked.calibration))
    off = median_error(fitted_here, samples)
    factors = {"memory": found.memory, "math": found.math / usual.math}
    wrong = [
        f"{name} at {value:.2g} times" for name, value in factors.items()
        if not 1 / PLAUSIBLE <= value <= PLAUSIBLE
    ]  # fmt: skip
    if found.unpack > MOST_UNPACK * usual.unpack:
        wrong.append(f"{found.unpack:.0f} operations to unpack a weight")
    if off > WORST_FIT:
        wrong.append(f"steps that are off by {off:.0%} after the fit")
    if wrong:
        raise RunError(
            f"the steps give {', '.join(wrong)}: other work took part of the machine; end it and run"
            " `membound calibrate this` again (nothing was kept)"
        )


def median_error(asked: Deployment, samples: Sequence[Sample]) -> float:
    measured = np.array([sample.seconds for sample in samples])
    return float(np.median(np.abs(predicted_s(asked, samples) / measured - 1)))


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

    def __init__(self, work: Callable[[float], None]) -> None:
        self._work = work
        self._zero = time.perf_counter()
        self._next = TURN_S

    def now(self) -> float:
        return time.perf_counter() - self._zero

    def turn(self) -> None:
        halted = self.now()
        if halted >= self._next:
            self._work(halted)
            self._zero = time.perf_counter() - halted
            self._next = halted + TURN_S

    def wait(self, moment: float) -> None:
        time.sleep(max(0.0, min(moment, self._next) - self.now()))


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


def this_deployment(path: Path, threads: int | None = None) -> Deployment:
    """The model under this package's engine on this machine, whose roofs are probed now."""
    if path.suffix.lower() != ".gguf":
        raise InputError(f"{path}: calibrate this times a GGUF file; `membound pull smollm2` brings one")
    probe(threads=threads)
    start = Parameters().applied(fitted())
    return deployment(str(path), "this", tp=1, engine=ENGINE, calibration=start, threads=threads)
