"""The least time that a roof allows for a piece of work, and which side of it binds.

The limit of a step, here and in `roofline.py`, is the larger of two times: all its bytes at the bandwidth,
all its FLOPs at the peak, as if the one were hidden behind the other perfectly.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gguf import GGMLQuantizationType

from membound.models.operators import Work

FLOATS = {
    GGMLQuantizationType.F32: "fp32",
    GGMLQuantizationType.F16: "fp32",
    GGMLQuantizationType.BF16: "bf16",
}


@dataclass(frozen=True, slots=True)
class Roof:
    """Bytes and FLOPs per second that a machine can do at most."""

    bandwidth_bytes_per_s: float
    flops_per_s: float

    @property
    def ridge(self) -> float:
        """FLOP per byte above which arithmetic binds."""
        return self.flops_per_s / self.bandwidth_bytes_per_s

    def least_s(self, bytes: float, flops: float) -> float:
        """Seconds below which no perfect overlap of reading and arithmetic gets."""
        return max(bytes / self.bandwidth_bytes_per_s, flops / self.flops_per_s)

    def limit_s(self, work: Work) -> float:
        """The same of a piece of work."""
        return self.least_s(work.bytes, work.flops)

    def bound(self, work: Work) -> Literal["memory", "compute"]:
        return "memory" if work.flops < work.bytes * self.ridge else "compute"


def multiply_precision(types: Iterable[GGMLQuantizationType]) -> str:
    """The precision whose peak bounds a model of these matrix types: the quickest of those that occur.

    Quantized types multiply as int8, BF16 as bf16, and F16, whose numbers bf16 does not hold, as fp32.
    """
    kinds = {FLOATS.get(kind, "int8") for kind in types}
    return next(name for name in ("int8", "bf16", "fp32") if name in kinds)
