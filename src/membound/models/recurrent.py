"""Operators that keep a state of fixed size for each sequence instead of a growing cache.

Gated delta rule (Qwen3-Next), Kimi delta attention and Mamba-2 differ in their gates; in cost they are
alike: a short convolution over a few channels, and a matrix of state per head that every token reads and
updates.
"""

from __future__ import annotations

from dataclasses import dataclass

from membound.models.operators import BytesOf, Cache, Load, Parameter, Work, read_once


@dataclass(frozen=True)
class Convolution:
    """A causal convolution over each channel's last `kernel` tokens; the last kernel - 1 are state."""

    name: str
    channels: int
    kernel: int
    source: str
    bias: bool = False

    ELEMENT_BYTES = 2

    def params(self) -> tuple[Parameter, ...]:
        weight = Parameter(f"{self.name}.weight", (self.channels, self.kernel))
        return (weight, Parameter(f"{self.name}.bias", (self.channels,))) if self.bias else (weight,)

    @property
    def windows(self) -> tuple[int | None, ...]:
        return ()

    @property
    def cache(self) -> Cache:
        return Cache(sequence_bytes=self.channels * (self.kernel - 1) * self.ELEMENT_BYTES)

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        return Work(
            flops=2 * self.channels * self.kernel * load.rows,
            weight_bytes=read_once(load.rows, self.params(), bytes_of),
            kv_read_bytes=self.cache.sequence_bytes * load.sequences,
            kv_write_bytes=self.cache.sequence_bytes * load.sequences,
        )


@dataclass(frozen=True)
class Recurrence:
    """`heads` states of rows x columns, which every token reads and updates.

    `products` multiply-adds per element of state and token: 3 for the delta rule (recall, correct, read),
    2 for Mamba (update, read).
    """

    name: str
    heads: int
    rows: int
    columns: int
    products: int
    element_bytes: int
    source: str
    target: str

    def params(self) -> tuple[Parameter, ...]:
        return ()

    @property
    def windows(self) -> tuple[int | None, ...]:
        return ()

    @property
    def cache(self) -> Cache:
        return Cache(sequence_bytes=self.heads * self.rows * self.columns * self.element_bytes)

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        return Work(
            flops=2 * self.products * self.heads * self.rows * self.columns * load.rows,
            kv_read_bytes=self.cache.sequence_bytes * load.sequences,
            kv_write_bytes=self.cache.sequence_bytes * load.sequences,
        )
