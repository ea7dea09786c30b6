"""membound calibrate FILE.csv: a deployment's own factors from a few rows that were measured of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from membound.commands.output import print_json, print_table, status
from membound.costs.adjustment import adjust
from membound.costs.calibration import fitted
from membound.errors import InputError
from membound.scoreboard.board import screened
from membound.scoreboard.predict import Metrics, Predictor
from membound.scoreboard.recorded import Recorder
from membound.scoreboard.rows import Deployment, Row, read_table

METRICS = ("tpot_mean", "ttft_mean")


def calibrate_rows(path: Path, *, json: bool) -> None:
    """Each deployment of the file is fitted to all its rows; before and after are told for these rows."""
    record = Recorder()
    with status("calibrating", quiet=json):
        table = screened(read_table(path), record)
        deployments: dict[Deployment, list[Row]] = defaultdict(list)
        for row in table.rows:
            deployments[row.deployment].append(row)
        if not deployments:
            why = "; ".join(sorted({one.reason for one in table.aside})) or "it has no rows"
            raise InputError(f"{path}: no row can be used to calibrate: {why}")
        found = [_fitted(deployment, rows, record) for deployment, rows in deployments.items()]
    answer = {
        "file": str(path),
        "before": {"median_error": _median(found, "before")},
        "after": {"median_error": _median(found, "after")},
        "parameters": [
            {key: one[key] for key in ("deployment", "kernels", "fixed", "server")} for one in found
        ],
        "rows": [row for one in found for row in one["rows"]],
        "excluded": [asdict(one) for one in table.aside],
    }
    if json:
        print_json(answer)
        return
    rows = [
        (one["deployment"], *(f"{one[name]:.3f}" for name in ("kernels", "fixed", "server"))) for one in found
    ]
    print_table(("times the shipped fit", "kernels", "fixed", "server"), rows)
    shown = [
        (
            f"{row['deployment']}, line {row['line']}, {row['metric'].split('_')[0].upper()}",
            *(f"{row[name] * 1e3:.2f}" for name in ("measured_s", "before_s", "after_s")),
        )
        for one in found
        for row in one["rows"]
    ]
    print_table(("milliseconds", "measured", "before", "after"), shown)
    for one in table.aside:
        print(f"set aside: line {one.line}, {one.reason}")


def _fitted(deployment: Deployment, rows: list[Row], record: Recorder) -> dict[str, Any]:
    here = fitted().on(deployment.engine, deployment.part)
    before = Predictor(here, record)
    factors = adjust([one for row in rows for one in before.observations(row)])
    after = Predictor(factors(here), record)
    machine = f"{deployment.layout.ranks}x{deployment.part}"
    name = f"{deployment.model} on {machine}, {deployment.engine} {deployment.version}".strip()
    return {
        "deployment": name,
        **asdict(factors),
        "rows": [
            {"deployment": name, "line": row.line, "metric": metric, "measured_s": row.measured[metric],
             "before_s": told[0][metric], "after_s": told[1][metric]}
            for row in rows
            for told in [_both(before, after, row)]
            for metric in METRICS
            if metric in row.measured
        ],
    }  # fmt: skip


def _both(before: Predictor, after: Predictor, row: Row) -> tuple[Metrics, Metrics]:
    return before.means(row), after.means(row)


def _median(found: list[dict[str, Any]], which: str) -> float | None:
    errors = [abs(row[f"{which}_s"] / row["measured_s"] - 1) for one in found for row in one["rows"]]
    return float(np.median(errors)) if errors else None
