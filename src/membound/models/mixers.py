"""The mixers of tokens beside grouped-query attention, each as a list of operators from h to h."""

from __future__ import annotations

from membound.models.architecture import (
    CompressedAttentionDims,
    DeltaNetDims,
    IndexerDims,
    KimiDeltaDims,
    LatentAttentionDims,
    MambaDims,
)
from membound.models.compressed import CompressedAttention
from membound.models.latent import Indexer, LatentAttention
from membound.models.operators import Gate, Linear, Norm, Operator, Rotate, Vectors
from membound.models.recurrent import Convolution, Recurrence


def latent_attention(d: LatentAttentionDims, hidden: int, eps: float) -> tuple[Operator, ...]:
    """DeepSeek-V2 and later, Kimi: queries and keys through low ranks; V3.2 chooses keys by an indexer."""
    queries = d.heads * (d.nope_dim + d.rope_dim)
    if d.query_rank is None:
        query: tuple[Operator, ...] = (Linear("attn_q", queries, hidden, source="h", target="q"),)
    else:
        query = (
            Linear("attn_q_a", d.query_rank, hidden, source="h", target="query_latent", bias=d.bias),
            Norm("attn_q_a_norm", d.query_rank, eps, source="query_latent", target="query_latent"),
            Linear("attn_q_b", queries, d.query_rank, source="query_latent", target="q"),
        )
    rotations: tuple[Operator, ...] = ()
    if d.rope is not None:
        rotations = (
            Rotate("attn_q_rope", d.heads, d.rope_dim, d.rope, source="q"),
            Rotate("attn_k_rope", 1, d.rope_dim, d.rope, source="latent"),
        )
    gate: tuple[Operator, ...] = ()
    if d.output_gate:
        gate = (
            Linear("attn_gate", d.heads * d.value_dim, hidden, source="h", target="output_gate"),
            Gate("attn_gate_act", "silu", gate="output_gate", up="attended", target="attended"),
        )
    chooser: tuple[Operator, ...] = ()
    if d.indexer is not None and not d.indexer.shared:
        chooser = _indexer(d.indexer, d.query_rank or hidden, hidden)
    return (
        *query,
        Linear("attn_kv_a_mqa", d.kv_rank + d.rope_dim, hidden, source="h", target="latent", bias=d.bias),
        Norm("attn_kv_a_norm", d.kv_rank, eps, source="latent", target="latent"),
        *rotations,
        *chooser,
        LatentAttention(d),
        *gate,
        Linear("attn_output", hidden, d.heads * d.value_dim, source="attended", target="h", bias=d.bias),
    )


def _indexer(d: IndexerDims, query_rank: int, hidden: int) -> tuple[Operator, ...]:
    """One small key per token, many small queries, a weight per query head."""
    return (
        Linear("indexer_q_b", d.heads * d.head_dim, query_rank, source="query_latent", target="index_q"),
        Linear("indexer_k", d.head_dim, hidden, source="h", target="index_k"),
        Vectors(
            "indexer_k_norm", (("indexer_k_norm.weight", d.head_dim), ("indexer_k_norm.bias", d.head_dim))
        ),
        Linear("indexer_weights", d.heads, hidden, source="h", target="index_weights"),
        Indexer(d),
    )


def compressed_attention(d: CompressedAttentionDims, hidden: int, eps: float) -> tuple[Operator, ...]:
    """DeepSeek-V4: a window of whole tokens, and compressed entries behind it."""
    queries, group = d.heads * d.head_dim, d.heads * d.head_dim // d.output_groups
    compressor = _compressor("attn", d.ratio, d.head_dim, hidden, eps) if d.ratio else ()
    indexer: tuple[Operator, ...] = ()
    if d.indexer:
        i = d.indexer
        indexer = (
            Linear(
                "indexer_q_b", i.heads * i.head_dim, d.query_rank, source="query_latent", target="index_q"
            ),
            Linear("indexer_weights", i.heads, hidden, source="h", target="index_weights"),
            *_compressor("indexer", d.ratio, i.head_dim, hidden, eps),
            Indexer(i, ratio=d.ratio),
        )
    return (
        Linear("attn_q_a", d.query_rank, hidden, source="h", target="query_latent"),
        Norm("attn_q_a_norm", d.query_rank, eps, source="query_latent", target="query_latent"),
        Linear("attn_q_b", queries, d.query_rank, source="query_latent", target="q"),
        Linear("attn_kv", d.head_dim, hidden, source="h", target="kv"),
        Norm("attn_kv_norm", d.head_dim, eps, source="kv", target="kv"),
        Rotate("attn_q_rope", d.heads, d.rope.dimensions, d.rope, source="q"),
        Rotate("attn_k_rope", 1, d.rope.dimensions, d.rope, source="kv"),
        *compressor,
        *indexer,
        Vectors("attn_sinks", (("attn_sinks.weight", d.heads),)),
        CompressedAttention(d),
        Linear("attn_output_a", d.output_groups * d.output_rank, group, source="attended", target="grouped"),
        Linear("attn_output_b", hidden, d.output_groups * d.output_rank, source="grouped", target="h"),
    )


