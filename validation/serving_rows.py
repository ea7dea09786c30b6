"""Closed-loop measurements as sums over kernels, so that efficiencies can be fitted to them.

The steps of each measurement are recorded once with the real scheduler (membound.scoreboard.closed_loop);
TTFT and TPOT are then sums of step seconds, and these are sums over kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from membound.costs.calibration import IDEAL
from membound.costs.features import Features
from membound.costs.kernels import activations
from membound.costs.roofline import ACTIVATION_BYTES, StepCost
from membound.hardware.accelerator import RATES
from membound.scoreboard.recorded import Condensed, Recorder, cost_of
from membound.scoreboard.rows import Deployment, Row

Vector = NDArray[np.float64]
KINDS = ("matmul", "attention", "prefill", "experts", "recurrence", "other")
ENGINES = ("vllm", "sglang", "trtllm")
SKEWS = np.linspace(0.0, 1.5, 16)


@dataclass(frozen=True)
class Kernels:
    """Kernels of many steps, one entry each: seconds at the peaks, all layers together."""

    step: NDArray[np.int64]
    kind: NDArray[np.int64]
    bits: NDArray[np.int64]
    launches: Vector
    memory: Vector
    math: Vector
    widened: Vector  # seconds at the peak for one operation on each weight that must be widened


@dataclass(frozen=True)
class Steps:
    """Steps to cost, with their weights in the means of the measurement that they belong to."""

    kernels: Kernels
    row: NDArray[np.int64]
    engine: NDArray[np.int64]
    layers: Vector
    sequences: Vector
    reductions: Vector  # collectives in a step
    latencies: Vector  # seconds of a link's latency for each doubling of the ranks, all collectives together
    wire: Vector  # seconds of their bytes at the link's peak
    spread: Vector  # log2 of the expert-parallel ranks
    prompts: Vector  # whether there are any
    activations: Vector  # seconds at the memory's peak of what passes between kernels
    distinct: Vector  # (steps, SKEWS): experts chosen under a skewed routing, as a share of a uniform one's
    ttft: Vector
    tpot: Vector


@dataclass(frozen=True)
class Measured:
    """Measurements and their steps; NaN where something was not measured."""

    rows: list[Row]
    steps: Steps
    engine: NDArray[np.int64]
    pairs: list[str]  # names of the factors of engines on parts
    pair: NDArray[np.int64]
    tpot_s: Vector
    ttft_s: Vector


def measured(rows: list[Row], record: Recorder) -> Measured:
    """The closed loops among the rows."""
    costs: dict[Deployment, StepCost] = {}
    kernels: dict[str, list[Vector]] = {}
    plain: dict[str, list[Vector]] = {}
    count = 0
    for place, row in enumerate(rows):
        deployment = row.deployment
        cost = costs.setdefault(deployment, cost_of(deployment, IDEAL))
        kinds = record.condensed(row)
        found = np.ascontiguousarray(kinds.features.T)
        for name, values in _kernels(cost, found, count).items():
            kernels.setdefault(name, []).append(values)
        for name, values in _plain(cost, found, kinds, place, ENGINES.index(deployment.engine)).items():
            plain.setdefault(name, []).append(values)
        count += found.shape[1]
    k = {name: np.concatenate(values) for name, values in kernels.items()}
    s = {name: np.concatenate(values) for name, values in plain.items()}
    step, kind, bits = (k[name].astype(np.int64) for name in ("step", "kind", "bits"))
    row_of, engine = (s[name].astype(np.int64) for name in ("row", "engine"))
    entries = Kernels(step, kind, bits, k["launches"], k["memory"], k["math"], k["widened"])
    nothing = float("nan")
    pairs = sorted({_pair(row) for row in rows})
    return Measured(
        rows,
        Steps(
            entries, row_of, engine, s["layers"], s["sequences"], s["reductions"], s["latencies"], s["wire"],
            s["spread"], s["prompts"], s["activations"], s["distinct"], s["ttft"], s["tpot"],
        ),
        np.array([ENGINES.index(row.deployment.engine) for row in rows]),
        pairs,
        np.array([pairs.index(_pair(row)) for row in rows]),
        np.array([row.tpot_s or nothing for row in rows]),
        np.array([row.measured.get("ttft_mean", nothing) for row in rows]),
    )  # fmt: skip


def _pair(row: Row) -> str:
    return f"offsets {row.deployment.engine} {row.deployment.part}"


def _kernels(cost: StepCost, found: Vector, first: int) -> dict[str, Vector]:
    stage = cost.stages[0]
    memory, math = stage.peak_memory @ found, stage.peak_math @ found
    beaten = np.zeros(memory.shape, dtype=bool)
    for rows in stage.rivals:
        quickest = np.argmin(np.maximum(memory[rows], math[rows]), axis=0)
        for place, row in enumerate(rows):
            beaten[row] = quickest != place
    columns: dict[str, list[Vector]] = {}
    part = cost.cluster.accelerator
    for row, kernel in enumerate(stage.kernels):
        active = found[kernel.active]  # a share of the steps, where those that became one were not alike
        kept = np.flatnonzero(~beaten[row] & (active > 0))
        widened = kernel.widened @ found / part.peak(kernel.rate)
        for name, values in {
            "step": first + kept,
            "kind": np.full(len(kept), KINDS.index(kernel.kind)),
            "bits": np.full(len(kept), RATES[kernel.rate]),
            "launches": kernel.layers * active[kept],
            "memory": kernel.layers * memory[row, kept],
            "math": kernel.layers * math[row, kept],
            "widened": kernel.layers * widened[kept],
        }.items():
            columns.setdefault(name, []).append(np.asarray(values, dtype=np.float64))
    return {name: np.concatenate(values) for name, values in columns.items()}


def _plain(cost: StepCost, found: Vector, kinds: Condensed, row: int, engine: int) -> dict[str, Vector]:
    count = found.shape[1]
    rows = found[cost.features.place("rows")]
    sampled = found[cost.features.place("sampled")]
    reductions = latencies = 0.0
    wire = np.zeros(count)
    for exchange, _ in cost.stages[0].exchanges:
        link = cost.cluster.link_between(exchange.ranks)
        reductions += exchange.times
        latencies += exchange.times * np.log2(exchange.ranks) * link.latency_s
        sent = exchange.times * exchange.wire_bytes / link.bandwidth_bytes_per_s
        wire = wire + sent * (sampled if exchange.sampled else rows)
    return {
        "row": np.full(count, float(row)),
        "engine": np.full(count, float(engine)),
        "layers": np.full(count, float(len(cost.model.layers))),
        "sequences": found[cost.features.place("sequences")],
        "reductions": np.full(count, reductions),
        "latencies": np.full(count, latencies),
        "wire": wire,
        "spread": np.full(count, np.log2(cost.layout.experts)),
        "prompts": found[cost.features.place("any_many")],
        "activations": rows * passed_s(cost),
        "distinct": distinct(cost, found),
        "ttft": kinds.ttft,
        "tpot": kinds.tpot,
    }


def passed_s(cost: StepCost) -> float:
    """Seconds at the memory's peak of what one row passes between kernels."""
    elements = sum(
        len(group.indices) * activations(operator)
        for group in cost.graphs[0].groups
        for operator in group.operators
    )
    return elements * ACTIVATION_BYTES / cost.cluster.accelerator.bandwidth_bytes_per_s


def distinct(cost: StepCost, found: Vector) -> Vector:
    """Experts that steps choose under each of SKEWS, over those of a uniform routing: (steps, SKEWS)."""
    share = np.ones((found.shape[1], len(SKEWS)))
    for place, skew in enumerate(SKEWS):
        features = Features(cost.features.windows, cost.features.experts, float(skew), cost.features.copies)
        for shape in cost.features.experts:
            column = features.place("distinct", shape)
            share[:, place] = features.with_experts(found.copy())[column] / np.maximum(found[column], 1e-9)
    return share
