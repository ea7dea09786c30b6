"""Names to hardware: the catalog folder beside this file, or a user's TOML file."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from membound.errors import InputError
from membound.hardware.accelerator import RATES, Accelerator, Cluster, Link, Memory

FOLDER = Path(__file__).parent / "catalog"

# Columns of the CSV, which are also the words of a TOML file, and the figure and factor each stands for.
_FIGURES: Mapping[str, tuple[str, float]] = {
    "mem_gb": ("memory_bytes", 1e9),
    "bw_gbs": ("bandwidth_bytes_per_s", 1e9),
    "l2_mb": ("l2_bytes", 1e6),
    "tdp_w": ("tdp_w", 1.0),
    "node_size": ("node_size", 1.0),
    "price_usd_per_h": ("price_usd_per_h", 1.0),
}
_TEXTS = ("name", "vendor", "status", "confidence", "sources", "notes")
_TOML_KEYS = {*_FIGURES, *_TEXTS, "id", "base", "year", "mem_type"}
_TOML_TABLES = {
    "peak_tflops": set(RATES),
    "link": {"name", "gbs_per_direction", "latency_us"},
    "network": {"name", "gbs_per_direction", "latency_us"},
    "weight_memory": {"name", "gb", "gbs"},
}


def find(name: str, threads: int | None = None) -> Cluster:
    """The hardware that `--on` names: an id (`h100-sxm`), a count of it (`8xh100-sxm`), or a TOML file.

    A what-if is found by its file's name (`flash-b200`); `this` is this machine as it was last
    probed with so many threads, or is now. Unknown names are refused with the nearest ones.
    """
    counted = re.fullmatch(r"(\d+)x(.+)", name.strip())
    count = int(counted[1]) if counted else None
    part = counted[2] if counted else name.strip()
    if count == 0:
        raise InputError(f"'{name}' is no hardware at all: give a count of at least 1")
    if part.lower().endswith(".toml"):
        return Cluster(read_toml(Path(part)), count)
    if part.lower() == "this":
        return Cluster(this_machine(threads=threads), count)
    known = accelerators()
    if part.lower() in known:
        return Cluster(known[part.lower()], count)
    if (FOLDER / "what-if" / f"{part.lower()}.toml").is_file():
        return Cluster(what_ifs()[part.lower()], count)
    near = difflib.get_close_matches(part.lower(), [*known, *what_ifs()], n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise InputError(f"unknown hardware '{part}': {hint}`membound hardware` lists them; or give a TOML file")


def this_machine(working_set: int | None = None, threads: int | None = None) -> Accelerator:
    """One node of one: its measured roofs stand where a data sheet's peaks would, those of so many threads.

    It reads as fast as a working set of that many bytes is read, some of which caches may keep; None is
    beyond them.
    """
    from membound.hardware.probe import cached, probe  # brings the kernels: only where they are asked for

    roofs = cached(threads) or probe(threads=threads)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Accelerator(
        id="this",
        name=roofs.processor,
        figures={
            "memory_bytes": float(memory),
            "bandwidth_bytes_per_s": (
                roofs.read_bandwidth_bytes_per_s if working_set is None else roofs.bandwidth(working_set)
            ),
            "node_size": 1.0,
        },
        peaks=dict(roofs.peaks),
        sources="membound probe",
    )


@cache
def accelerators() -> dict[str, Accelerator]:
    """The published parts by id, in the order of the catalog."""
    with (FOLDER / "accelerators.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: _from_row(row) for row in csv.DictReader(file)}


@cache
def what_ifs() -> dict[str, Accelerator]:
    """Hardware that does not exist, by id: each a TOML file that says what it assumes."""
    return {path.stem: read_toml(path) for path in sorted((FOLDER / "what-if").glob("*.toml"))}


def read_toml(path: Path) -> Accelerator:
    """A user's part, in the words of the catalog's columns (its README.md), from `base` if given."""
    try:
        with path.open("rb") as file:
            given = tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from None
    _check_keys(path, given)
    base = Accelerator(id="", name="")
    if "base" in given:
        if str(given["base"]) not in accelerators():
            raise InputError(f"{path}: base = '{given['base']}' is not in the catalog")
        base = accelerators()[str(given["base"])]
    # What is published about the base is not published about a changed part: its price and sources go.
    figures = {k: v for k, v in base.figures.items() if k != "price_usd_per_h"}
    figures |= {
        _FIGURES[k][0]: _positive(path, k, v) * _FIGURES[k][1] for k, v in given.items() if k in _FIGURES
    }
    if "node_size" in given:
        _whole(path, "node_size", given["node_size"])
    peaks = dict(base.peaks)
    peaks |= {rate: _positive(path, rate, v) * 1e12 for rate, v in given.get("peak_tflops", {}).items()}
    weights = given.get("weight_memory")
    return dataclasses.replace(
        base,
        id=str(given.get("id", path.stem)),
        name=str(given.get("name", path.stem)),
        status=str(given.get("status", "")),
        confidence=str(given.get("confidence", "")),
        sources=str(given.get("sources", "")),
        notes=str(given.get("notes", "")),
        vendor=str(given.get("vendor", base.vendor)),
        year=_whole(path, "year", given["year"]) if "year" in given else base.year,
        figures=figures,
        peaks=peaks,
        memory_type=str(given.get("mem_type", base.memory_type)),
        weight_memory=None
        if weights is None
        else Memory(
            str(weights.get("name", "weight memory")),
            _positive(path, "weight_memory.gb", weights.get("gb")) * 1e9,
            _positive(path, "weight_memory.gbs", weights.get("gbs")) * 1e9,
        ),
        link=_toml_link(path, "link", given, base.link),
        network=_toml_link(path, "network", given, base.network),
    )


def _whole(path: Path, key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"{path}: {key} must be a whole number of at least 1, it is {value!r}")
    return value


def _check_keys(path: Path, given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if key in _TOML_TABLES:
            if not isinstance(value, dict):
                raise InputError(f"{path}: {key} must be a table, [{key}]")
            wrong = set(value) - _TOML_TABLES[key]
            wrong = {f"{key}.{inner}" for inner in wrong}
        else:
            wrong = {key} - _TOML_KEYS
        if wrong:
            raise InputError(f"{path}: not understood: {', '.join(sorted(wrong))}")


def _toml_link(path: Path, kind: str, given: Mapping[str, Any], base: Link | None) -> Link | None:
    if kind not in given:
        return base
    table = given[kind]
    latency = table.get("latency_us", base.latency_s * 1e6 if base else _latency_us(kind))
    return Link(
        str(table.get("name", kind)),
        _positive(path, f"{kind}.gbs_per_direction", table.get("gbs_per_direction")) * 1e9,
        _positive(path, f"{kind}.latency_us", latency) * 1e-6,
    )


def _positive(path: Path, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"{path}: {name} must be a positive number, not {value!r}")
    return float(value)


def _from_row(row: Mapping[str, str]) -> Accelerator:
    inner = None
    if row["link_gbs_per_dir"]:
        inner = Link(row["link"], float(row["link_gbs_per_dir"]) * 1e9, _latency_us(row["link"]) * 1e-6)
    outer = None
    if row["net_gbs_per_accel"]:
        outer = Link("network", float(row["net_gbs_per_accel"]) * 1e9, _latency_us("network") * 1e-6)
    columns = {rate: f"{rate}_tflops" if rate != "int8" else "int8_tops" for rate in RATES}
    return Accelerator(
        id=row["id"],
        name=row["name"],
        vendor=row["vendor"],
        status=row["status"],
        confidence=row["confidence"],
        sources=row["sources"],
        notes=row["notes"],
        year=int(row["year"]),
        figures={figure: float(row[c]) * by for c, (figure, by) in _FIGURES.items() if row[c]},
        peaks={rate: float(row[column]) * 1e12 for rate, column in columns.items() if row[column]},
        memory_type=row["mem_type"],
        link=inner,
        network=outer,
    )


@cache
def _latencies() -> dict[str, float]:
    with (FOLDER / "links.csv").open(newline="", encoding="utf-8") as file:
        return {row["link"]: float(row["latency_us"]) for row in csv.DictReader(file)}


def _latency_us(link: str) -> float:
    table = _latencies()
    return next((us for prefix, us in table.items() if link.startswith(prefix)), table["other"])
