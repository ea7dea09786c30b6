"""Shares of peaks fitted on single operations: matrix products, attention, all-reduce on A100 and H100.

Each kind gets seconds = launch + (memory^2 + math^2)^(1/2), memory and math at a share of the data
sheet's peak. Residuals are logarithms, so that a microsecond and a millisecond count alike; operations
whose operands fit the L2 are left out, since the timing loop kept them there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray
from scipy.optimize import least_squares

from membound.hardware.lookup import find

Vector = NDArray[np.float64]
PARTS = {"a100_sxm": "a100-80-sxm", "h100_sxm": "h100-sxm"}
BYTES = {"bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "fp8_block": 1.0}
SAMPLE = 4000  # operations of each kind, part and format: more do not move the fit


@dataclass(frozen=True)
class Fit:
    """Values, their standard errors as factors, and the median and p90 absolute relative error."""

    values: dict[str, float]
    errors: dict[str, float]
    median: float
    p90: float
    count: int


def read(folder: Path, pattern: str) -> list[tuple[str, dict[str, Vector]]]:
    """(part, columns) of every file whose path matches."""
    found = []
    for path in sorted(folder.glob(pattern)):
        table = pyarrow.parquet.read_table(path)
        columns = {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}
        found.append((PARTS[path.relative_to(folder).parts[0]], columns))
    return found


def _sampled(keep: Vector, random: np.random.Generator) -> Vector:
    places = np.flatnonzero(keep)
    return random.choice(places, min(SAMPLE, len(places)), replace=False)


def fit_two_roofs(memory: Vector, math: Vector, seconds: Vector, start: tuple[float, float, float]) -> Fit:
    """Launch, share of bandwidth, share of math; `memory` and `math` are seconds at the peaks."""

    def predicted(logs: Vector) -> Vector:
        launch, bandwidth, compute = np.exp(logs)
        result: Vector = launch + np.sqrt((memory / bandwidth) ** 2 + (math / compute) ** 2)
        return result

    solution = least_squares(
        lambda logs: np.log(predicted(logs) / seconds),
        np.log(start),
        loss="soft_l1",
        f_scale=0.1,
        bounds=(np.log([1e-8, 0.05, 0.05]), np.log([1e-3, 1.0, 1.0])),
    )
    return _summary(("launch_s", "bandwidth", "compute"), solution, np.log(predicted(solution.x) / seconds))


def _summary(names: tuple[str, ...], solution: object, residuals: Vector) -> Fit:
    logs: Vector = getattr(solution, "x")  # noqa: B009 (scipy's result has no types)
    jacobian: Vector = getattr(solution, "jac")  # noqa: B009
    covariance = np.linalg.pinv(jacobian.T @ jacobian) * float(np.var(residuals))
    errors = np.exp(np.sqrt(np.diag(covariance))) - 1
    off = np.abs(np.expm1(residuals))
    return Fit(
        dict(zip(names, np.exp(logs).tolist(), strict=True)),
        dict(zip(names, errors.tolist(), strict=True)),
        float(np.median(off)),
        float(np.quantile(off, 0.9)),
        len(residuals),
    )


def matrix_products(folder: Path, formats: tuple[str, ...], rate: str) -> Fit:
    """C[m, n] = A[m, k] B[k, n] in one of the formats."""
    random, parts = np.random.default_rng(0), []
    for name, table in read(folder, "*/gemm/*/*/gemm_perf.parquet"):
        part = find(name).accelerator
        for kind in formats:
            m, n, k = (table[column].astype(np.float64) for column in "mnk")
            size = BYTES[kind]
            moved = (m * k + k * n) * size + m * n * 2
            keep = (table["gemm_dtype"] == kind) & (moved > part.figure("l2_bytes"))
            rows = _sampled(keep, random)
            if len(rows):
                memory = moved[rows] / part.bandwidth_bytes_per_s
                math = 2 * (m * n * k)[rows] / part.peak(rate)
                parts.append((memory, math, table["latency"][rows] / 1e3))
    memory, math, seconds = (np.concatenate(column) for column in zip(*parts, strict=True))
    return fit_two_roofs(memory, math, seconds, (4e-6, 0.8, 0.75))


def attention(folder: Path, decoding: bool) -> Fit:
    """Paged attention in 16 bits: one query for each sequence, or whole prompts."""
    pattern = "generation" if decoding else "context"
    random, parts = np.random.default_rng(0), []
    for name, table in read(folder, f"*/attention/*/*/{pattern}_attention_perf.parquet"):
        part = find(name).accelerator
        batch, heads = table["batch_size"].astype(np.float64), table["num_heads"].astype(np.float64)
        kv_heads = np.maximum(1.0, table["num_key_value_heads"].astype(np.float64))
        kv_heads = np.where(table["num_key_value_heads"] == 0, heads, kv_heads)
        dim, step = table["head_dim"].astype(np.float64), table["step"].astype(np.float64)
        queries = np.ones_like(step) if decoding else table["isl"].astype(np.float64)
        keys = step + queries
        pairs = batch * queries * (step + (queries + 1) / 2)
        moved = 4.0 * batch * keys * kv_heads * dim + 4.0 * batch * queries * heads * dim
        windowless = table.get("window_size", np.zeros_like(step)) == 0
        keep = windowless & (table["kv_cache_dtype"] == "bfloat16") & (moved > part.figure("l2_bytes"))
        rows = _sampled(keep, random)
        memory = moved[rows] / part.bandwidth_bytes_per_s
        math = 4 * (pairs * heads * dim)[rows] / part.peak("bf16")
        parts.append((memory, math, table["latency"][rows] / 1e3))
    memory, math, seconds = (np.concatenate(column) for column in zip(*parts, strict=True))
    return fit_two_roofs(memory, math, seconds, (8e-6, 0.8, 0.6))


def all_reduce(folder: Path) -> Fit:
    """Engines' own all-reduce: launch + share·latency·log2 n + ring bytes / (share·link)."""
    latencies, ring, seconds = [], [], []
    for name, table in read(folder, "*/comm/*/*/custom_allreduce_perf.parquet"):
        link = find(name).link_between(2)
        graph = np.array(["eager" not in str(kind) for kind in table["kernel_source"]])
        count = table["num_gpus"].astype(np.float64)[graph]
        latencies.append(np.log2(count) * link.latency_s)
        ring.append(
            2
            * (count - 1)
            / count
            * table["message_size"].astype(np.float64)[graph]
            * 2
            / link.bandwidth_bytes_per_s
        )
        seconds.append(table["latency"][graph] / 1e3)
    latency, wire, measured = np.concatenate(latencies), np.concatenate(ring), np.concatenate(seconds)

    def predicted(logs: Vector) -> Vector:
        launch, latency_share, share = np.exp(logs)
        result: Vector = launch + latency_share * latency + wire / share
        return result

    solution = least_squares(
        lambda logs: np.log(predicted(logs) / measured),
        np.log([4e-6, 1.0, 0.5]),
        loss="soft_l1",
        f_scale=0.1,
        bounds=(np.log([1e-7, 1e-2, 0.05]), np.log([1e-4, 10.0, 1.0])),
    )
    residuals = np.log(predicted(solution.x) / measured)
    return _summary(("launch_s", "latency_share", "link_share"), solution, residuals)
