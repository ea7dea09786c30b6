"""One real run of vLLM, request by request, beside its simulation; nothing was fitted to it."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from membound.costs.deployment import deployment
from membound.simulation.engines import engine_settings
from membound.simulation.simulate import simulate
from membound.workloads.arrivals import Arrival, Open

DATA = Path(__file__).parent / "data" / "vllm_requests.jsonl.gz"
MODEL, PART = "Meta-Llama-3.1-8B", "rtxpro6000"
STEP_TOKENS, MAX_RUNNING = 2048, 128  # as the run's own record says


@dataclass(frozen=True)
class Compared:
    """A percentile of a metric, measured and predicted, in seconds."""

    metric: str
    percentile: int
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1


def compare_requests(path: Path = DATA) -> list[Compared]:
    """TTFT and TPOT of the run's arrivals and lengths; p50 and p90."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows.sort(key=lambda row: row["arrival_time"])
    first = rows[0]["arrival_time"]
    arrivals = [Arrival(row["arrival_time"] - first, row["input_toks"], row["output_toks"]) for row in rows]
    asked = deployment(MODEL, PART, tp=1, engine="vllm")
    settings = engine_settings(
        "vllm", asked.cluster.accelerator, max_step_tokens=STEP_TOKENS, max_running=MAX_RUNNING
    )
    result = simulate(asked, Open(lambda: iter(arrivals)), settings=settings)
    # the record's times begin when the engine has the request: the server's own time is not in them
    waited = result.ttft_s - settings.server_s
    measured = {
        "ttft": np.array([row["first_token_ts"] - row["queued_ts"] for row in rows]),
        "tpot": np.array(
            [
                (row["last_token_ts"] - row["first_token_ts"]) / (row["output_toks"] - 1)
                for row in rows
                if row["output_toks"] > 1
            ]
        ),
    }
    predicted = {"ttft": waited, "tpot": result.tpot_s[np.isfinite(result.tpot_s)]}
    return [
        Compared(
            metric, percentile,
            float(np.percentile(measured[metric], percentile)),
            float(np.percentile(predicted[metric], percentile)),
        )
        for metric in ("ttft", "tpot")
        for percentile in (50, 90)
    ]  # fmt: skip
