"""How far a prediction may be off: 90 % intervals from the residuals of measurements that were left out.

Split conformal: the factors in intervals.toml are quantiles of measured / predicted over deployments whose
GPU or model the fit did not see, by metric and regime. Far from anything measured they are widened, and
the interval says why.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

from membound.costs.roofline import StepCost
from membound.hardware.accelerator import RATES
from membound.models.architecture import ExpertsDims

FILE = Path(__file__).parent / "intervals.toml"
NORMAL = NormalDist()
METRICS = ("tpot", "ttft", "throughput", "e2e")


@dataclass(frozen=True)
class Regime:
    """What decides how well a prediction is known. `batch` is the number of sequences in a step."""

    part: str = "h100-sxm"
    bits: int = 16  # of the weights' multiplication
    batch: float = 1.0
    experts: bool = False
    engine: str = "vllm"

    @staticmethod
    def of(cost: StepCost, batch: float, engine: str = "vllm") -> Regime:
        """The regime of a deployment at so many sequences in a step."""
        rate = max((RATES[kernel.rate] for stage in cost.stages for kernel in stage.kernels
                    if kernel.kind in ("matmul", "experts")), default=16)  # fmt: skip
        if cost.precisions.weights is not None:
            rate = min(rate, int(cost.precisions.weights.main.bits))
        experts = any(isinstance(block.feed_forward, ExpertsDims) for block in cost.model.layers)
        return Regime(cost.cluster.accelerator.id, rate, batch, experts, engine)


@dataclass(frozen=True)
class Interval:
    """Factors on a prediction between which 90 % of measurements lie; `widened` says why they are wider
    than measurements of this kind alone would make them.
    """

    low: float
    high: float
    widened: tuple[str, ...] = ()

    def around(self, predicted: float) -> tuple[float, float]:
        """The bounds in the prediction's own unit."""
        return predicted * self.low, predicted * self.high

    def at(self, quantile: float) -> float:
        """The factor below which a measurement lies with this probability, if its logarithm is normal on each
        side of the prediction; `quantile` lies above 0 and below 1.
        """
        away = NORMAL.inv_cdf(quantile) / NORMAL.inv_cdf(0.95)
        return float(self.high**away if away > 0 else self.low**-away)

    def __contains__(self, ratio: object) -> bool:
        """Whether measured / predicted lies within."""
        return isinstance(ratio, int | float) and self.low <= ratio <= self.high


def interval(metric: str, regime: Regime) -> Interval:
    """The 90 % interval of a metric (tpot, ttft, throughput, e2e) in a regime, as factors."""
    known = _read(FILE)
    kind = "experts" if regime.experts else "dense"
    low, high = known[metric][kind]
    reasons = tuple(_reasons(known["measured"], regime))
    for _ in reasons:
        low, high = low / known["measured"]["widening"], high * known["measured"]["widening"]
    return Interval(low, high, reasons)


def _reasons(measured: Mapping[str, Any], regime: Regime) -> list[str]:
    """In what a regime lies outside of all that was measured."""
    found = []
    if regime.part not in measured["parts"]:
        found.append(f"{regime.part} was not measured; fitted on {', '.join(measured['parts'])}")
    if regime.bits not in measured["bits"]:
        found.append(f"{regime.bits}-bit weights were not measured")
    if regime.batch > measured["batch"]:
        found.append(f"a batch of {regime.batch:.0f} is above the {measured['batch']} that were measured")
    return found


@cache
def _read(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        return tomllib.load(file)
