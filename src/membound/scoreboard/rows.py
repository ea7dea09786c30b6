"""Measurements that others made, one row of a CSV file each, and which of them a prediction can be held to.

The columns are those of data/README.md. A row is set aside for what it says or leaves unsaid, never for how
far a prediction is from it: each reason below can be decided from the file alone.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from membound.costs.parallel import Layout, layout
from membound.errors import InputError
from membound.hardware.lookup import accelerators
from membound.models.names import catalog

COLUMNS = ("model", "gpu", "engine", "tp", "isl", "osl", "load_type", "concurrency_or_rate")
LOADS = {
    "closed-loop concurrency": "closed loop",
    "static batch": "static batch",
    "offline max throughput (inf rate)": "offline",
    "constant rate req/s": "constant rate",
    "poisson rate req/s": "poisson rate",
}
MOST_AT_ONCE, MOST_TOKENS = 100_000, 10_000_000
METRICS = {
    "ttft_mean": "ttft_mean_ms",
    "ttft_p50": "ttft_p50_ms",
    "ttft_p99": "ttft_p99_ms",
    "tpot_mean": "tpot_mean_ms",
    "tpot_p50": "tpot_p50_ms",
}
# Names by which model hubs and data sets call architectures of the catalog.
SAME_MODEL = {
    "llama-3.1-8b-instruct": "Meta-Llama-3.1-8B",
    "llama-3.1-70b-instruct": "Meta-Llama-3.1-70B",
    "llama-3.3-70b-instruct": "Meta-Llama-3.1-70B",
    "llama-3.1-405b-instruct": "Meta-Llama-3.1-405B",
    "deepseek-r1-0528": "DeepSeek-R1",
    "llama2-70b": "Llama-2-70b-hf",
    "llama-2-70b-chat-hf": "Llama-2-70b-hf",
    "llama-2-7b-chat-hf": "Llama-2-7b-hf",
    "llama-4-scout-17b-16e": "Llama-4-Scout-17B-16E-Instruct",
    "mixtral-8x7b-instruct-v0.1": "Mixtral-8x7B-v0.1",
}
# What is looked for in a GPU's name, in this order, and the part of the catalog.
PARTS = (
    (r"gh200.*144", "gh200-144"), (r"gh200", "gh200-96"), (r"gb300", "gb300"), (r"gb200", "gb200"),
    (r"h100.*nvl", "h100-nvl"), (r"h100.*pcie", "h100-pcie"), (r"h100", "h100-sxm"), (r"h200", "h200-sxm"),
    (r"b300", "b300-sxm"), (r"b200", "b200-sxm"), (r"a100.*40.*", "a100-40-sxm"),
    (r"a100.*pcie", "a100-80-pcie"), (r"a100", "a100-80-sxm"), (r"l40s", "l40s"),
    (r"rtx ?pro ?6000", "rtxpro6000"), (r"4090", "rtx4090"), (r"3090", "rtx3090"), (r"5090", "rtx5090"),
    (r"mi300x", "mi300x"), (r"mi325x", "mi325x"), (r"mi355x", "mi355x"),
)  # fmt: skip
ENGINES = (("vllm", "vllm"), ("sglang", "sglang"), ("trt", "trtllm"), ("tensorrt", "trtllm"))
WEIGHTS = {
    "bf16": "bf16",
    "fp16": "bf16",
    "bf16/fp16": "bf16",
    "fp8": "fp8",
    "fp4": "nvfp4",
    "nvfp4": "nvfp4",
}
NATIVE = {"mxfp4", ""}  # as the checkpoint stores them


@dataclass(frozen=True)
class Deployment:
    """A model served by an engine on a machine: what a calibration belongs to."""

    model: str  # a name of the catalog
    part: str
    engine: str
    version: str
    weights: str | None  # None: as the checkpoint stores them
    kv: str | None
    layout: Layout

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Model, GPU, engine and precision."""
        return self.model, self.part, self.engine, self.weights or "checkpoint"


@dataclass(frozen=True)
class Row:
    """One measurement. Times are in seconds; what was not measured is absent from `measured`."""

    line: int  # of the file
    source: str
    deployment: Deployment
    load: str  # a value of LOADS
    concurrency: int  # 0 where requests come at a rate
    prompt: float  # nominal tokens
    output: float
    spread: float  # lengths lie between (1 - spread) and the whole of the nominal ones
    measured: Mapping[str, float]  # ttft_mean, ttft_p50, ttft_p99, tpot_mean, tpot_p50, throughput
    rate: float = 0.0  # requests per second, where they come at a rate
    prefix: int = 0  # tokens with which every prompt begins alike
    step_tokens: int | None = None  # that the engine was started with, where the row says so
    max_running: int | None = None

    @property
    def tpot_s(self) -> float | None:
        """The mean where there is one, otherwise the median."""
        return self.measured.get("tpot_mean", self.measured.get("tpot_p50"))


