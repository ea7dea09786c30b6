"""From peak to real: what share of a roof each kind of operation reaches, and what it costs beside.

The values are in efficiencies.toml, each with its error and source; validation/fit_efficiencies.py makes
that file. All are relative to a part's own peaks or are times of the software, so that they carry over to
other parts.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from membound.errors import InputError

FILE = Path(__file__).parent / "efficiencies.toml"


@dataclass(frozen=True)
class Efficiency:
    """Of one kind: seconds = launch + (memory^p + math^p)^(1/p), each at its share of the peak."""

    launch_s: float = 0.0
    bandwidth: float = 1.0  # share of the memory's peak
    compute: Mapping[int, float] = field(default_factory=dict)  # share of the peak, by bits of an operand
    unpack: float = 0.0  # operations' worth of time to widen one weight that is stored in fewer bits
    widen_launch_s: float = 0.0  # further launches where weights must be widened: the kernels are not fused
    source: str = "datasheet"

    def compute_share(self, bits: int) -> float:
        """Share of the peak at a rate of so many bits."""
        return self.compute.get(bits, self.compute.get(16, 1.0))


@dataclass(frozen=True)
class ByRows:
    """Factors on the seconds of kernels, as measured at some numbers of rows: kernels take rows in groups,
    and few rows in another way than many. Between those numbers the factor changes evenly, beyond them not.
    """

    rows: tuple[int, ...]  # ascending
    factors: tuple[float, ...]

    def of(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """At numbers of rows, of any shape."""
        return np.interp(rows, self.rows, self.factors)


@dataclass(frozen=True)
class Overhead:
    """What an engine adds around the kernels, in seconds."""

    per_layer_s: float = 0.0
    per_step_s: float = 0.0
    per_sequence_s: float = 0.0
    prompt_layer_s: float = 0.0  # least time of a layer in a step with prompts, launched kernel by kernel
    link_factor: float = 1.0  # on the share of a link that its collectives reach
    server_s: float = 0.0  # of each request, before it waits: HTTP, text to tokens, and back for the first


@dataclass(frozen=True)
class Calibration:
    """All that turns a roof into a prediction. `sharpness` None takes the larger of memory and math."""

    kinds: Mapping[str, Efficiency] = field(default_factory=dict)
    engines: Mapping[str, Overhead] = field(default_factory=dict)
    sharpness: float | None = None
    activation_share: float | None = None  # of the memory's peak, between kernels; None counts no activations
    expert_skew: float = 0.0  # of routing where none is stated: popularity falls as rank^-skew
    expert_imbalance: float = 0.0  # of the slowest rank, for each doubling of expert-parallel ranks
    reduce_launch_s: float = 0.0
    link_share: float = 1.0  # of a link's peak
    latency_share: float = 0.0  # of a link's latency, for each doubling of the ranks that talk
    offsets: Mapping[str, float] = field(default_factory=dict)  # factors on a step, by "engine part"
    by_rows: ByRows | None = None  # on what kernels of all rows read and multiply
    by_sampled: ByRows | None = None  # on the same of the head, whose rows are those that sample

    def kind(self, name: str) -> Efficiency:
        """Of a kind of operation; the datasheet's where it is not known."""
        return self.kinds.get(name, Efficiency())

    def engine(self, name: str) -> Overhead:
        """Of an engine by name."""
        if name not in self.engines:
            raise InputError(f"--engine {name}: one of {', '.join(self.engines)}")
        return self.engines[name]

    def on(self, engine: str, part: str) -> Calibration:
        """For an engine on a part: what was seen of the two together, where they were measured."""
        factor = self.offsets.get(f"{engine} {part}", 1.0)
        return self if factor == 1.0 else replace(self.scaled(factor, factor), offsets={})

    def scaled(self, kernels: float, fixed: float) -> Calibration:
        """Kernels that take `kernels` times as long to read and multiply, and `fixed` times of what does
        not depend on how much there is to do. No share exceeds one.
        """

        def share(value: float) -> float:
            return min(1.0, value / kernels)

        return replace(
            self,
            kinds={
                name: replace(
                    kind,
                    launch_s=kind.launch_s * fixed,
                    bandwidth=share(kind.bandwidth),
                    compute={bits: share(value) for bits, value in kind.compute.items()},
                    unpack=kind.unpack * kernels,
                    widen_launch_s=kind.widen_launch_s * fixed,
                )
                for name, kind in self.kinds.items()
            },
            engines={
                name: replace(
                    engine,
                    per_layer_s=engine.per_layer_s * fixed,
                    per_step_s=engine.per_step_s * fixed,
                    per_sequence_s=engine.per_sequence_s * fixed,
                    prompt_layer_s=engine.prompt_layer_s * fixed,
                )
                for name, engine in self.engines.items()
            },
            activation_share=None if self.activation_share is None else share(self.activation_share),
            reduce_launch_s=self.reduce_launch_s * fixed,
            latency_share=self.latency_share * fixed,
            link_share=share(self.link_share),
        )


NAMES = ("vllm", "sglang", "trtllm", "membound", "none")
IDEAL = Calibration(engines={name: Overhead() for name in NAMES})
NATIVE = Overhead(per_layer_s=2e-6, per_step_s=1e-4, per_sequence_s=1e-5)  # until `calibrate this` measures


@cache
def fitted(path: Path = FILE) -> Calibration:
    """The shipped efficiencies."""
    with path.open("rb") as file:
        values = tomllib.load(file)

    def value(table: str, name: str) -> float:
        return float(values[table][name]["value"])

    kinds = {
        name: Efficiency(
            launch_s=table["launch_us"]["value"] * 1e-6,
            bandwidth=table["bandwidth"]["value"],
            compute={
                bits: table[f"compute_{bits}"]["value"]
                for bits in (32, 16, 8, 4)
                if f"compute_{bits}" in table
            },
            unpack=table["unpack"]["value"] if "unpack" in table else 0.0,
            widen_launch_s=table["widen_launch_us"]["value"] * 1e-6 if "widen_launch_us" in table else 0.0,
            source=table["source"],
        )
        for name, table in values["kinds"].items()
    }
    engines = {
        name: Overhead(
            per_layer_s=table["per_layer_us"]["value"] * 1e-6,
            per_step_s=table["per_step_us"]["value"] * 1e-6,
            per_sequence_s=table["per_sequence_us"]["value"] * 1e-6,
            prompt_layer_s=table["prompt_layer_us"]["value"] * 1e-6,
            link_factor=table["link_factor"]["value"],
            server_s=table["server_ms"]["value"] * 1e-3,
        )
        for name, table in values["engines"].items()
    }
    return Calibration(
        kinds=kinds,
        engines={**engines, "none": Overhead(), "membound": NATIVE},
        sharpness=value("form", "sharpness"),
        activation_share=value("form", "activation_share"),
        expert_skew=value("form", "expert_skew"),
        expert_imbalance=value("form", "expert_imbalance"),
        reduce_launch_s=value("collectives", "launch_us") * 1e-6,
        link_share=value("collectives", "link_share"),
        latency_share=value("collectives", "latency_share"),
        offsets={name: float(entry["value"]) for name, entry in values.get("offsets", {}).items()},
    )
