"""Error bars of a simulation: what 90 % of measurements would lie between, and whether the SLO then holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from membound.costs.deployment import Deployment
from membound.costs.intervals import Interval, Regime, interval
from membound.simulation.limits import bound, time_shares
from membound.simulation.result import SimulationResult
from membound.workloads.goodput import ENOUGH

METRICS = {"ttft_s": "ttft", "tpot_s": "tpot", "itl_s": "tpot", "e2e_s": "e2e"}
HALVINGS = 8  # of the range in which a probability lies
ATTRIBUTES = ("kv_occupancy", "preemptions", "prefix_hit_rate")


@dataclass(frozen=True)
class Bars:
    """`around` holds (low, high) of the mean latencies, of throughput and of goodput; `factors` what they
    come from.
    """

    around: Mapping[str, tuple[float, float]]
    factors: Mapping[str, Interval]
    attainment: tuple[float, float]  # share of requests that hold the SLO, if latencies lie at the far ends
    holds: float  # probability that so many requests hold the SLO as count as enough
    bounds: tuple[str, ...]  # what bounds the run where steps are as quick, and as slow, as may be
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """(low, high) by metric, in its unit."""
        return {
            **{name: list(pair) for name, pair in self.around.items()},
            "slo_attainment": list(self.attainment),
            "slo_holds": self.holds,
            "bound": list(self.bounds),
            "widened": self.notes,
        }


def bars(
    result: SimulationResult,
    deployment: Deployment,
    again: Callable[[float], SimulationResult] | None = None,
) -> Bars:
    """From the intervals of the deployment's regime at the batch that the run had.

    What is no latency has no residuals of its own. With `again`, the run is repeated with steps as quick and
    as slow as the interval of TPOT allows, to see what then becomes of it.
    """
    regime = Regime.of(deployment.cost, max(1.0, result.mean_batch), deployment.engine)
    factors = {name: interval(metric, regime) for name, metric in METRICS.items()}
    factors["output_tok_per_s"] = interval("throughput", regime)
    around = {}
    for name, one in result.summaries().items():
        if one is not None and name in factors:
            around[name] = factors[name].around(one.mean)
    around["output_tok_per_s"] = factors["output_tok_per_s"].around(result.output_tok_per_s)
    notes = list(dict.fromkeys(note for known in factors.values() for note in known.widened))
    worst, best = (
        _attainment(result, {name: float(getattr(known, end)) for name, known in factors.items()})
        for end in ("high", "low")
    )
    if result.simulated_s:
        rate = result.requests / result.simulated_s
        around["goodput_req_per_s"] = (worst * rate, best * rate)
    ends = [again(factors["tpot_s"].low), again(factors["tpot_s"].high)] if again is not None else []
    if ends:
        for name in ATTRIBUTES:
            around[name] = _between(float(getattr(run, name)) for run in (result, *ends))
        if result.completed:
            around["queue_s"] = _between(float(run.queue_s.mean()) for run in (result, *ends))
    bounds = tuple(bound(end, time_shares(end.watched)) for end in ends)
    return Bars(around, factors, (worst, best), _holds(result, factors), bounds, notes)


def _between(values: Iterable[float]) -> tuple[float, float]:
    known = list(values)
    return min(known), max(known)


def _attainment(result: SimulationResult, factors: Mapping[str, float]) -> float:
    """The share of requests that hold the SLO if each latency is off by its factor."""
    if not result.requests:
        return 0.0
    slo = result.slo
    slow = np.zeros(result.completed, dtype=np.bool_)
    for name, values, limit in (
        ("ttft_s", result.ttft_s, slo.ttft_s),
        ("tpot_s", result.tpot_s, slo.tpot_s),
        ("e2e_s", result.e2e_s, slo.e2e_s),
    ):
        slow |= values * factors[name] > limit
    return float((~slow).sum()) / result.requests


def _holds(result: SimulationResult, factors: Mapping[str, Interval]) -> float:
    """The probability that enough requests hold the SLO.

    A prediction's factor is taken as log-normal about one, on each side as wide as its interval; the
    latencies are off together. Slower is never better, so the quantile up to which the SLO holds is the
    probability.
    """

    def held(quantile: float) -> bool:
        off = {name: known.at(quantile) for name, known in factors.items()}
        return _attainment(result, off) >= ENOUGH

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) else (low, middle)
    if low == 0.0:
        return 0.0
    return 1.0 if high == 1.0 else (low + high) / 2