@dataclass(frozen=True)
class SetAside:
    """A row that no prediction is held to, and why. `usable` rows are ours to predict and were not."""

    line: int
    source: str
    reason: str
    usable: bool


@dataclass(frozen=True)
class Table:
    rows: list[Row]
    aside: list[SetAside]


def read_table(path: Path) -> Table:
    """All rows of a CSV file, plain or gzipped; InputError if it has not the columns."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}: give the columns of end_to_end.csv")
    try:
        given = [{k: v or "" for k, v in row.items() if k is not None} for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from None
    known: set[tuple[str, ...]] = set()
    rows: list[Row] = []
    aside: list[SetAside] = []
    falling = _falling(given)
    for line, row in enumerate(given, start=2):
        reason = (
            _unsaid(row)
            or _trap(row, known)
            or ("TPOT falls as concurrency rises" if line in falling else "")
        )
        if reason:
            aside.append(SetAside(line, row.get("source", ""), reason, usable=False))
            continue
        try:
            rows.append(_row(line, row))
        except InputError as error:
            aside.append(SetAside(line, row.get("source", ""), str(error), usable=True))
    return Table(rows, aside)


def _unsaid(row: Mapping[str, str]) -> str:
    """What a prediction needs and the row does not say."""
    if _number(row["tp"]) < 1:
        return "the layout is not stated"
    if _flag(row.get("disagg", "")):
        return "prefill and decode disaggregated, ratio of the parts not in columns"
    if row.get("spec_decoding", "") not in ("", "none"):
        return "speculative, acceptance not stated"
    if row.get("ep", "") not in ("",) and not row["ep"].isdigit():
        return "expert parallel, ranks not stated"
    if "per splitwise" in row["engine"].lower():
        return "an engine of 2023, version not stated"
    if row["load_type"] not in LOADS:
        return f"load '{row['load_type']}'"
    if "multi-turn" in row.get("len_note", ""):
        return "several turns, and how much of a prompt was in the cache is not stated"
    for name in ("isl", "osl"):
        if not _number(row[name]):
            return "lengths are not stated"
        if _number(row[name]) > MOST_TOKENS:
            return f"more than {MOST_TOKENS:,} tokens in a request"
    if not row["load_type"].startswith("offline") and not _number(row["concurrency_or_rate"]):
        return "concurrency or rate is not stated"
    if _number(row["concurrency_or_rate"]) > MOST_AT_ONCE:
        return f"more than {MOST_AT_ONCE:,} requests at once, or in a second"
    if not any(_number(row.get(column, "")) for column in (*METRICS.values(), "output_tok_s_total")):
        return "nothing is measured"
    return ""


def _trap(row: Mapping[str, str], known: set[tuple[str, ...]]) -> str:
    """What shows, without any prediction, that the numbers are not what the columns say."""
    ttft, whole = _number(row.get("ttft_mean_ms", "")), _number(row.get("e2e_mean_ms", ""))
    numbers = tuple(row.get(name, "") for name in ("ttft_mean_ms", "tpot_mean_ms", "isl", "osl", "gpu"))
    numbers = (*numbers[:4], _part(numbers[4]) or numbers[4])
    repeated = numbers in known and bool(ttft)
    known.add(numbers)
    if repeated and _number(row.get("dp", "")) > 1:
        return "data parallel, and repeats another row's numbers"
    if ttft and whole and ttft > 0.5 * whole:
        return "queueing: TTFT over half of the whole"
    return ""


def _falling(rows: Iterable[Mapping[str, str]]) -> set[int]:
    """Lines of a series (all alike but concurrency) in which TPOT falls by over 25 % as concurrency rises."""
    series: dict[tuple[str, ...], list[tuple[float, float, int]]] = {}
    others = ("source", "engine", "engine_version", "model", "weights_dtype", "gpu", "tp", "ep", "dp",
              "dp_attention", "isl", "osl", "load_type")  # fmt: skip
    for line, row in enumerate(rows, start=2):
        batch, tpot = _number(row["concurrency_or_rate"]), _number(row.get("tpot_mean_ms", ""))
        if batch and tpot and row["load_type"].startswith("closed"):
            series.setdefault(tuple(row.get(name, "") for name in others), []).append((batch, tpot, line))
    found = set()
    for points in series.values():
        points.sort()
        for (batch, tpot, line), (more, less, other) in pairwise(points):
            if more > batch and less < 0.75 * tpot:
                found |= {line, other}
    return found


def _row(line: int, row: Mapping[str, str]) -> Row:
    load = LOADS[row["load_type"]]
    measured = {name: _number(row.get(column, "")) / 1e3 for name, column in METRICS.items()}
    if row.get("flag", "") == "TTFT_NONMONOTONE":  # by its publisher: other requests' waits are in it
        measured = {name: value for name, value in measured.items() if not name.startswith("ttft")}
    if "re-tokenised" not in row.get("notes", ""):  # counts of tokens that were not sent like this
        measured["throughput"] = _number(row.get("output_tok_s_total", ""))
    note = row.get("len_note", "")
    load_size = _number(row["concurrency_or_rate"])
    at_rate = load.endswith("rate")
    return Row(
        line=line,
        source=row.get("source", ""),
        deployment=_deployment(row),
        load=load,
        concurrency=0 if at_rate else round(load_size),
        prompt=_number(row["isl"]),
        output=_number(row["osl"]),
        spread=0.2 if "0.9x" in note or "0.8" in note else 0.0,  # of mean 0.9 times the nominal
        measured={name: value for name, value in measured.items() if value},
        rate=load_size if at_rate else 0.0,
        prefix=_stated(r"shared (\d+)-tok", note) or 0,
        step_tokens=_stated(r"max_num_batched_tokens=(\d+)", row.get("notes", "")),
        max_running=_stated(r"max_num_seqs=(\d+)", row.get("notes", "")),
    )


def _stated(pattern: str, text: str) -> int | None:
    """The number that a remark gives, if it does."""
    found = re.search(pattern, text)
    return int(found[1]) if found else None


def _deployment(row: Mapping[str, str]) -> Deployment:
    part, engine = _part(row["gpu"]), _engine(row["engine"])
    if part is None:
        raise InputError(f"GPU '{row['gpu']}' is not in the catalog")
    if engine is None:
        raise InputError(f"engine '{row['engine']}' is not known")
    model = model_name(row["model"])
    stored = row.get("weights_dtype", "")
    if stored not in WEIGHTS and stored not in NATIVE:
        raise InputError(f"weights in '{stored}' are not known")
    # gpt-oss has experts in mxfp4 and the rest in 16 bits whatever a data set calls it
    native = stored in NATIVE or "gpt-oss" in model
    version = re.search(r"(\d+\.\d+(?:\.\d+)?(?:(?:rc|post)\d+)?)", row.get("engine_version", ""))
    return Deployment(
        model=model,
        part=part,
        engine=engine,
        version=version[1] if version else row.get("engine_version", ""),
        weights=None if native else WEIGHTS[stored],
        kv=_cache_format(row, engine),
        layout=_layout(row),
    )


def _cache_format(row: Mapping[str, str], engine: str) -> str | None:
    """TensorRT-LLM keeps the cache in 8 bits beside weights of 8 or 4, as its checkpoints ask for."""
    stated = row.get("kv_dtype", "")
    quantized = row.get("weights_dtype", "") in ("fp8", "fp4", "nvfp4") and "gpt-oss" not in row["model"]
    return "fp8" if "fp8" in stated or (not stated and quantized and engine == "trtllm") else None


def _layout(row: Mapping[str, str]) -> Layout:
    ranks = [round(_number(row.get(name, "")) or 1) for name in ("tp", "pp", "ep", "dp")]
    tensor, pipeline, experts, data = ranks
    if _flag(row.get("dp_attention", "")) and data == 1:
        # attention is copied, experts are shared among all ranks, whichever way they are cut
        return Layout(1, pipeline, tensor, tensor)
    return layout(tensor, pipeline, experts, data)


def model_name(name: str) -> str:
    """The catalog's name of a model as data sets call it; InputError if there is none."""
    plain = re.sub(r"\s*\[.*\]$", "", name).split("/")[-1].lower()
    plain = SAME_MODEL.get(plain, plain).lower()
    for full in catalog():
        known = full.split("/")[-1]
        if known.lower().removeprefix("meta-") == plain.removeprefix("meta-"):
            return known
    raise InputError(f"model '{name}' is not in the catalog")


def _part(name: str) -> str | None:
    plain = name.lower().replace("_", "-").strip()
    if plain in accelerators():
        return plain
    return next((part for pattern, part in PARTS if re.search(pattern, plain)), None)


def _engine(name: str) -> str | None:
    return next((engine for start, engine in ENGINES if name.lower().startswith(start)), None)


def _flag(text: str) -> bool:
    return text.strip().lower().startswith("true")


def _number(text: str) -> float:
    """0 where there is none, or none that a measured quantity can be."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if 0 < number < float("inf") else 0.0
