"""One sequence at a time, as llama.cpp, gpt-fast and Ollama run it: bytes over bandwidth, and little else.

Nothing was fitted to these rows. The machine is known by its nominal bandwidth only, so what a token reads is
taken at the share of it that the fit found for GPUs; the engines' own overhead is taken as none. Several
devices that divide a model by layers work one after the other; gpt-fast's divide tensors and work at once.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membound.costs.calibration import fitted
from membound.costs.parallel import Layout
from membound.costs.precisions import Precisions
from membound.costs.roofline import StepCost
from membound.errors import InputError
from membound.hardware.accelerator import Accelerator, Cluster
from membound.hardware.lookup import find
from membound.models.families import build
from membound.models.names import dimensions_of
from membound.models.quantization import FORMATS, Format, Quantization
from membound.scoreboard.scores import score

DATA = Path(__file__).parent / "data" / "single_stream.csv.gz"
MODELS = {
    "llama-2-7b": "Llama-2-7b-hf",
    "llama-2-70b": "Llama-2-70b-hf",
    "llama-3-8b": "Meta-Llama-3.1-8B",  # of the same dimensions
    "llama-3.1-8b": "Meta-Llama-3.1-8B",
    "llama-3-70b": "Meta-Llama-3.1-70B",
    "llama-3.1-70b": "Meta-Llama-3.1-70B",
    "llama-3.1-405b": "Meta-Llama-3.1-405B",
    "gpt-oss-20b": "gpt-oss-20b",
    "gpt-oss-120b": "gpt-oss-120b",
}
RIDGE = 100.0  # FLOP per byte of a part whose rates are not in the row: one sequence is far below any
MIXED = {"gpt-oss-20b", "gpt-oss-120b"}  # experts in four bits, the rest in more: as the checkpoint has it
NVLINK = "a100-80-sxm"  # whose link joins gpt-fast's devices


@dataclass(frozen=True)
class Stream:
    """A row: what it took per token, and what is predicted."""

    engine: str
    device: str
    model: str
    measured_s: float
    predicted_s: float

    @property
    def ratio(self) -> float:
        return self.measured_s / self.predicted_s


def read_streams(path: Path = DATA) -> tuple[list[Stream], dict[str, int]]:
    """Predictions of all rows that can be used, and how many could not, by reason."""
    with gzip.open(path, "rb") as file:
        text = io.TextIOWrapper(file, encoding="utf-8").read()
    found: list[Stream] = []
    reasons: dict[str, int] = defaultdict(int)
    for row in csv.DictReader(io.StringIO(text)):
        model = MODELS.get(row["model"].lower())
        if model is None:
            reasons[f"model '{row['model']}' is not in the catalog"] += 1
        elif not row["tg_tok_s"] or not row["nominal_bw_GBs"] or not row["model_gib"]:
            reasons["speed, bandwidth or size is not stated"] += 1
        else:
            engine = row["engine"].split(" ")[0]
            measured = 1 / float(row["tg_tok_s"])
            found.append(Stream(engine, row["device"], model, measured, _seconds(row, model, engine)))
    return found, dict(reasons)


def stream_scores(path: Path = DATA) -> dict[str, Any]:
    """By engine, and why rows were set aside."""
    found, reasons = read_streams(path)
    engines = sorted({one.engine for one in found})
    return {
        "engines": [
            {"engine": name, **score([one.ratio for one in found if one.engine == name])} for name in engines
        ],
        "excluded": [{"reason": reason, "n": n} for reason, n in sorted(reasons.items())],
    }


def _seconds(row: Mapping[str, str], model: str, engine: str) -> float:
    known = dimensions_of(model)
    bandwidth = float(row["nominal_bw_GBs"]) * 1e9
    devices = int(row["n_dev"] or 1)
    tensor = devices if engine == "gpt-fast" else 1
    link = find(NVLINK).accelerator.link
    part = Accelerator(
        id=row["device"],
        name=row["device"],
        figures={"bandwidth_bytes_per_s": bandwidth, "node_size": float(devices)},
        peaks={"bf16": RIDGE * bandwidth},
        link=link,
    )
    kv = FORMATS["bf16"]
    if model in MIXED:
        formats = Precisions(known.quantization, kv, "bf16")
    else:
        bits = 8 * float(row["model_gib"]) * 2**30 / _parameters(model)
        formats = Precisions(Quantization(Format(row["quant"], bits, "bf16")), kv, "bf16")
    try:
        cost = StepCost(known, Cluster(part), formats, Layout(tensor=tensor), fitted(), "none")
    except InputError:
        cost = StepCost(known, Cluster(part), formats, Layout(), fitted(), "none")
    tokens = re.search(r"\d+", row["tg_test"])
    return cost.step_seconds([(1, int(tokens[0]) // 2 if tokens else 0)])


def _parameters(model: str) -> float:
    return float(build(dimensions_of(model)).parameters())
