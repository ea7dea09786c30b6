"""The native engine's own parameters on this machine, as `membound calibrate this` found them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from membound import _core
from membound.costs.calibration import ByRows, Calibration, Efficiency
from membound.hardware.probe import instruction_set, kept_file, processor_name

ENGINE = "membound"
UNPACK = 8.0  # rows' worth of arithmetic that unpacking a weight is thought to cost before it is measured


@dataclass(frozen=True)
class Parameters:
    """Factors on the shipped efficiencies for this machine, and operations' worth of unpacking a weight;
    what is left of the kernels over rows was measured row by row.
    """

    memory: float = 1.0
    math: float = 1.0
    unpack: float = UNPACK
    fixed: float = 1.0
    attention: float = 1.0  # of sequences that compute one token
    prefill: float = 1.0  # attention of longer chunks
    by_rows: ByRows | None = None
    by_sampled: ByRows | None = None

    def applied(self, calibration: Calibration) -> Calibration:
        """No share of a peak exceeds one."""

        slower = {"attention": self.attention, "prefill": self.prefill}

        def of(name: str, kind: Efficiency) -> Efficiency:
            memory, math = (factor * slower.get(name, 1.0) for factor in (self.memory, self.math))
            return replace(
                kind,
                launch_s=kind.launch_s * self.fixed,
                bandwidth=min(1.0, kind.bandwidth / memory),
                compute={bits: min(1.0, share / math) for bits, share in kind.compute.items()},
                widen_launch_s=0.0,
                unpack=self.unpack if name in ("matmul", "experts") else 0.0,
            )

        engine = calibration.engine(ENGINE)
        scaled = replace(
            engine,
            per_layer_s=engine.per_layer_s * self.fixed,
            per_step_s=engine.per_step_s * self.fixed,
            per_sequence_s=engine.per_sequence_s * self.fixed,
        )
        return replace(
            calibration,
            kinds={name: of(name, kind) for name, kind in calibration.kinds.items()},
            engines={**calibration.engines, ENGINE: scaled},
            sharpness=None,  # loads run ahead of arithmetic: a step takes the larger of both
            activation_share=None,  # they stay in the caches
            by_rows=self.by_rows,
            by_sampled=self.by_sampled,
        )


def unmeasured() -> Parameters:
    """What is thought of this machine before its steps are timed. Products with a scale per 32 columns let
    tile registers wait most of the time, and what they multiply is unpacked to twice the bytes.
    """
    return Parameters(math=8.0, unpack=4 * UNPACK) if instruction_set() == "amx" else Parameters()


def parameters_file(threads: int | None = None) -> Path:
    """Where the parameters of this machine are kept for `--on this`, those of so many threads."""
    return kept_file("this_machine", threads)


def remember(
    parameters: Parameters, model: str, path: Path | None = None, tests: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Keep them for `--on this`, and the runs that they were tested by for the scoreboard; a cache that
    cannot be written is not worth failing for.
    """
    target = path or parameters_file()
    kept = {"model": model, **asdict(parameters), "tests": list(tests), "processor": processor_name()}
    kept["instruction_set"] = instruction_set()
    kept["date"] = time.strftime("%Y-%m-%d")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(kept) + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError:
        return


def remembered(path: Path | None = None) -> Parameters | None:
    """What was last found on this processor; None if nothing was, or it cannot be read. Files of before
    kernels were measured by rows have four factors alone.
    """
    values = _kept(path)
    try:
        memory, math, unpack, fixed = (float(values[name]) for name in ("memory", "math", "unpack", "fixed"))
        return Parameters(
            memory,
            math,
            unpack,
            fixed,
            attention=float(values.get("attention", 1.0)),
            prefill=float(values.get("prefill", 1.0)),
            by_rows=_by_rows(values.get("by_rows")),
            by_sampled=_by_rows(values.get("by_sampled")),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _by_rows(values: Mapping[str, Sequence[float]] | None) -> ByRows | None:
    if values is None:
        return None
    rows, factors = tuple(map(int, values["rows"])), tuple(map(float, values["factors"]))
    if not rows or len(rows) != len(factors) or any(a >= b for a, b in pairwise(rows)):
        raise ValueError(f"factors by rows {rows}")
    return ByRows(rows, factors)


def last_tests(path: Path | None = None) -> dict[str, Any] | None:
    """The last runs of the native engine on this processor beside their simulations: model, processor, date,
    and tests, each with share (of saturation), rate, measured and predicted; None if there are none.
    """
    values = _kept(path)
    names = ("model", "processor", "date", "tests")
    if not values.get("tests") or not all(name in values for name in names):
        return None
    return {name: values[name] for name in names}


def _kept(path: Path | None) -> dict[str, Any]:
    """What the file holds, if it was written on this processor of the kernels that run now."""
    file = path or parameters_file()
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        older = file.stat().st_mtime < os.stat(_core.__file__).st_mtime
    except (OSError, ValueError):
        return {}
    if older or not isinstance(values, dict) or values.get("processor") != processor_name():
        return {}
    return values if values.get("instruction_set", instruction_set()) == instruction_set() else {}
