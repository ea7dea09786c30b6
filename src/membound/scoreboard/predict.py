"""What is predicted of a measured row: the same numbers that were measured."""

from __future__ import annotations

import numpy as np

from membound.costs.adjustment import Observation, kernels_alone
from membound.costs.calibration import IDEAL, Calibration
from membound.costs.features import Vector
from membound.costs.roofline import StepCost
from membound.scoreboard.open_loop import served_at_rate
from membound.scoreboard.recorded import Recorder, cost_of
from membound.scoreboard.rows import Deployment, Row

Metrics = dict[str, float]


class Predictor:
    """Predictions under one calibration; deployments are costed once."""

    def __init__(self, calibration: Calibration, record: Recorder) -> None:
        self.calibration = calibration
        self.record = record
        self._costs: dict[Deployment, tuple[StepCost, StepCost]] = {}

    def __call__(self, row: Row) -> Metrics:
        """TTFT and TPOT (mean, p50, p99) in seconds, and throughput in tokens per second."""
        if row.rate:
            return self._at_rate(row)
        recording = self.record(row)
        seconds = _seconds(self._cost(row)[0], recording.features)
        ttft, tpot = recording.latencies(seconds)
        ttft += self._server(row)
        many = tpot[np.isfinite(tpot)]
        found = {
            "ttft_mean": float(ttft.mean()),
            "ttft_p50": float(np.quantile(ttft, 0.5)),
            "ttft_p99": float(np.quantile(ttft, 0.99)),
        }
        if len(many):
            found |= {"tpot_mean": float(many.mean()), "tpot_p50": float(np.quantile(many, 0.5))}
        whole = float(recording.outputs.sum()) * row.deployment.layout.data / float(seconds @ recording.times)
        found["throughput"] = _throughput(row, found, whole)
        return found

    def means(self, row: Row) -> Metrics:
        """Mean TTFT and TPOT and throughput, from the recording in brief: quicker by far."""
        if row.rate:
            return self._at_rate(row)
        kinds = self.record.condensed(row)
        seconds = _seconds(self._cost(row)[0], kinds.features)
        found = {
            "ttft_mean": float(kinds.ttft @ seconds) + self._server(row),
            "tpot_mean": float(kinds.tpot @ seconds),
        }
        whole = kinds.tokens * row.deployment.layout.data / float(kinds.run @ seconds)
        found["throughput"] = _throughput(row, found, whole)
        return found

    def observations(self, row: Row) -> list[Observation]:
        """What was measured of a row, split for a fit of its deployment's own factors."""
        kinds = self.record.condensed(row)
        whole, kernels = (_seconds(cost, kinds.features) for cost in self._cost(row))
        found = []
        for measured, weights, server, sigma in (
            (row.tpot_s, kinds.tpot, 0.0, 0.03),
            (row.measured.get("ttft_mean"), kinds.ttft, self._server(row), 0.12),
        ):
            if measured is not None:
                moving, total = float(weights @ kernels), float(weights @ whole)
                found.append(Observation(measured, moving, total - moving, server, sigma))
        return found

    def _at_rate(self, row: Row) -> Metrics:
        here = self.calibration.on(row.deployment.engine, row.deployment.part)
        return served_at_rate(row, here)

    def _server(self, row: Row) -> float:
        return self.calibration.engine(row.deployment.engine).server_s

    def _cost(self, row: Row) -> tuple[StepCost, StepCost]:
        """Of the deployment, and of its kernels without what is fixed."""
        known = self._costs.get(row.deployment)
        if known is None:
            here = self.calibration.on(row.deployment.engine, row.deployment.part)
            known = cost_of(row.deployment, here), cost_of(row.deployment, kernels_alone(here))
            self._costs[row.deployment] = known
        return known


def _seconds(cost: StepCost, features: Vector) -> Vector:
    """Of recorded steps, (steps, features), whose rows choose experts as this cost thinks."""
    return cost.seconds(cost.features.with_experts(np.array(features.T, order="C")))


def _throughput(row: Row, found: Metrics, whole: float) -> float:
    """A closed loop by Little's law, since ramps are not in what is published; other loads as a whole."""
    if row.load != "closed loop" or "tpot_mean" not in found:
        return whole
    output = row.output * (1 - row.spread / 2)
    return row.concurrency * output / (found["ttft_mean"] + (output - 1) * found["tpot_mean"])


def floors(row: Row, record: Recorder, cost: StepCost) -> Metrics:
    """The least TPOT that the row's steps allow, at the peaks of the data sheet."""
    if row.rate:
        return {"tpot_mean": served_at_rate(row, IDEAL)["tpot_mean"]}
    kinds = record.condensed(row)
    seconds: Vector = cost.seconds(np.ascontiguousarray(kinds.features.T))
    return {"tpot_mean": float(kinds.tpot @ seconds)}
