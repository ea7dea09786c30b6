"""One load of membound bench: what was measured and predicted, as JSON and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membound.commands.predict import Prediction
from membound.errors import InputError
from membound.measuring.noise import intervals, rate_interval
from membound.measuring.summary import Measured
from membound.workloads.offered import Offered


@dataclass(frozen=True)
class Point:
    """One load, what was measured, and what was predicted."""

    offered: Offered
    measured: Measured
    run: int | None
    prediction: Prediction | None = None

    @property
    def label(self) -> str:
        return label(self.offered)


def label(offered: Offered) -> str:
    """A load in a few words."""
    if offered.rate is not None:
        return f"{offered.rate:g} req/s"
    if offered.concurrency is not None:
        return f"{offered.concurrency} users"
    if offered.ramp is not None:
        return f"{offered.ramp[0]:g} to {offered.ramp[1]:g} req/s"
    return f"{offered.trace} x {offered.rate_scale:g}"


def point_json(point: Point) -> dict[str, Any]:
    around = intervals(point.measured)
    found = {
        "load": point.label,
        "rate": point.offered.rate,
        "concurrency": point.offered.concurrency,
        "run": point.run,
        **point.measured.as_json(),
        "interval": {
            **{name: found["mean"] for name, found in around.items()},
            "output_tok_per_s": rate_interval(point.measured),
        },
        "intervals": around,
    }
    if point.prediction is not None:
        found["predicted"] = point.prediction.as_json()
    return found


COLUMNS = (
    "load", "number", "session", "turn", "intended_s", "sent_s", "ended_s", "asked_prompt_tokens",
    "prompt_tokens", "cached_tokens", "asked_output_tokens", "output_tokens", "counted_by", "events",
    "ttft_s", "tpot_s", "e2e_s", "scheduled_latency_s", "dispatch_delay_s", "error", "message",
)  # fmt: skip


def write_csv(points: Sequence[Point], path: Path) -> None:
    """A row for each request, also those that warm-up and cool-down leave out of the figures."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for point in points:
                for record in point.measured.run.records:
                    timing = record.timing
                    extra = {
                        "load": point.label,
                        "events": len(record.events_s),
                        "ttft_s": timing.ttft_s,
                        "tpot_s": timing.tpot_s,
                        "e2e_s": timing.e2e_s,
                    }
                    writer.writerow(
                        [extra[name] if name in extra else getattr(record, name) for name in COLUMNS]
                    )
    except OSError as error:
        raise InputError(f"--csv {path}: cannot be written ({error.strerror})") from None
