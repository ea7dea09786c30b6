"""The native engine on this machine as a row of the scoreboard: fitted from its own steps, then tested.

A step's parts each get a factor: what reads, what multiplies, what each weight costs to unpack however many
rows there are, what is fixed. The test is a run of Poisson requests through the engine and its simulation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from membound.costs.calibration import fitted
from membound.costs.deployment import Deployment, deployment
from membound.costs.features import Vector
from membound.costs.this_machine import ENGINE, UNPACK, Parameters
from membound.errors import InputError, RunError
from membound.hardware.probe import probe
from membound.measuring.neighbours import Neighbours
from membound.measuring.speed import SpeedTest, made_up
from membound.serving.request import Request
from membound.serving.sampling import Sampling
from membound.simulation.engines import EngineSettings, engine_settings
from membound.simulation.simulate import simulate
from membound.workloads.arrivals import Arrival, Open
from membound.workloads.metrics import percentile

PROMPTS = (16, 32, 64, 128, 256, 512)
BATCHES = (1, 2, 4, 8, 16, 32)
DECODED = 24  # steps timed at each batch
BEHIND = (32, 128)  # prompts of the batches
STEP_TOKENS, RUNNING = 512, 32  # of the engine, as `membound.LLM` starts it
PLAUSIBLE = 4.0  # factors beyond which, or below whose inverse, a fit has explained a disturbance
MOST_UNPACK = 64.0
WORST_FIT = 0.2  # median error of the steps
PRIORS = np.array([0.7, 0.7, 1.5, 1.5])  # of the logarithms of the factors
PROMPT, OUTPUT, COUNT = 128, 48, 100  # tokens and requests of the test


@dataclass(frozen=True)
class Sample:
    """A step of `rows` single tokens after `context` cached ones each; context None: a prompt of `rows`."""

    rows: int
    context: int | None
    seconds: float


@dataclass(frozen=True)
class Test:
    """A run at a share of saturation: what was measured, and what its simulation says."""

    share: float
    rate: float
    measured: dict[str, float]  # tpot_s, ttft_p50_s, throughput
    predicted: dict[str, float]
    unsteady: float  # how far the machine was off itself, or how much of it others took: the larger


def time_steps(test: SpeedTest) -> list[Sample]:
    """One round through whole steps of the engine: prompts alone, and batches that decode."""
    found = []
    for length in PROMPTS:
        found.append(Sample(length, None, test.step_s([made_up(length, test.vocabulary)], 1)))
    for behind in BEHIND:
        for rows in BATCHES:
            prompts = [made_up(behind, test.vocabulary, row) for row in range(rows)]
            found.append(Sample(rows, behind + DECODED // 2, test.step_s(prompts, DECODED + 1)))
    return found


def typical(rounds: Sequence[Sequence[Sample]]) -> list[Sample]:
    """The median of each step over the rounds: a machine's speed drifts, and a neighbour comes and goes."""
    return [
        replace(same[0], seconds=statistics.median(sample.seconds for sample in same))
        for same in zip(*rounds, strict=True)
    ]


def drift(before: Sequence[Sequence[Sample]], after: Sequence[Sequence[Sample]]) -> float:
    """By how much the steps of later rounds take longer, or less long: relatively, in the median."""
    pairs = zip(typical(before), typical(after), strict=True)
    return abs(statistics.median(late.seconds / early.seconds for early, late in pairs) - 1)


def predicted_s(asked: Deployment, sample: Sample) -> float:
    if sample.context is None:
        return asked.cost.step_seconds([(sample.rows, 0)])
    return asked.cost.step_seconds([(1, sample.context)] * sample.rows)


def fit_steps(asked: Deployment, samples: Sequence[Sample]) -> Parameters:
    """The parameters that explain the samples best, held by priors around what was shipped."""
    shipped = asked.calibration

    def of(logs: Vector) -> Parameters:
        memory, math, unpack, fixed = np.exp(logs).tolist()
        return Parameters(memory, math, UNPACK * unpack, fixed)

    def residuals(logs: Vector) -> Vector:
        tried = replace(asked, calibration=of(logs).applied(shipped))
        off = [np.log(predicted_s(tried, sample) / sample.seconds) / 0.05 for sample in samples]
        return np.array([*off, *(logs / PRIORS)])

    logs: Vector = np.zeros(len(PRIORS))
    damping = 1.0
    present = residuals(logs)
    for _ in range(40):
        slopes = np.column_stack([(residuals(logs + 1e-4 * unit) - present) / 1e-4 for unit in np.eye(4)])
        square = slopes.T @ slopes
        move = np.linalg.solve(square + damping * np.diag(np.diag(square)), -slopes.T @ present)
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


