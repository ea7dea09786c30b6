"""The dimensions of a model, whichever file they were read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from membound.models.rope import Rope

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True)
class AttentionDims:
    """Grouped-query attention: `heads` queries share `kv_heads` keys and values of `head_dim` elements
    each.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    scale: float  # of the dot product of a query and a key
    window: int | None = None  # keys that a query sees, its own among them; None sees all
    bias: bool = False  # on q, k and v
    output_bias: bool = False
    qk_norm: bool = False  # RMS norm of each head's q and k before the rotation


@dataclass(frozen=True)
class FeedForwardDims:
    """Gated feed-forward: down(activation(gate(x)) * up(x))."""

    width: int
    activation: Activation


@dataclass(frozen=True)
class Layer:
    """One attention and one feed-forward, each with a norm before it."""

    attention: AttentionDims
    feed_forward: FeedForwardDims
    post_norms: bool = False  # a further norm on each branch before it joins the residual stream


@dataclass(frozen=True)
class Architecture:
    """All that is known of a model without its weights."""

    family: str  # llama, mistral, qwen2, qwen3, gemma3
    vocab: int
    hidden: int
    norm_eps: float
    tied: bool  # the head multiplies by the embedding table
    context_length: int  # tokens
    embedding_scale: float  # what an embedding is multiplied by
    layers: tuple[Layer, ...]
