"""Each family as a list of operators, to be read from top to bottom."""

from __future__ import annotations

from membound.models.architecture import (
    AttentionDims,
    Block,
    CompressedAttentionDims,
    DeltaNetDims,
    Dimensions,
    ExpertsDims,
    FeedForward,
    FeedForwardDims,
    KimiDeltaDims,
    LatentAttentionDims,
    MambaDims,
    Mixer,
)
from membound.models.graph import LayerGroup, ModelGraph
from membound.models.mixers import compressed_attention, delta_net, kimi_delta, latent_attention, mamba
from membound.models.mixtures import Experts
from membound.models.operators import (
    Add,
    Attention,
    Embedding,
    Gate,
    Head,
    Linear,
    Norm,
    Operator,
    Rotate,
    Vectors,
)


def build(architecture: Dimensions) -> ModelGraph:
    """The operators of a model; layers that are alike are described once, with their indices."""
    hidden, eps = architecture.hidden, architecture.norm_eps
    places: dict[Block, list[int]] = {}
    for index, layer in enumerate(architecture.layers):
        places.setdefault(layer, []).append(index)
    last = (
        *_stream_head(architecture),
        Norm("output_norm", hidden, eps, source="x", target="h"),
        Head(architecture.vocab, hidden, architecture.tied, source="h"),
    )
    return ModelGraph(
        first=(Embedding(architecture.vocab, hidden, architecture.embedding_scale),),
        groups=tuple(
            LayerGroup(tuple(indices), layer_operators(layer, hidden, eps))
            for layer, indices in places.items()
        ),
        last=last,
    )


def layer_operators(layer: Block, hidden: int, eps: float) -> tuple[Operator, ...]:
    """One layer: the mixer's branch, then the feed-forward's. gemma has a norm after each branch too."""
    operators: list[Operator] = []
    if layer.attention is not None:
        operators += [
            *_streams(layer, hidden, "attn"),
            Norm("attn_norm", hidden, eps, source="x", target="h"),
            *_mixer(layer.attention, hidden, eps),
            *_post_norm(layer, "post_attention_norm", hidden, eps),
            Add("attn_add", source="h"),
        ]
    if layer.feed_forward is not None:
        operators += [
            *_streams(layer, hidden, "ffn"),
            Norm("ffn_norm", hidden, eps, source="x", target="h"),
            *_feed_forward(layer.feed_forward, hidden, eps),
            *_post_norm(layer, "post_ffw_norm", hidden, eps),
            Add("ffn_add", source="h"),
        ]
    return tuple(operators)


def _post_norm(layer: Block, name: str, hidden: int, eps: float) -> tuple[Operator, ...]:
    return (Norm(name, hidden, eps, source="h", target="h"),) if layer.post_norms else ()


def _streams(layer: Block, hidden: int, branch: str) -> tuple[Operator, ...]:
    """What chooses a branch's input from more than one residual: DeepSeek-V4's hyper-connections mix
    `streams` of them, Kimi-K3 attends to those of earlier blocks.
    """
    if layer.attends_depth:
        name = f"{branch}_depth"
        return (Vectors(name, ((f"{name}_query.weight", hidden), (f"{name}_norm.weight", hidden))),)
    if layer.streams == 1:
        return ()
    mixed = (2 + layer.streams) * layer.streams  # weights in, weights out, and from stream to stream
    name = f"{branch}_streams"
    return (
        Linear(name, mixed, layer.streams * hidden, source="x", target="mix"),
        Vectors(f"{name}_base", ((f"{name}.base", mixed), (f"{name}.scale", 3))),
    )


def _stream_head(architecture: Dimensions) -> tuple[Operator, ...]:
    """The streams become one before the head."""
    streams = architecture.layers[-1].streams
    if streams == 1:
        return ()
    return (
        Linear("output_streams", streams, streams * architecture.hidden, source="x", target="mix"),
        Vectors("output_streams_base", (("output_streams.base", streams), ("output_streams.scale", 1))),
    )


