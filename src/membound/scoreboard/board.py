"""The scoreboard: every usable row predicted, and how far the predictions are from what was measured.

Three predictions of each row: with the shipped fit, with fits that did not see its GPU or its model (in
left_out/), and with the deployment's own factors from two of its rows, which are then not scored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from membound.costs.adjustment import adjust
from membound.costs.calibration import FILE, Calibration, fitted
from membound.costs.intervals import Regime, interval
from membound.scoreboard.predict import Metrics, Predictor, floors
from membound.scoreboard.recorded import Recorder, cost_of, ideal
from membound.scoreboard.rows import Deployment, Row, SetAside, Table, read_table

DATA = Path(__file__).parent / "data" / "end_to_end.csv.gz"
LEFT_OUT = Path(__file__).parent / "left_out"
SCORED = {"tpot": ("tpot_mean", "tpot_p50"), "ttft": ("ttft_mean", "ttft_p50"), "throughput": ("throughput",)}
PAIRS_FROM = 4  # rows of a deployment from which two are given away to calibrate it


@dataclass(frozen=True)
class Scored:
    """A row and its predictions. `unseen` are those of the fits without its part and without its model."""

    row: Row
    predicted: Metrics
    unseen: Mapping[str, Metrics]  # "part", "model"
    calibrated: Metrics | None  # None where the row was used to calibrate, or has too few beside it

    def ratio(self, metric: str, which: str = "in sample") -> float | None:
        """Measured over predicted; None where either is absent."""
        found = self.predicted if which == "in sample" else self.unseen.get(which)
        if which == "calibrated":
            found = self.calibrated
        name = next((name for name in SCORED[metric] if name in self.row.measured), None)
        if found is None or name is None:
            return None
        value = found.get(name) or found.get(SCORED[metric][0])
        return self.row.measured[name] / value if value else None


@dataclass(frozen=True)
class Board:
    """All that was predicted, and what was set aside."""

    scored: list[Scored]
    aside: list[SetAside]
    regimes: Mapping[int, Regime] = field(default_factory=dict)  # by line

    @property
    def coverage(self) -> float:
        """Of usable rows, the share that is predicted."""
        missed = sum(one.usable for one in self.aside)
        return len(self.scored) / max(1, len(self.scored) + missed)

    def ratios(self, metric: str, which: str = "in sample") -> np.ndarray:
        """Measured over predicted of all rows that have the metric."""
        found = [one.ratio(metric, which) for one in self.scored]
        return np.array([ratio for ratio in found if ratio is not None])

    def within(self, metric: str, which: Iterable[str] = ("part", "model")) -> list[bool]:
        """Whether left-out measurements lie in their intervals."""
        return [
            ratio in interval(metric, self.regimes[one.row.line])
            for kind in which
            for one in self.scored
            if (ratio := one.ratio(metric, kind)) is not None
        ]


def screened(table: Table, record: Recorder) -> Table:
    """Without rows that no machine can have run: faster than the peaks of its data sheet, or not fitting."""
    rows, aside = [], list(table.aside)
    for row in table.rows:
        try:
            floor = floors(row, record, ideal(row.deployment))["tpot_mean"]
        except ValueError as error:  # InputError is one
            aside.append(SetAside(row.line, row.source, str(error), usable=True))
            continue
        if row.tpot_s is not None and row.tpot_s < floor:
            aside.append(
                SetAside(row.line, row.source, "TPOT below the floor of the data sheet", usable=False)
            )
        else:
            rows.append(row)
    return Table(rows, aside)


def usable_rows(path: Path = DATA) -> list[Row]:
    """Rows that a prediction is held to."""
    return screened(read_table(path), Recorder()).rows


def board(path: Path = DATA, every: int = 1) -> Board:
    """Predicts all rows of a file, or one in `every`."""
    record = Recorder()
    table = read_table(path)
    table = screened(Table(table.rows[::every], table.aside), record)
    shipped = Predictor(fitted(), record)
    without: dict[str, Predictor] = {}

    def unseen(key: str) -> Predictor:
        if key not in without:
            file = LEFT_OUT / f"{key}.toml"
            without[key] = Predictor(fitted(file if file.is_file() else FILE), record)
        return without[key]

    calibrated = _calibrated(table.rows, record, shipped.calibration)
    scored = [
        Scored(
            row,
            shipped(row),
            {kind: unseen(getattr(row.deployment, kind)).means(row) for kind in ("part", "model")},
            calibrated.get(row.line),
        )
        for row in table.rows
    ]
    return Board(scored, table.aside, {row.line: _regime(row) for row in table.rows})


def _calibrated(rows: list[Row], record: Recorder, calibration: Calibration) -> dict[int, Metrics]:
    """Means predicted after a fit to two rows of each deployment, by line; without those two."""
    deployments: dict[tuple[str, Deployment], list[Row]] = defaultdict(list)
    for row in rows:
        if row.load == "closed loop" and row.tpot_s:
            deployments[row.source, row.deployment].append(row)
    found: dict[int, Metrics] = {}
    for (_, deployment), members in deployments.items():
        if len(members) < PAIRS_FROM:
            continue
        ordered = sorted(members, key=lambda row: (row.concurrency, row.prompt, row.output, row.line))
        pair = [ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]]
        here = calibration.on(deployment.engine, deployment.part)
        predictor = Predictor(here, record)
        factors = adjust([one for row in pair for one in predictor.observations(row)])
        adjusted = Predictor(factors(here), record)
        used = {row.line for row in pair}
        found |= {row.line: adjusted.means(row) for row in members if row.line not in used}
    return found


@cache
def _parts(deployment: Deployment) -> tuple[Regime, ...]:
    cost = cost_of(deployment)
    return (Regime.of(cost, 1.0, deployment.engine),)


def _regime(row: Row) -> Regime:
    known = _parts(row.deployment)[0]
    return Regime(known.part, known.bits, float(row.concurrency), known.experts, known.engine)
