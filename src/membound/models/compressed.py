"""DeepSeek-V4's attention: recent tokens as they are, older ones as one compressed entry per group of
tokens.

A query sees the last `window` tokens, and of the compressed entries either the indexer's best (ratio 4)
or all of them (ratio 128), in one softmax. Keys and values are one shared vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from membound.models.architecture import CompressedAttentionDims
from membound.models.operators import BytesOf, Cache, Load, Parameter, Work


@dataclass(frozen=True)
class CompressedAttention:
    """Window and compressed entries."""

    dims: CompressedAttentionDims
    name: str = "attn"
    query: str = "q"
    key: str = "kv"
    target: str = "attended"

    def params(self) -> tuple[Parameter, ...]:
        return ()

    @property
    def reach(self) -> int | None:
        """Tokens behind the compressed entries that a query attends to, at most."""
        d = self.dims
        return d.indexer.top_k * d.ratio if d.indexer else None

    @property
    def windows(self) -> tuple[int | None, ...]:
        return (self.dims.window, self.reach) if self.dims.ratio else (self.dims.window,)

    @property
    def cache(self) -> Cache:
        """The compressed entries grow; the window does not."""
        d = self.dims
        return Cache(
            elements=d.head_dim / d.ratio if d.ratio else 0,
            sequence_elements=d.window * d.head_dim,
        )

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        d = self.dims
        pairs, keys, written = load.pairs[d.window], load.keys[d.window], load.rows
        if d.ratio:
            pairs += load.pairs[self.reach] / d.ratio
            keys += load.chosen[self.reach] / d.ratio
            written += load.rows / d.ratio
        return Work(
            flops=4 * d.heads * d.head_dim * pairs,
            kv_read_bytes=d.head_dim * load.kv_bytes * keys,
            kv_write_bytes=d.head_dim * load.kv_bytes * written,
        )
