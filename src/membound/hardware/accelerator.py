"""What a model runs on: accelerators, the links between them, nodes and clusters.

Units are bytes, seconds and operations (a multiply-add is two); GB is 1e9. A figure that nobody published
is absent, and asking for it is refused by name: a guess would look like a prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from membound.errors import InputError

# Rates of multiplication that a data sheet may give, and the bits of an operand.
RATES: Mapping[str, int] = {
    "fp64": 64,
    "fp64_tensor": 64,
    "fp32": 32,
    "tf32": 32,
    "fp16": 16,
    "bf16": 16,
    "fp8": 8,
    "int8": 8,
    "fp4": 4,
}


@dataclass(frozen=True, slots=True)
class Link:
    """A connection: bytes per second in one direction for each accelerator, seconds before the first byte."""

    name: str
    bandwidth_bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Memory:
    """One kind of memory beside an accelerator: capacity in bytes, read bandwidth in bytes per second."""

    name: str
    capacity_bytes: float
    bandwidth_bytes_per_s: float


@dataclass(frozen=True)
class Accelerator:
    """One device. `figures` holds what is published; read it with `figure`, which refuses what is not."""

    id: str
    name: str
    vendor: str = ""
    year: int | None = None
    status: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    peaks: Mapping[str, float] = field(default_factory=dict)  # dense operations per second, by rate
    memory_type: str = ""
    weight_memory: Memory | None = None  # a second tier that holds the weights; KV stays in the first
    link: Link | None = None  # inside a node
    network: Link | None = None  # between nodes
    confidence: str = ""
    sources: str = ""
    notes: str = ""

    def figure(self, name: str) -> float:
        """A published figure, such as `bandwidth_bytes_per_s`; refused by name where there is none."""
        if name not in self.figures:
            raise InputError(
                f"{self.id}: {name} is not published; give it in a hardware TOML file with base = '{self.id}'"
            )
        return self.figures[name]

    def peak(self, rate: str) -> float:
        """Dense operations per second at one of RATES; refused by name where there is none."""
        if rate not in self.peaks:
            raise InputError(f"{self.id}: no {rate} rate is published; it has {self._rates()}")
        return self.peaks[rate]

    def native_rate(self, rate: str) -> str:
        """The rate at which the part multiplies operands that fit `rate`: itself, or the next wider it has.

        Integer operands also fit any floating rate of more bits. 16-bit floats are taken as one kind,
        since engines fall back from one to the other.
        """
        if rate in self.peaks:
            return rate
        bits = RATES[rate]
        twins = {"bf16": "fp16", "fp16": "bf16"}
        if twins.get(rate, "") in self.peaks:
            return twins[rate]
        wider = [r for r in ("fp8", "bf16", "fp16", "tf32", "fp32") if RATES[r] > bits and r in self.peaks]
        if not wider:
            raise InputError(
                f"{self.id}: no {rate} rate is published, nor a wider one; it has {self._rates()}"
            )
        return wider[0]

    def _rates(self) -> str:
        return ", ".join(self.peaks) or "none"

    @cached_property
    def bandwidth_bytes_per_s(self) -> float:
        """Peak read bandwidth of its memory."""
        return self.figure("bandwidth_bytes_per_s")

    @cached_property
    def weight_bandwidth_bytes_per_s(self) -> float:
        """Peak read bandwidth of the memory that holds the weights."""
        return self.weight_memory.bandwidth_bytes_per_s if self.weight_memory else self.bandwidth_bytes_per_s

    def ridge(self, rate: str = "bf16") -> float:
        """Operations per byte above which the part is limited by arithmetic, at the given rate."""
        return self.peak(rate) / self.bandwidth_bytes_per_s


@dataclass(frozen=True, slots=True)
class Cluster:
    """Equal accelerators in equal nodes. `count` is None where the user named a part and not how many."""

    accelerator: Accelerator
    count: int | None = None

    @property
    def name(self) -> str:
        """As the command line spells it: `h100-sxm`, `8xh100-sxm`."""
        return self.accelerator.id if self.count is None else f"{self.count}x{self.accelerator.id}"

    @property
    def node_size(self) -> int:
        """Accelerators joined by the inner link; refused by name if unknown."""
        return int(self.accelerator.figure("node_size"))

    def link_between(self, ranks: int) -> Link:
        """The slowest link that a group of `ranks` neighbours must cross."""
        part = self.accelerator
        if ranks <= self.node_size:
            if part.link is None:
                raise InputError(
                    f"{part.id}: link_gbs_per_direction is not published, and {ranks} of them must talk; "
                    f"give a [link] in a hardware TOML file with base = '{part.id}'"
                )
            return part.link
        if part.network is None:
            raise InputError(
                f"{part.id}: network_gbs is not published, and {ranks} span nodes of {self.node_size}; "
                f"give a [network] in a hardware TOML file with base = '{part.id}'"
            )
        return part.network
