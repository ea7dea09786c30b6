"""Closed-loop measurements of TPOT as sums over kernels, so that efficiencies can be fitted to them.

In a closed loop of B requests, every request decodes `osl` tokens while the others' prompts pass through
the same steps: TPOT = T(B) + (B · chunks / osl) · (T(B + C) - T(B)), with chunks of C prompt tokens.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from membound.costs.calibration import IDEAL
from membound.costs.parallel import layout
from membound.costs.precisions import precisions
from membound.costs.roofline import Stage, StepCost
from membound.errors import InputError
from membound.hardware.accelerator import RATES
from membound.hardware.lookup import find
from membound.models.names import dimensions_of

Vector = NDArray[np.float64]
KINDS = ("matmul", "attention", "prefill", "experts", "recurrence", "other")
ENGINES = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "trt": "trtllm",
    "TensorRT-LLM (PyTorch backend)": "trtllm",
}
GPUS = {"h100": "h100-sxm", "h200": "h200-sxm", "b200": "b200-sxm"}
MODELS = {
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "Qwen/Qwen3-32B": "Qwen3-32B",
    "meta-llama/Llama-3.1-8B-Instruct": "Meta-Llama-3.1-8B",
    "meta-llama/Llama-3.1-70B": "Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.3-70B-Instruct": "Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-405B-Instruct": "Meta-Llama-3.1-405B",
    "Qwen/Qwen3-235B-A22B-FP8": "Qwen3-235B-A22B-FP8",
    "Qwen/Qwen3-235B-A22B": "Qwen3-235B-A22B",
    "deepseek-ai/DeepSeek-R1-0528": "DeepSeek-R1",
}
WEIGHTS = {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "fp4": "nvfp4", "mxfp4": None}
CHUNK = 2048  # tokens of a prompt in one step: the engines' usual budget


@dataclass(frozen=True)
class Kernels:
    """Kernels of many steps, one entry each: seconds at the peaks, per layer."""

    step: NDArray[np.int64]
    kind: NDArray[np.int64]
    bits: NDArray[np.int64]
    layers: Vector
    memory: Vector
    math: Vector


@dataclass(frozen=True)
class Steps:
    """Steps to cost, two for each measurement: decoding alone, and with a chunk of a prompt."""

    kernels: Kernels
    engine: NDArray[np.int64]
    layers: Vector
    sequences: Vector
    reductions: Vector  # collectives in a step
    latencies: Vector  # seconds of a link's latency for each doubling of the ranks, all collectives together
    wire: Vector  # seconds of their bytes at the link's peak
    spread: Vector  # log2 of the expert-parallel ranks


@dataclass(frozen=True)
class Measured:
    """Measurements that can be used, and why the others cannot."""

    rows: list[dict[str, str]]
    steps: Steps
    share_with_chunk: Vector  # of the steps, by measurement
    tpot_s: Vector
    excluded: Counter[str]


@cache
def _cost(model: str, gpu: str, weights: str | None, kv: str | None, tp: int, ep: int) -> StepCost:
    known = dimensions_of(model)
    formats = precisions(known, weights, kv)
    return StepCost(known, find(gpu), formats, layout(tp, 1, ep), IDEAL, "none")


def read_rows(path: Path) -> Measured:
    """The usable rows of a file like end_to_end.csv."""
    rows, pairs, shares, tpots, excluded = [], [], [], [], Counter[str]()
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            reason = _unusable(row)
            if reason:
                excluded[reason] += 1
                continue
            try:
                pair, share = _pair(row)
            except InputError as error:
                excluded[str(error)] += 1
                continue
            rows.append(row)
            pairs.append(pair)
            shares.append(share)
            tpots.append(float(row["tpot_mean_ms"] or row["tpot_p50_ms"]) / 1e3)
    return Measured(rows, _steps(pairs), np.array(shares), np.array(tpots), excluded)


def _unusable(row: dict[str, str]) -> str:
    if not row["load_type"].startswith("closed-loop"):
        return "not a closed loop"
    if row["disagg"] == "True" or row["spec_decoding"] not in ("", "none"):
        return "disaggregated or speculative"
    if row["engine"] not in ENGINES:
        return f"engine {row['engine']}"
    if row["model"] not in MODELS or _gpu(row["gpu"]) is None or row["weights_dtype"] not in WEIGHTS:
        return "model, GPU or format not in the catalog"
    if not (row["tpot_mean_ms"] or row["tpot_p50_ms"]) or not row["tp"] or float(row["osl"] or 0) < 2:
        return "no TPOT"
    if row["dp"] not in ("", "1") or row["pp"] not in ("", "1") or row["dp_attention"].startswith("true"):
        return "data or pipeline parallel"
    ttft, whole = row["ttft_mean_ms"], row["e2e_mean_ms"]
    if row["flag"] or (ttft and whole and float(ttft) > 0.5 * float(whole)):
        return "queueing: TTFT over half of the whole"
    return ""


def _gpu(name: str) -> str | None:
    found = re.search(r"[hb][12]00", name.lower())
    plain = "pcie" not in name.lower() and "nvl" not in name.lower()
    return GPUS.get(found[0]) if found and plain else None


def _pair(row: dict[str, str]) -> tuple[list[tuple[Stage, Vector, StepCost, int]], float]:
    """The two steps of a row, and the share of steps that carry a chunk."""
    engine = list(dict.fromkeys(ENGINES.values())).index(ENGINES[row["engine"]])
    shrink = 0.9 if "0.9x" in row["len_note"] else 1.0
    prompt, output = float(row["isl"]) * shrink, float(row["osl"]) * shrink
    batch = round(float(row["concurrency_or_rate"]))
    gpu = _gpu(row["gpu"])
    assert gpu is not None
    kv = "fp8" if "fp8" in row["kv_dtype"] else None
    cost = _cost(
        MODELS[row["model"]], gpu, WEIGHTS[row["weights_dtype"]], kv, int(row["tp"]), int(row["ep"] or 1)
    )
    stage = cost.stages[0]
    context = np.array([prompt + output / 2])
    one = np.array([float(batch)])
    chunk = np.array([min(prompt, float(CHUNK))])
    nothing = np.zeros(1)
    alone = cost.features.many(one, context, nothing, nothing)[:, 0]
    mixed = cost.features.many(one, context, chunk, np.maximum(0.0, (prompt - chunk) / 2))[:, 0]
    share = min(1.0, batch * prompt / (chunk[0] * output))
    return [(stage, alone, cost, engine), (stage, mixed, cost, engine)], share


def _steps(pairs: list[list[tuple[Stage, Vector, StepCost, int]]]) -> Steps:
    entries: list[tuple[int, int, int, float, float, float]] = []
    plain: list[tuple[float, ...]] = []
    flat = [step for pair in pairs for step in pair]
    for place, (stage, found, cost, engine) in enumerate(flat):
        memory, math = stage.peak_memory @ found, stage.peak_math @ found
        beaten = {
            row
            for rows in stage.rivals
            for row in rows
            if row != min(rows, key=lambda r: max(memory[r], math[r]))
        }
        for row, kernel in enumerate(stage.kernels):
            if row in beaten or found[kernel.active] == 0:
                continue
            entries.append(
                (place, KINDS.index(kernel.kind), RATES[kernel.rate], kernel.layers, memory[row], math[row])
            )
        rows = found[cost.features.place("rows")]
        reductions = latencies = wire = 0.0
        for exchange, _ in stage.exchanges:
            link = cost.cluster.link_between(exchange.ranks)
            reductions += exchange.times
            latencies += exchange.times * np.log2(exchange.ranks) * link.latency_s
            moved = found[cost.features.place("sampled")] if exchange.sampled else rows
            wire += exchange.times * exchange.wire_bytes * moved / link.bandwidth_bytes_per_s
        sequences = found[cost.features.place("sequences")]
        spread = np.log2(cost.layout.experts)
        plain.append((engine, len(cost.model.layers), sequences, reductions, latencies, wire, spread))
    step, kind, bits, layers, memory_s, math_s = (np.array(column) for column in zip(*entries, strict=True))
    engines, *others = (np.array(column) for column in zip(*plain, strict=True))
    kernels = Kernels(step, kind, bits, layers.astype(np.float64), memory_s, math_s)
    return Steps(kernels, engines.astype(np.int64), *(np.asarray(o, dtype=np.float64) for o in others))
