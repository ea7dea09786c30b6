"""The native engine on this machine as a row of the scoreboard: fitted from its own steps, then tested.

A step's parts each get a factor: what reads, what multiplies, what each weight costs to unpack however many
rows there are, what is fixed, attention. Then the kernels over rows get a factor for each number of rows that
was timed. `this_machine_run.py` tests what is found.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from membound.costs.calibration import ByRows, fitted
from membound.costs.deployment import Deployment, deployment
from membound.costs.features import Vector
from membound.costs.this_machine import ENGINE, Parameters
from membound.errors import InputError, RunError
from membound.hardware.probe import probe
from membound.measuring.speed import SpeedTest
from membound.serving.engine import StepRecord

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
TOGETHER = 12  # steps of traffic, at least
PLAUSIBLE = 4.0  # factors beyond which, or below whose inverse, a fit has explained a disturbance
MOST_UNPACK = 8.0  # likewise
WORST_FIT = 0.2  # median error of the steps
LEAST_FACTOR = 0.05  # of rows, where the fit would have it below: no kernel is for nothing
PRIORS = np.array([0.7, 0.7, 1.5, 1.5, 1.0, 1.0])  # of the logarithms of the factors
SIGMA = 0.02  # of a sample, relatively
SPREAD, JUMP = 0.5, 0.3  # by how much a factor of rows differs from one, and from those of rows beside it


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


Timed = tuple[float, StepRecord]  # seconds of a step, and what it was


def time_steps(test: SpeedTest) -> list[Sample]:
    """One round through whole steps of the engine: prompts alone, and in traffic with what decodes."""
    return gathered([*steps_of_a_round(test)])


def steps_of_a_round(test: SpeedTest) -> Iterator[Timed]:
    for length in SHORT:
        yield from test.staggered([[length]], 1, 1)
    for prompts in (*((length,) for length in LONG), *SEVERAL):
        yield from test.staggered([prompts], 1, 2 * AFTER)
    for prompts, every in TRAFFIC:
        together = RUNNING // len(prompts)
        yield from test.staggered([prompts] * together, every, together * every)
    yield from test.staggered([(FAR,)] * FEW, 1, 4 * FEW)


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


def together(steps: Sequence[Sample]) -> list[Sample]:
    """Steps of traffic, TOGETHER or more that are alike to a sample: single ones vary by more than a fit may
    follow, and their sums count each second of a slow one.
    """
    like: dict[tuple[int, int], list[Sample]] = {}
    for step in steps:
        prompts = [new for new, _ in step.steps[0] if new > 1]
        like.setdefault((sum(prompts), len(step.steps[0]) - len(prompts)), []).append(step)
    found: list[list[Sample]] = [[]]
    for _, same in sorted(like.items()):
        if len(found[-1]) >= TOGETHER:
            found.append([])
        found[-1] += same
    if len(found) > 1 and len(found[-1]) < TOGETHER:
        found[-2:] = [found[-2] + found[-1]]
    return [
        Sample(tuple(chunks for one in same for chunks in one.steps), sum(one.seconds for one in same))
        for same in found
        if same
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


def this_deployment(path: Path, threads: int | None = None) -> Deployment:
    """The model under this package's engine on this machine, whose roofs are probed now."""
    if path.suffix.lower() != ".gguf":
        raise InputError(f"{path}: calibrate this times a GGUF file; `membound pull smollm2` brings one")
    probe(threads=threads)
    start = Parameters().applied(fitted())
    return deployment(str(path), "this", tp=1, engine=ENGINE, calibration=start, threads=threads)