def _mixer(dims: Mixer, hidden: int, eps: float) -> tuple[Operator, ...]:
    match dims:
        case AttentionDims():
            return _attention(dims, hidden, eps)
        case LatentAttentionDims():
            return latent_attention(dims, hidden, eps)
        case CompressedAttentionDims():
            return compressed_attention(dims, hidden, eps)
        case DeltaNetDims():
            return delta_net(dims, hidden, eps)
        case KimiDeltaDims():
            return kimi_delta(dims, hidden, eps)
        case MambaDims():
            return mamba(dims, hidden, eps)


def _attention(dims: AttentionDims, hidden: int, eps: float) -> tuple[Operator, ...]:
    """h to h."""
    queries, keys = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
    norms = (
        Norm("attn_q_norm", queries if dims.whole_qk_norm else dims.head_dim, eps, source="q", target="q"),
        Norm("attn_k_norm", keys if dims.whole_qk_norm else dims.head_dim, eps, source="k", target="k"),
    )
    gate = (
        Linear("attn_gate", queries, hidden, source="h", target="output_gate", bias=dims.bias),
        Gate("attn_gate_act", "silu", gate="output_gate", up="attended", target="attended"),
    )
    sinks = Vectors("attn_sinks", (("attn_sinks.weight", dims.heads),))
    return (
        Linear("attn_q", queries, hidden, source="h", target="q", bias=dims.bias),
        Linear("attn_k", keys, hidden, source="h", target="k", bias=dims.bias),
        Linear("attn_v", keys, hidden, source="h", target="v", bias=dims.bias),
        *(norms if dims.qk_norm else ()),
        Rotate("attn_q_rope", dims.heads, dims.head_dim, dims.rope, source="q"),
        Rotate("attn_k_rope", dims.kv_heads, dims.head_dim, dims.rope, source="k"),
        *((sinks,) if dims.sinks else ()),
        Attention(dims.heads, dims.kv_heads, dims.head_dim, dims.scale, dims.window),
        *(gate if dims.output_gate else ()),
        Linear("attn_output", hidden, queries, source="attended", target="h", bias=dims.output_bias),
    )


def _feed_forward(dims: FeedForward, hidden: int, eps: float) -> tuple[Operator, ...]:
    """h to h."""
    if isinstance(dims, FeedForwardDims):
        return _dense("ffn_{}", dims.width, dims, hidden, target="h")
    router = Linear("ffn_gate_inp", dims.experts, hidden, source="h", target="routes", bias=dims.router_bias)
    routed: tuple[Operator, ...] = (Experts(dims, hidden, source="h", target="routed"),)
    if dims.latent is not None:
        norm = Norm("ffn_latent_norm", dims.latent, eps, source="routed", target="routed")
        routed = (
            Linear("ffn_latent_down", dims.latent, hidden, source="h", target="narrow"),
            Experts(dims, dims.latent, source="narrow", target="routed"),
            *((norm,) if dims.latent_norm else ()),
            Linear("ffn_latent_up", hidden, dims.latent, source="routed", target="routed"),
        )
    shared: tuple[Operator, ...] = ()
    if dims.shared_width:
        shared = _dense("ffn_{}_shexp", dims.shared_width, dims, hidden, target="shared")
    if dims.shared_gate:
        shared += (Linear("ffn_gate_inp_shexp", 1, hidden, source="h", target="shared_gate"),)
    return (router, *routed, *shared)


def _dense(
    name: str, width: int, dims: FeedForwardDims | ExpertsDims, hidden: int, target: str
) -> tuple[Operator, ...]:
    """A feed-forward that every token passes; `name` has a place for gate, up and down."""
    up = Linear(name.format("up"), width, hidden, source="h", target="up")
    down = Linear(name.format("down"), hidden, width, source="gated", target=target)
    act = name.format("act")
    if not dims.gated:
        return (up, Gate(act, dims.activation, gate="up", up="up", target="gated"), down)
    gate = Linear(name.format("gate"), width, hidden, source="h", target="gate")
    return (gate, up, Gate(act, dims.activation, gate="gate", up="up", target="gated"), down)
