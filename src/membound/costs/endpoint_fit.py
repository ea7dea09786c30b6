"""Fits the prediction to one endpoint: a few factors on the shipped efficiencies, held by priors.

What reads memory, what multiplies, and what does not depend on the load each get a factor; the server gets
its time per request. Probes of one endpoint tell no more than that apart; the forms of the shipped fit stay.
Residuals are of logarithms, so that a probe counts by its relative error, and those far off by its root (soft
L1), so that a disturbed probe does not pull; Gauss-Newton on four parameters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from membound.costs.calibration import Calibration
from membound.costs.deployment import Deployment
from membound.errors import InputError

Vector = NDArray[np.float64]
NOISE = 0.05  # of a probe's logarithm
PRIORS = (0.5, 0.5, 0.7, 1.5)  # of the logarithms of the factors; the last is of the server's seconds
LEAST_SERVER_S = 1e-3


@dataclass(frozen=True)
class Sample:
    """What an endpoint took: for a prompt alone until its first token, or for a step of a batch that decodes.

    `batch` 0 marks a prompt of `tokens`; else `tokens` is the context that each sequence of the batch has.
    """

    batch: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Factors:
    """How much longer than by the shipped efficiencies each part takes, and the server's seconds."""

    memory: float = 1.0
    math: float = 1.0
    fixed: float = 1.0
    server_s: float = 0.0

    def applied(self, calibration: Calibration) -> Calibration:
        """No share of a peak exceeds one: a prediction never beats its floor."""
        kinds = {
            name: replace(
                kind,
                launch_s=kind.launch_s * self.fixed,
                bandwidth=min(1.0, kind.bandwidth / self.memory),
                compute={bits: min(1.0, share / self.math) for bits, share in kind.compute.items()},
            )
            for name, kind in calibration.kinds.items()
        }
        engines = {
            name: replace(
                engine,
                per_layer_s=engine.per_layer_s * self.fixed,
                per_step_s=engine.per_step_s * self.fixed,
                per_sequence_s=engine.per_sequence_s * self.fixed,
                server_s=self.server_s,
            )
            for name, engine in calibration.engines.items()
        }
        return replace(calibration, kinds=kinds, engines=engines)


def read_factors(path: Path) -> Factors:
    """As `membound calibrate URL --write` left them; InputError where the file is none of its."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["parameters"]
        factors = Factors(**{name: float(values[name]) for name in ("memory", "math", "fixed", "server_s")})
    except OSError as error:
        raise InputError(f"--calibration {path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"--calibration {path}: not what `membound calibrate URL --write` makes") from None
    if not min(factors.memory, factors.math, factors.fixed) > 0 or not factors.server_s >= 0:
        raise InputError(f"--calibration {path}: its factors must be above 0")
    return factors


def predicted_s(deployment: Deployment, sample: Sample, step_tokens: int, server_s: float) -> float:
    """What the deployment would take; prompts are read in chunks of at most `step_tokens`."""
    if sample.batch:
        return deployment.cost.step_seconds([(1, sample.tokens - 1)] * sample.batch)
    seconds = server_s
    for start in range(0, sample.tokens, step_tokens):
        seconds += deployment.cost.step_seconds([(min(step_tokens, sample.tokens - start), start)])
    return seconds


def fit(deployment: Deployment, samples: Sequence[Sample], *, step_tokens: int, server_s: float) -> Factors:
    """The factors that explain the samples best; `server_s` is what was thought of the server before."""
    shipped = deployment.calibration

    def residuals(logs: Vector) -> Vector:
        factors = _factors(logs, server_s)
        tried = replace(deployment, calibration=factors.applied(shipped))
        ratios = [
            predicted_s(tried, sample, step_tokens, factors.server_s) / sample.seconds for sample in samples
        ]
        found = np.log(ratios) / NOISE
        return np.concatenate([np.sign(found) * np.sqrt(2 * (np.sqrt(1 + found**2) - 1)), logs / PRIORS])

    logs: Vector = np.zeros(len(PRIORS))
    present = residuals(logs)
    for _ in range(30):
        slopes = np.column_stack(
            [(residuals(logs + 1e-4 * unit) - present) / 1e-4 for unit in np.eye(len(logs))]
        )
        move, *_ = np.linalg.lstsq(slopes, -present, rcond=None)
        move = np.clip(move, -1, 1)
        length = 1.0
        while length > 1e-3:  # no step may make it worse
            tried = residuals(logs + length * move)
            if tried @ tried <= present @ present:
                break
            length /= 2
        else:
            break
        gained = present @ present - tried @ tried
        logs, present = logs + length * move, tried
        if gained < 1e-6 * (present @ present):
            break
    return _factors(logs, server_s)


def _factors(logs: Vector, server_s: float) -> Factors:
    memory, math, fixed, server = (float(value) for value in np.exp(logs))
    return Factors(memory, math, fixed, max(server_s, LEAST_SERVER_S) * server)