def refuse_implausible(asked: Deployment, samples: Sequence[Sample], found: Parameters) -> None:
    """RunError where the steps' times are not those of this engine alone."""
    fitted_here = replace(asked, calibration=found.applied(asked.calibration))
    off = statistics.median(abs(predicted_s(fitted_here, one) / one.seconds - 1) for one in samples)
    factors = {"memory": found.memory, "math": found.math}
    wrong = [
        f"{name} at {value:.2g} times" for name, value in factors.items()
        if not 1 / PLAUSIBLE <= value <= PLAUSIBLE
    ]  # fmt: skip
    if found.unpack > MOST_UNPACK:
        wrong.append(f"{found.unpack:.0f} operations to unpack a weight")
    if off > WORST_FIT:
        wrong.append(f"steps that are off by {off:.0%} after the fit")
    if wrong:
        raise RunError(
            f"the steps give {', '.join(wrong)}: other work took part of the machine; end it and run"
            " `membound calibrate this` again (nothing was kept)"
        )


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


def served(test: SpeedTest, arrivals: Sequence[Arrival]) -> tuple[dict[str, float], float]:
    """What the requests felt (mean TPOT and median TTFT in seconds, output tokens per second), and the share
    of the processor that other work took meanwhile (0 where the system does not tell).
    """
    neighbours = Neighbours()
    sent, first, last = _serve(test, arrivals)
    measured = {
        "tpot_s": float((last - first).mean()) / (OUTPUT - 1),
        "ttft_p50_s": percentile((first - sent).tolist(), 0.5),
        "throughput": COUNT * OUTPUT / float(last.max() - sent.min()),
    }
    return measured, neighbours.share() or 0.0


def simulated(asked: Deployment, arrivals: Sequence[Arrival]) -> dict[str, float]:
    """The same of their simulation."""
    found = simulate(asked, Open(lambda: iter(arrivals)), settings=settings_here(asked))
    return {
        "tpot_s": float(np.nanmean(found.tpot_s)),
        "ttft_p50_s": percentile(found.ttft_s.tolist(), 0.5),
        "throughput": found.output_tok_per_s,
    }


def _serve(test: SpeedTest, arrivals: Sequence[Arrival]) -> tuple[Vector, Vector, Vector]:
    """When each request was due, had its first token, and its last; seconds from the beginning."""
    engine = test.engine
    places: dict[Request, int] = {}
    first, last = np.zeros(len(arrivals)), np.zeros(len(arrivals))
    seen: set[int] = set()
    began = time.perf_counter()
    sent = 0
    while sent < len(arrivals) or engine.busy:
        now = time.perf_counter() - began
        while sent < len(arrivals) and arrivals[sent].time_s <= now:
            prompt = made_up(PROMPT, test.vocabulary, 1000 + sent)
            places[engine.add(prompt, Sampling(max_tokens=OUTPUT, ignore_eos=True))] = sent
            sent += 1
        if not engine.busy:
            time.sleep(max(0.0, arrivals[sent].time_s - (time.perf_counter() - began)))
            continue
        events = engine.step()
        now = time.perf_counter() - began
        for event in events:
            if event.error is not None:
                raise RunError(event.error)
            place = places[event.request]
            if event.token_ids and place not in seen:
                seen.add(place)
                first[place] = now
            last[place] = now
    return np.array([arrival.time_s for arrival in arrivals]), first, last


def this_deployment(path: Path) -> Deployment:
    """The model under this package's engine on this machine, whose roofs are probed now."""
    if path.suffix.lower() != ".gguf":
        raise InputError(f"{path}: calibrate this times a GGUF file; `membound pull smollm2` brings one")
    probe()
    return deployment(str(path), "this", tp=1, engine=ENGINE, calibration=Parameters().applied(fitted()))
