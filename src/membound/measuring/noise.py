"""How much of a figure is chance: intervals of runs, and of the difference between two.

Requests of a run are not independent: those that queue together are slow together. So blocks of successive
requests are drawn anew, not single ones (moving-block bootstrap, Künsch 1989), of n^(1/3) each. What
differs from one run to the next (another load on the machine, another clock rate) is not in a single run:
only repeated runs show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from membound.measuring.summary import Measured

Vector = NDArray[np.float64]
SHARE = 0.95  # of the intervals
STATISTICS = ("mean", "p50", "p90", "p99")
METRICS = ("ttft_s", "tpot_s", "e2e_s", "scheduled_latency_s")
WORK = 4_000_000  # values drawn at most, which bounds the number of resamples


@dataclass(frozen=True)
class Difference:
    """Of one figure between two runs, the second less the first."""

    metric: str  # such as ttft_s.p99
    first: float
    second: float
    low: float  # of the difference
    high: float

    @property
    def difference(self) -> float:
        return self.second - self.first

    @property
    def exceeds_noise(self) -> bool:
        """Whether zero lies outside of the interval."""
        return not self.low <= 0 <= self.high


def intervals(measured: Measured, seed: int = 0) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % intervals of each figure, by metric and statistic."""
    found = {}
    for metric, draws in _draws(measured, seed).items():
        found[metric] = {
            statistic: _interval(column) for statistic, column in zip(STATISTICS, draws.T, strict=True)
        }
    return found


def rate_interval(measured: Measured, seed: int = 0) -> tuple[float, float] | None:
    """Of the throughput in output tokens/s."""
    draws = _rate_draws(measured, seed)
    return None if draws is None else _interval(draws)


def differences(first: Sequence[Measured], second: Sequence[Measured], seed: int = 0) -> list[Difference]:
    """Of every figure that both sides have; several runs of a side are pooled by the mean of their figures.

    With several runs of a side, what differs between them widens the interval.
    """
    ours, theirs = _side(first, seed), _side(second, seed + 1)
    found = []
    for name in ours:
        if name in theirs:
            (value, draws), (other, others) = ours[name], theirs[name]
            resamples = min(len(draws), len(others))
            low, high = _interval(others[:resamples] - draws[:resamples])
            found.append(Difference(name, value, other, low, high))
    return found


def _side(runs: Sequence[Measured], seed: int) -> Mapping[str, tuple[float, Vector]]:
    """Each figure of one side: its value, and draws of it."""
    figures: dict[str, list[tuple[float, Vector]]] = {}
    for place, measured in enumerate(runs):
        drawn = _draws(measured, seed + 1000 * place)
        for metric, draws in drawn.items():
            summary = measured.summaries[metric]
            for statistic, column in zip(STATISTICS, draws.T, strict=True):
                value = float(getattr(summary, statistic))
                figures.setdefault(f"{metric}.{statistic}", []).append((value, column))
        rate_draws = _rate_draws(measured, seed + 1000 * place)
        if rate_draws is not None:
            figures.setdefault("output_tok_per_s", []).append((measured.output_tok_per_s, rate_draws))
    return {name: _pooled(values, seed) for name, values in figures.items() if len(values) == len(runs)}


def _pooled(values: Sequence[tuple[float, Vector]], seed: int) -> tuple[float, Vector]:
    if len(values) == 1:
        return values[0]
    resamples = min(len(draws) for _, draws in values)
    each = np.array([draws[:resamples] for _, draws in values])  # (runs, resamples)
    runs = len(values)
    chosen = np.random.default_rng(seed).integers(runs, size=(runs, resamples))
    drawn: Vector = each[chosen, np.arange(resamples)].mean(axis=0)
    return float(np.mean([value for value, _ in values])), drawn


def _draws(measured: Measured, seed: int) -> dict[str, Vector]:
    """Figures of resampled runs: for each metric an array (resamples, statistics)."""
    random = np.random.default_rng(seed)
    found = {}
    for metric in METRICS:
        values = np.array(measured.samples[metric])
        if len(values) >= 2:
            found[metric] = _statistics(values[_resampled(len(values), random)])
    return found


def _rate_draws(measured: Measured, seed: int) -> Vector | None:
    """Throughput of resampled runs: tokens of successive stretches of the window, drawn anew."""
    start, end = measured.window
    stretches = 50
    moments = [np.asarray(r.events_s, dtype=np.float64) for r in measured.run.records if r.succeeded]
    if end <= start or len(moments) < 2:
        return None
    weights = [
        np.full(len(r.events_s), r.output_tokens / max(1, len(r.events_s)))
        for r in measured.run.records
        if r.succeeded
    ]
    tokens, _ = np.histogram(
        np.concatenate(moments), stretches, range=(start, end), weights=np.concatenate(weights)
    )
    drawn: Vector = tokens[_resampled(stretches, np.random.default_rng(seed))].sum(axis=1) / (end - start)
    return drawn


def _resampled(number: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Indices (resamples, number): blocks of successive ones, around the end to the beginning."""
    block = max(1, round(number ** (1 / 3)))
    blocks = -(-number // block)
    resamples = int(np.clip(WORK // number, 100, 1000))
    starts = random.integers(number, size=(resamples, blocks, 1))
    indices: NDArray[np.int64] = (starts + np.arange(block)).reshape(resamples, -1)[:, :number] % number
    return indices


def _statistics(values: Vector) -> Vector:
    """(resamples, number) to (resamples, statistics)."""
    quantiles = np.quantile(values, (0.5, 0.9, 0.99), axis=1)
    return np.column_stack([values.mean(axis=1), *quantiles])


def _interval(values: Vector) -> tuple[float, float]:
    low, high = np.quantile(values, ((1 - SHARE) / 2, (1 + SHARE) / 2))
    return float(low), float(high)
