"""The memory wall over the years: how arithmetic outgrew memory bandwidth, and which pair of parts says so.

Every number comes from the catalog's wall_history.csv, hbm_generations.csv and gholami_points.csv. A claim
such as "compute grew 80 times" depends on the parts, the precision and the dates chosen, so each result
names them.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from membound.errors import InputError
from membound.hardware.lookup import FOLDER

# What "compute" may mean, best first: the columns of wall_history.csv, in TFLOP/s.
KINDS: Mapping[str, tuple[str, ...]] = {
    "fp64": ("fp64_tensor_tflops", "fp64_tflops"),  # the tensor unit where it exists, as HPC counts
    "fp64-vector": ("fp64_tflops",),
    "fp32": ("fp32_tflops",),
    "16-bit": ("dense16_tflops",),
    "llm": ("dense16_tflops", "fp32_tflops"),  # what a language model would have run on in its year
}
SERVER_GPUS = ("Tesla K20X", "Tesla K40", "P100 SXM2", "V100 SXM2", "A100 SXM 40GB", "H100 SXM")
PAIRS = (
    ("Tesla M2090", "H100 SXM, March 2022 preliminary", "fp64"),
    ("Tesla K20X", "H100 SXM", "fp64"),
    ("Tesla K20X", "H100 SXM", "fp64-vector"),
    ("Tesla K20X", "H100 SXM", "llm"),
    ("H100 SXM", "B200 SXM", "fp64"),
    ("H100 SXM", "B200 SXM", "llm"),
    ("H100 SXM", "Rubin (announced)", "llm"),
)


Ridge = tuple[float, str, float]  # year, part, FLOP per byte


def _columns(kind: str) -> tuple[str, ...]:
    if kind not in KINDS:
        raise InputError(f"unknown kind of compute '{kind}': one of {', '.join(KINDS)}")
    return KINDS[kind]


@dataclass(frozen=True, slots=True)
class Device:
    """A part in its year: peaks in TFLOP/s by column, bandwidth in GB/s."""

    name: str
    year: float
    peaks_tflops: Mapping[str, float]
    bandwidth_gbs: float

    def compute_tflops(self, kind: str) -> float:
        """Peak of the named kind of arithmetic (KINDS); refused where it is not published."""
        for column in _columns(kind):
            if column in self.peaks_tflops:
                return self.peaks_tflops[column]
        raise InputError(f"{self.name}: no {kind} rate is published")

    def has(self, kind: str) -> bool:
        """Whether a rate of this kind is published."""
        return any(column in self.peaks_tflops for column in _columns(kind))


@dataclass(frozen=True, slots=True)
class Growth:
    """How much compute and bandwidth grew from one part to another, as ratios."""

    start: str
    end: str
    kind: str
    years: float
    compute: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Log-linear growth through several parts, over `per_years` years."""

    devices: tuple[str, ...]
    kind: str
    per_years: float
    compute: float
    bandwidth: float


@cache
def devices() -> dict[str, Device]:
    """The parts of wall_history.csv by name, by year."""
    columns = {column for kind in KINDS.values() for column in kind}
    found = [
        Device(
            row["device"],
            float(row["year"]),
            {column: float(row[column]) for column in columns if row[column]},
            float(row["bw_gbs"]),
        )
        for row in _rows("wall_history.csv")
    ]
    return {device.name: device for device in sorted(found, key=lambda d: d.year)}


def device(name: str) -> Device:
    """A part by its name, or by the only name that contains it."""
    known = devices()
    matches = [n for n in known if n.lower() == name.lower()] or [
        n for n in known if name.lower() in n.lower()
    ]
    if len(matches) != 1:
        choice = ", ".join(matches or known)
        raise InputError(f"'{name}' names {len(matches)} parts of the wall's history; one of: {choice}")
    return known[matches[0]]


def growth(start: str, end: str, kind: str = "fp64") -> Growth:
    """Growth of compute (of one kind) and of bandwidth between any two parts."""
    a, b = device(start), device(end)
    return Growth(
        a.name,
        b.name,
        kind,
        b.year - a.year,
        b.compute_tflops(kind) / a.compute_tflops(kind),
        b.bandwidth_gbs / a.bandwidth_gbs,
    )


def fit(
    names: Sequence[str] = SERVER_GPUS,
    kind: str = "fp64",
    per_years: float = 10.0,
    dated: Mapping[str, float] | None = None,
) -> Fit:
    """Least squares of log figures on dates, as growth over `per_years`; `dated` moves parts in time."""
    parts = [device(name) for name in names]
    moved = dict(dated or {})
    years = [moved.get(part.name, part.year) for part in parts]
    return Fit(
        tuple(part.name for part in parts),
        kind,
        per_years,
        _slope(years, [part.compute_tflops(kind) for part in parts], per_years),
        _slope(years, [part.bandwidth_gbs for part in parts], per_years),
    )


def gholami(per_years: float = 2.0) -> dict[str, float]:
    """Growth of FLOPS, DRAM and interconnect bandwidth through the points of Gholami et al. (2024), figure 1.

    Least squares of the points; the authors' drawn lines give 3.026, 1.592 and 1.415 per two years.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for row in _rows("gholami_points.csv"):
        series.setdefault(row["series"], []).append((float(row["year"]), float(row["value"])))
    names = {"flops": "flops", "dram_gbs": "dram", "interconnect_gt_per_s_per_lane": "interconnect"}
    return {
        short: _slope([x for x, _ in series[name]], [y for _, y in series[name]], per_years)
        for name, short in names.items()
    }


def ridges(kind: str = "llm") -> list[Ridge]:
    """Of every part that publishes the kind."""
    return [
        (part.year, part.name, part.compute_tflops(kind) * 1e3 / part.bandwidth_gbs)
        for part in devices().values()
        if part.has(kind)
    ]


def hbm_generations() -> list[tuple[int, str, float]]:
    """(year, generation, GB/s of one stack)."""
    return [
        (int(r["year"]), r["generation"], float(r["gbs_per_stack"])) for r in _rows("hbm_generations.csv")
    ]


def _slope(years: Sequence[float], values: Sequence[float], per_years: float) -> float:
    if len(set(years)) < 2:
        raise InputError("a fit needs parts of at least two dates")
    logs = [math.log(value) for value in values]
    x0, y0 = math.fsum(years) / len(years), math.fsum(logs) / len(logs)
    covariance = math.fsum((x - x0) * (y - y0) for x, y in zip(years, logs, strict=True))
    return math.exp(per_years * covariance / math.fsum((x - x0) ** 2 for x in years))


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
