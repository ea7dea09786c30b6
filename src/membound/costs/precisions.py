"""In which formats a deployment stores and multiplies: weights, KV cache and activations, separately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from membound.errors import InputError
from membound.hardware.accelerator import RATES, Accelerator
from membound.models.architecture import Dimensions
from membound.models.quantization import FORMATS, Format, Quantization


@dataclass(frozen=True)
class Precisions:
    """`weights` None keeps every matrix in 16 bits; `activations` None follows each matrix's own rate."""

    weights: Quantization | None
    kv: Format
    activations: str | None = None

    def weight_format(self, name: str, shape: tuple[int, ...]) -> Format:
        """Format in which a parameter is stored, by its canonical name."""
        return self.weights.format_of(name, shape) if self.weights else FORMATS["bf16"]

    def layer_bits(self, name: str, shape: tuple[int, ...], layers: Sequence[int]) -> float:
        """Bits of each number of a parameter that stands in several layers: their mean."""
        alike = self.weights is None or not (self.weights.rules or self.weights.exact)
        asked = layers[:1] if alike else layers
        return sum(self.weight_format(f"blk.{layer}.{name}", shape).bits for layer in asked) / len(asked)

    def operands(self, stored: Format) -> str:
        """The rate that fits both the weights of a matrix and what it is multiplied with."""
        own = stored.rate or "bf16"
        if self.activations is None or RATES[own] >= RATES[self.activations]:
            return own
        return self.activations

    def rate(self, stored: Format, part: Accelerator) -> str:
        """The rate at which the part multiplies it: the operands' own, or the next wider that it has.

        Parts that multiply four bits take mxfp4 with activations in eight, as engines run it there.
        """
        operands = self.operands(stored)
        if stored.name == "mxfp4" and RATES[operands] > 8 and "fp4" in part.peaks:
            operands = "fp8"
        return part.native_rate(operands)

    def widened(self, stored: Format, part: Accelerator) -> bool:
        """Whether weights take on more bits before they are multiplied.

        Parts that multiply four bits take such weights as they are, beside activations of eight too.
        """
        if stored.rate == "fp4" and "fp4" in part.peaks and RATES[self.rate(stored, part)] <= 8:
            return False
        return stored.bits < RATES[self.rate(stored, part)]

    def notes(self, part: Accelerator) -> list[str]:
        """What does not run at the rate of its format, in words."""
        stored = {self.weights.main, *(f for _, f in self.weights.rules)} if self.weights else set()
        found = []
        for kind in sorted(stored | {FORMATS["bf16"]}, key=lambda f: f.bits):
            rate = self.rate(kind, part)
            if RATES[rate] > RATES[kind.rate or "fp4"]:
                found.append(f"{kind.name} weights run weight-only: stored {kind.name}, multiplied at {rate}")
        return found


def precisions(
    model: Dimensions, weights: str | None = None, kv: str | None = None, activations: str | None = None
) -> Precisions:
    """What the user asks for; otherwise weights as the checkpoint stores them and a cache of 16 bits."""
    scheme = model.quantization
    if weights is not None:
        kind = _format("weights", weights)
        scheme = None if kind.name in ("bf16", "fp16") else Quantization(kind)
    if activations is not None and activations not in RATES:
        raise InputError(f"--activations {activations}: one of {', '.join(RATES)}")
    if activations is None and scheme is not None:
        activations = scheme.activations
    return Precisions(scheme, _format("kv", kv or "bf16"), activations)


def _format(option: str, name: str) -> Format:
    if name not in FORMATS:
        raise InputError(f"--{option} {name}: one of {', '.join(FORMATS)}")
    return FORMATS[name]