def _compressor(name: str, ratio: int, width: int, hidden: int, eps: float) -> tuple[Operator, ...]:
    """Groups of `ratio` tokens into one entry; groups of 4 overlap their neighbours and so are twice as
    wide.
    """
    wide = width * (2 if ratio == 4 else 1)
    entry = f"{name}_entry"
    return (
        Linear(f"{name}_compress_kv", wide, hidden, source="h", target=entry),
        Linear(f"{name}_compress_gate", wide, hidden, source="h", target=f"{entry}_gate"),
        Vectors(f"{name}_compress_ape", ((f"{name}_compress_ape.weight", ratio * wide),)),
        Norm(f"{name}_compress_norm", width, eps, source=entry, target=entry),
    )


def delta_net(d: DeltaNetDims, hidden: int, eps: float) -> tuple[Operator, ...]:
    """Qwen3-Next and Qwen3.5: the gated delta rule; q, k, v and an output gate in one projection."""
    keys, values = d.key_heads * d.key_dim, d.value_heads * d.value_dim
    return (
        Linear("ssm_in", 2 * keys + 2 * values, hidden, source="h", target="qkvz"),
        Linear("ssm_ba", 2 * d.value_heads, hidden, source="h", target="ba"),
        Convolution("ssm_conv1d", 2 * keys + values, d.kernel, source="qkvz"),
        Vectors("ssm_decay", (("ssm_dt.bias", d.value_heads), ("ssm_a", d.value_heads))),
        Recurrence(
            "ssm", d.value_heads, d.key_dim, d.value_dim, 3, d.state_bytes, source="qkvz", target="mixed"
        ),
        Norm("ssm_norm", d.value_dim, eps, source="mixed", target="mixed"),
        Linear("ssm_out", hidden, values, source="mixed", target="h"),
    )


def kimi_delta(d: KimiDeltaDims, hidden: int, eps: float) -> tuple[Operator, ...]:
    """Kimi Linear and K3: the delta rule with a decay per channel, made through a low rank of one head's
    width.
    """
    width = d.heads * d.head_dim
    if d.full_rank_gate:
        gate: tuple[Operator, ...] = (Linear("ssm_g", width, hidden, source="h", target="output_gate"),)
    else:
        gate = (
            Linear("ssm_g_a", d.head_dim, hidden, source="h", target="gate_latent"),
            Linear("ssm_g_b", width, d.head_dim, source="gate_latent", target="output_gate"),
        )
    projections = (Linear(f"ssm_{part}", width, hidden, source="h", target=part) for part in "qkv")
    convolutions = (Convolution(f"ssm_conv1d_{part}", width, d.kernel, source=part) for part in "qkv")
    return (
        *projections,
        *convolutions,
        Linear("ssm_f_a", d.head_dim, hidden, source="h", target="decay_latent"),
        Linear("ssm_f_b", width, d.head_dim, source="decay_latent", target="decay"),
        Linear("ssm_beta", d.heads, hidden, source="h", target="beta"),
        Vectors("ssm_decay", (("ssm_dt.bias", width), ("ssm_a", d.heads))),
        Recurrence("ssm", d.heads, d.head_dim, d.head_dim, 3, d.state_bytes, source="q", target="mixed"),
        *gate,
        Norm("ssm_norm", d.head_dim, eps, source="mixed", target="mixed"),
        Linear("ssm_out", hidden, width, source="mixed", target="h"),
    )


def mamba(d: MambaDims, hidden: int, eps: float) -> tuple[Operator, ...]:
    """Mamba-2: one projection for gate, values, input and output vectors and step sizes."""
    width, shared = d.heads * d.head_dim, 2 * d.groups * d.state
    return (
        Linear("ssm_in", 2 * width + shared + d.heads, hidden, source="h", target="zxbcdt", bias=d.bias),
        Convolution("ssm_conv1d", width + shared, d.kernel, source="zxbcdt", bias=d.conv_bias),
        Vectors("ssm_decay", (("ssm_dt.bias", d.heads), ("ssm_a", d.heads), ("ssm_d", d.heads))),
        Recurrence("ssm", d.heads, d.head_dim, d.state, 2, d.state_bytes, source="zxbcdt", target="mixed"),
        Norm("ssm_norm", width, eps, source="mixed", target="mixed"),
        Linear("ssm_out", hidden, width, source="mixed", target="h", bias=d.bias),
    )
