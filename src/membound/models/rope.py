"""Rotary position embedding: the angle by which each pair of a head's elements turns per position.

Scalings are resolved here into plain numbers (one inverse frequency per pair, one amplitude), so an
executor needs no case for any of them. Formulas: linear is position interpolation (Chen et al. 2023), YaRN
is Peng et al. 2023, llama3 is the frequency split of Llama 3.1; transformers and llama.cpp compute the
same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from membound.errors import InputError

Frequencies = NDArray[np.float64]

# Which elements of a head turn together: (i, i + dimensions / 2), or (2i, 2i + 1) as GGUF stores llama's q
# and k.
Pairing = Literal["halves", "adjacent"]


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor`."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Short wavelengths kept, long ones divided by `factor`, a linear blend between (Llama 3.1)."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int

    def __post_init__(self) -> None:
        if self.low_frequency_factor > self.high_frequency_factor:
            raise InputError("llama3 rope scaling has low_freq_factor above high_freq_factor")


@dataclass(frozen=True)
class YarnScaling:
    """Fast pairs kept, slow ones divided by `factor`, a linear ramp over the pairs between.

    Fast is more than `beta_fast` turns within the original context, slow is less than `beta_slow`.
    `amplitude` scales cos and sin.
    """

    factor: float
    original_context: int
    amplitude: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    whole_pairs: bool = True  # the ends of the ramp rounded outwards to whole pairs


@dataclass(frozen=True)
class FrequencyDivisors:
    """One divisor per pair: a GGUF file's `rope_freqs.weight`, llama3 scaling already resolved."""

    divisors: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(0 < divisor < math.inf for divisor in self.divisors):
            raise InputError("rope frequency divisors must be positive numbers")


Scaling = LinearScaling | Llama3Scaling | YarnScaling | FrequencyDivisors


@dataclass(frozen=True)
class Rope:
    """Rotation of the first `dimensions` elements of each head; the others pass unchanged."""

    base: float
    dimensions: int
    pairing: Pairing
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise InputError(f"a rope base of {self.base} is not supported: it must be greater than 1")
        if self.dimensions % 2:
            raise InputError(f"a rope of {self.dimensions} dimensions is not supported: they turn in pairs")
        if isinstance(self.scaling, FrequencyDivisors) and len(self.scaling.divisors) != self.dimensions // 2:
            raise InputError(
                f"{len(self.scaling.divisors)} rope frequency divisors for {self.dimensions // 2} pairs"
            )

    @property
    def amplitude(self) -> float:
        """What cos and sin are multiplied by."""
        return self.scaling.amplitude if isinstance(self.scaling, YarnScaling) else 1.0

    def inverse_frequencies(self) -> NDArray[np.float32]:
        """Radians per position of each pair; shape (dimensions / 2,)."""
        plain: Frequencies = self.base ** -(
            np.arange(0, self.dimensions, 2, dtype=np.float64) / self.dimensions
        )
        match self.scaling:
            case None:
                scaled = plain
            case LinearScaling(factor):
                scaled = plain / factor
            case FrequencyDivisors(divisors):
                scaled = plain / np.asarray(divisors)
            case Llama3Scaling() as scaling:
                scaled = _llama3(plain, scaling)
            case YarnScaling() as scaling:
                scaled = _yarn(plain, scaling, self.base, self.dimensions)
        return scaled.astype(np.float32)


def _llama3(plain: Frequencies, scaling: Llama3Scaling) -> Frequencies:
    turns = scaling.original_context * plain / (2 * math.pi)  # within the original context
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = np.clip((turns - low) / max(high - low, 1e-9), 0.0, 1.0)
    return kept * plain + (1 - kept) * plain / scaling.factor


def _yarn(plain: Frequencies, scaling: YarnScaling, base: float, dimensions: int) -> Frequencies:
    def pair_that_turns(times: float) -> float:
        return dimensions * math.log(scaling.original_context / (times * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.whole_pairs:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dimensions - 1)
    ramp: Frequencies = np.clip((np.arange(dimensions // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    return (1 - ramp) * plain + ramp * plain / scaling.factor


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """YaRN's growth of the attention logits, 0.1 · weight · ln(factor) + 1 (Peng et al. 2023)."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
