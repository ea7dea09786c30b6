"""Multi-head latent attention (DeepSeek-V2): one compressed latent per token is cached, not keys and values.

Two ways give the same numbers. Expanded: every cached latent is multiplied up to keys and values, then
attended as usual. Absorbed: the up-projections move to the query and the output, and the heads attend to
the latents themselves. Absorbed is cheaper where few queries share a long context, expanded where many
do; an engine takes the cheaper.

A sparse model (DeepSeek-V3.2) first scores every cached token with a small indexer and attends to the
best ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from membound.models.architecture import IndexerDims, LatentAttentionDims
from membound.models.operators import (
    BytesOf,
    Cache,
    Chunk,
    Load,
    Parameter,
    Work,
    attention_pairs,
    read_once,
)


@dataclass(frozen=True)
class LatentAttention:
    """Attention over cached latents; holds the up-projection, which the two ways use differently."""

    dims: LatentAttentionDims
    name: str = "attn"
    query: str = "q"
    latent: str = "latent"
    target: str = "attended"

    def params(self) -> tuple[Parameter, ...]:
        d = self.dims
        return (Parameter("attn_kv_b.weight", (d.heads * (d.nope_dim + d.value_dim), d.kv_rank)),)

    @property
    def limit(self) -> int | None:
        """Keys that a query attends to, at most."""
        return self.dims.indexer.top_k if self.dims.indexer else None

    @property
    def windows(self) -> tuple[int | None, ...]:
        return (None, self.limit)

    @property
    def cache(self) -> Cache:
        return Cache(elements=self.dims.kv_rank + self.dims.rope_dim)

    def absorbed_flops(self, rows: float, pairs: float) -> float:
        """Heads attend to latents: a latent and its rotated key for each pair, then the latent once more."""
        d = self.dims
        per_row = d.kv_rank * (d.nope_dim + d.value_dim)
        return 2 * d.heads * (pairs * (2 * d.kv_rank + d.rope_dim) + rows * per_row)

    def expanded_flops(self, keys: float, pairs: float) -> float:
        """Keys and values are made of every latent that a chunk sees, then attended."""
        d = self.dims
        per_key = d.kv_rank * (d.nope_dim + d.value_dim)
        return 2 * d.heads * (pairs * (d.nope_dim + d.rope_dim + d.value_dim) + keys * per_key)

    def chunk_flops(self, chunk: Chunk) -> float:
        """The cheaper way for this chunk."""
        pairs = attention_pairs(chunk.tokens, chunk.context, self.limit)
        keys = chunk.context + chunk.tokens
        return min(self.absorbed_flops(chunk.tokens, pairs), self.expanded_flops(keys, pairs))

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        """Both ways read the same bytes."""
        cached = self.cache.elements * load.kv_bytes
        return Work(
            flops=sum(map(self.chunk_flops, load.chunks)),
            weight_bytes=read_once(load.rows, self.params(), bytes_of),
            kv_read_bytes=cached * load.chosen[self.limit],
            kv_write_bytes=cached * load.rows,
        )


@dataclass(frozen=True)
class Indexer:
    """Scores every cached entry for each query; its keys are cached in 8 bits with a 32-bit scale."""

    dims: IndexerDims
    name: str = "indexer"
    query: str = "index_q"
    key: str = "index_k"
    target: str = "chosen"
    ratio: int = 1  # tokens that one entry stands for

    SCALE_BYTES = 4

    def params(self) -> tuple[Parameter, ...]:
        return ()

    @property
    def windows(self) -> tuple[int | None, ...]:
        return (None,)

    @property
    def cache(self) -> Cache:
        return Cache(bytes=(self.dims.head_dim + self.SCALE_BYTES) / self.ratio)

    def cost(self, load: Load, bytes_of: BytesOf) -> Work:
        d = self.dims
        return Work(
            flops=2 * d.heads * d.head_dim * load.pairs[None] / self.ratio,
            kv_read_bytes=self.cache.bytes * load.keys[None],
            kv_write_bytes=self.cache.bytes * load.rows,
        )
