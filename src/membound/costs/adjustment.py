"""A deployment's own factors on a prediction, from a few measurements of it.

What is left between a fitted prediction and one deployment is mostly the same everywhere in it: kernels that
take longer than elsewhere, a slower host, a slower server. Three factors, held to one by priors, so that two
measurements move them as far as they can tell and no further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from membound.costs.calibration import Calibration
from membound.costs.features import Vector

PRIOR = np.array([0.25, 0.3, 0.5])  # standard deviations of the logarithms of kernels, fixed, server
ROUNDS = 30


@dataclass(frozen=True)
class Adjustment:
    """Factors on what kernels read and multiply, on what is fixed in a step, on a server's own time."""

    kernels: float = 1.0
    fixed: float = 1.0
    server: float = 1.0

    def __call__(self, calibration: Calibration) -> Calibration:
        """The calibration of this deployment."""
        scaled = calibration.scaled(self.kernels, self.fixed)
        engines = {
            name: replace(engine, server_s=engine.server_s * self.server)
            for name, engine in scaled.engines.items()
        }
        return replace(scaled, engines=engines)


@dataclass(frozen=True)
class Observation:
    """One measured time beside what is predicted of it, in seconds: the share of kernels that read and
    multiply, the share that is fixed, and the server's. `sigma` is how far it may be off, relatively.
    """

    seconds: float
    kernels_s: float
    fixed_s: float
    server_s: float = 0.0
    sigma: float = 0.05


def adjust(observations: Sequence[Observation], prior: Vector = PRIOR) -> Adjustment:
    """The most likely factors; large residuals count less than their squares, as in the fit to all."""
    if not observations:
        return Adjustment()
    parts = np.array([[o.kernels_s, o.fixed_s, o.server_s] for o in observations])
    measured = np.log([o.seconds for o in observations])
    sigma = np.array([o.sigma for o in observations])
    logs = np.zeros(3)
    for _ in range(ROUNDS):
        each = parts * np.exp(logs)
        total = each.sum(axis=1)
        off = (np.log(total) - measured) / sigma
        weight = 1 / np.sqrt(1 + off**2)  # of the soft loss
        slope = each / total[:, None] / sigma[:, None]
        curvature = (slope * weight[:, None]).T @ slope + np.diag(prior**-2)
        gradient = (slope * weight[:, None]).T @ off + logs / prior**2
        step = np.linalg.solve(curvature, gradient)
        logs = logs - np.clip(step, -0.5, 0.5)
        if np.abs(step).max() < 1e-6:
            break
    kernels, fixed, server = np.exp(logs).tolist()
    return Adjustment(kernels, fixed, server)


def kernels_alone(calibration: Calibration) -> Calibration:
    """The same shares of the peaks, and nothing fixed: what is left of a step beside it is fixed."""
    return calibration.scaled(1.0, 0.0)
