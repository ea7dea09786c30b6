"""Each family as a list of operators, to be read from top to bottom."""

from __future__ import annotations

from membound.models.architecture import Architecture, AttentionDims, Layer
from membound.models.graph import LayerGroup, ModelGraph
from membound.models.operators import Add, Attention, Embedding, Gate, Head, Linear, Norm, Operator, Rotate


def build(architecture: Architecture) -> ModelGraph:
    """The operators of a model; layers that are alike are described once, with the indices where they
    stand.
    """
    hidden, eps = architecture.hidden, architecture.norm_eps
    places: dict[Layer, list[int]] = {}
    for index, layer in enumerate(architecture.layers):
        places.setdefault(layer, []).append(index)
    return ModelGraph(
        first=(Embedding(architecture.vocab, hidden, architecture.embedding_scale),),
        groups=tuple(
            LayerGroup(tuple(indices), layer_operators(layer, hidden, eps))
            for layer, indices in places.items()
        ),
        last=(
            Norm("output_norm", hidden, eps, source="x", target="h"),
            Head(architecture.vocab, hidden, architecture.tied, source="h"),
        ),
    )


def layer_operators(layer: Layer, hidden: int, eps: float) -> tuple[Operator, ...]:
    """One layer."""
    return _sandwich_layer(layer, hidden, eps) if layer.post_norms else _pre_norm_layer(layer, hidden, eps)


def _pre_norm_layer(layer: Layer, hidden: int, eps: float) -> tuple[Operator, ...]:
    """llama, mistral, qwen2, qwen3: a norm before each branch."""
    return (
        Norm("attn_norm", hidden, eps, source="x", target="h"),
        *_attention(layer.attention, hidden, eps),
        Add("attn_add", source="h"),
        Norm("ffn_norm", hidden, eps, source="x", target="h"),
        *_feed_forward(layer, hidden),
        Add("ffn_add", source="h"),
    )


def _sandwich_layer(layer: Layer, hidden: int, eps: float) -> tuple[Operator, ...]:
    """gemma3: a norm before and after each branch."""
    return (
        Norm("attn_norm", hidden, eps, source="x", target="h"),
        *_attention(layer.attention, hidden, eps),
        Norm("post_attention_norm", hidden, eps, source="h", target="h"),
        Add("attn_add", source="h"),
        Norm("ffn_norm", hidden, eps, source="x", target="h"),
        *_feed_forward(layer, hidden),
        Norm("post_ffw_norm", hidden, eps, source="h", target="h"),
        Add("ffn_add", source="h"),
    )


def _attention(dims: AttentionDims, hidden: int, eps: float) -> tuple[Operator, ...]:
    """h to h."""
    queries, keys = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
    norms = (
        Norm("attn_q_norm", dims.head_dim, eps, source="q", target="q"),
        Norm("attn_k_norm", dims.head_dim, eps, source="k", target="k"),
    )
    return (
        Linear("attn_q", queries, hidden, source="h", target="q", bias=dims.bias),
        Linear("attn_k", keys, hidden, source="h", target="k", bias=dims.bias),
        Linear("attn_v", keys, hidden, source="h", target="v", bias=dims.bias),
        *(norms if dims.qk_norm else ()),
        Rotate("attn_q_rope", dims.heads, dims.head_dim, dims.rope, source="q"),
        Rotate("attn_k_rope", dims.kv_heads, dims.head_dim, dims.rope, source="k"),
        Attention(dims.heads, dims.kv_heads, dims.head_dim, dims.scale, dims.window),
        Linear("attn_output", hidden, queries, source="attended", target="h", bias=dims.output_bias),
    )


def _feed_forward(layer: Layer, hidden: int) -> tuple[Operator, ...]:
    """h to h."""
    width = layer.feed_forward.width
    return (
        Linear("ffn_gate", width, hidden, source="h", target="gate"),
        Linear("ffn_up", width, hidden, source="h", target="up"),
        Gate("ffn_act", layer.feed_forward.activation, gate="gate", up="up", target="gated"),
        Linear("ffn_down", hidden, width, source="gated", target="h"),
    )
