"""The native engine's own parameters on this machine, as `membound calibrate this` found them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from membound.costs.calibration import Calibration, Efficiency
from membound.hardware.probe import cache_file

ENGINE = "membound"
UNPACK = 8.0  # rows' worth of arithmetic that unpacking a weight is thought to cost before it is measured


@dataclass(frozen=True)
class Parameters:
    """Factors on the shipped efficiencies for this machine, and operations' worth of unpacking a weight."""

    memory: float = 1.0
    math: float = 1.0
    unpack: float = UNPACK
    fixed: float = 1.0

    def applied(self, calibration: Calibration) -> Calibration:
        """No share of a peak exceeds one."""

        def of(name: str, kind: Efficiency) -> Efficiency:
            return replace(
                kind,
                launch_s=kind.launch_s * self.fixed,
                bandwidth=min(1.0, kind.bandwidth / self.memory),
                compute={bits: min(1.0, share / self.math) for bits, share in kind.compute.items()},
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
            activation_share=None,  # they stay in the caches
        )


def parameters_file() -> Path:
    """Where the parameters of this machine are kept for `--on this`."""
    return cache_file().with_name("this_machine.json")


def remember(parameters: Parameters, model: str, path: Path | None = None) -> None:
    """Keep them for `--on this`; a cache that cannot be written is not worth failing for."""
    target = path or parameters_file()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"model": model, **asdict(parameters)}) + "\n", encoding="utf-8")
        partial.replace(target)
    except OSError:
        return


def remembered(path: Path | None = None) -> Parameters | None:
    """What was last found; None if nothing was, or it cannot be read."""
    try:
        values = json.loads((path or parameters_file()).read_text(encoding="utf-8"))
        return Parameters(*(float(values[name]) for name in ("memory", "math", "unpack", "fixed")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
