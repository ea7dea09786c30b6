"""The dimensions of a model, whichever file they were read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from membound.errors import InputError
from membound.models.quantization import Quantization
from membound.models.rope import Rope

MOST_LAYERS = 4096  # a guard against damaged files; the deepest published models have below 200

Activation = Literal["silu", "gelu_tanh", "relu2", "clamped_silu", "situ"]


@dataclass(frozen=True)
class AttentionDims:
    """Grouped-query attention: `heads` queries share `kv_heads` keys and values, each of `head_dim`."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    scale: float  # of the dot product of a query and a key
    window: int | None = None  # keys that a query sees, its own among them; None sees all
    bias: bool = False  # on q, k and v
    output_bias: bool = False
    qk_norm: bool = False  # RMS norm of each head's q and k before the rotation
    whole_qk_norm: bool = False  # that norm over all heads together
    output_gate: bool = False  # a sigmoid of a second query projection multiplies what was attended
    sinks: bool = False  # a learned logit per head that takes part in the softmax

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise InputError(f"{self.heads} attention heads cannot share {self.kv_heads} key-value heads")
        if self.rope.dimensions > self.head_dim:
            raise InputError(f"rope turns {self.rope.dimensions} elements of heads that have {self.head_dim}")


@dataclass(frozen=True)
class IndexerDims:
    """Chooses `top_k` cached entries for each query by `heads` small dot products of `head_dim`."""

    heads: int
    head_dim: int
    top_k: int
    shared: bool = False  # what an earlier layer chose is used again: no products, no cache of their own


@dataclass(frozen=True)
class LatentAttentionDims:
    """Multi-head latent attention: caches a latent of `kv_rank` and a key of `rope_dim` per token."""

    heads: int
    query_rank: int | None  # queries are compressed too; None multiplies them directly
    kv_rank: int
    nope_dim: int  # of a head's query and key, the part without rotation
    rope_dim: int
    value_dim: int
    scale: float
    rope: Rope | None  # None rotates nothing
    bias: bool = False
    output_gate: bool = False
    indexer: IndexerDims | None = None


@dataclass(frozen=True)
class CompressedAttentionDims:
    """DeepSeek-V4: the last `window` tokens, and one compressed entry for every `ratio` older ones (0: none).

    Keys and values are one shared vector of `head_dim`; the output projection is of low rank, in groups.
    """

    heads: int
    head_dim: int
    query_rank: int
    output_groups: int
    output_rank: int
    window: int
    ratio: int
    scale: float
    rope: Rope
    indexer: IndexerDims | None = None


@dataclass(frozen=True)
class DeltaNetDims:
    """Gated delta rule: `value_heads` states of key_dim x value_dim; `key_heads` are shared among them."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int  # tokens that the short convolution sees
    state_bytes: int = 4  # of one element of state


@dataclass(frozen=True)
class KimiDeltaDims:
    """Kimi delta attention: the delta rule with a decay per channel."""

    heads: int
    head_dim: int
    kernel: int
    full_rank_gate: bool
    state_bytes: int = 4


@dataclass(frozen=True)
class MambaDims:
    """Mamba-2: `heads` states of head_dim x state; `groups` of heads share input and output vectors."""

    heads: int
    head_dim: int
    groups: int
    state: int
    kernel: int
    conv_bias: bool
    bias: bool = False
    state_bytes: int = 4


Mixer = (
    AttentionDims | LatentAttentionDims | CompressedAttentionDims | DeltaNetDims | KimiDeltaDims | MambaDims
)


@dataclass(frozen=True)
class FeedForwardDims:
    """Gated feed-forward: down(activation(gate(x)) * up(x)); otherwise down(activation(up(x)))."""

    width: int
    activation: Activation
    gated: bool = True


@dataclass(frozen=True)
class ExpertsDims:
    """A router sends each token to `active` of `experts` feed-forwards; shared experts serve every token."""

    experts: int
    active: int
    width: int  # of one routed expert
    activation: Activation
    gated: bool = True
    shared_width: int = 0  # of all shared experts together
    shared_gate: bool = False  # a scalar gate on the shared experts' output
    router_bias: bool = False  # on the router's logits, or the correction that balances it
    expert_bias: bool = False  # inside each expert
    latent: int | None = None  # routed experts work at this width, between two projections
    latent_norm: bool = False
    held: int | None = None  # experts whose weights are here, under expert parallel; None is all of them


FeedForward = FeedForwardDims | ExpertsDims


@dataclass(frozen=True)
class Block:
    """One layer of any model: a mixer of tokens and a feed-forward, each with a norm before it.

    A hybrid's block may lack either.
    """

    attention: Mixer | None
    feed_forward: FeedForward | None
    post_norms: bool = False  # a further norm on each branch before it joins the residual stream
    streams: int = 1  # residual streams that hyper-connections mix around each branch
    attends_depth: bool = False  # each branch attends to the residuals of earlier blocks


@dataclass(frozen=True)
class Layer(Block):
    """A block that the executors run: grouped-query attention and a dense feed-forward."""

    attention: AttentionDims
    feed_forward: FeedForwardDims


@dataclass(frozen=True)
class Dimensions:
    """All that is known of a model without its weights: enough to cost it."""

    family: str  # llama, mistral, qwen2, qwen3, gemma3, deepseek_v3, ...
    vocab: int
    hidden: int
    norm_eps: float
    tied: bool  # the head multiplies by the embedding table
    context_length: int  # tokens
    embedding_scale: float  # what an embedding is multiplied by
    layers: tuple[Block, ...]
    quantization: Quantization | None = None
    cost_only: tuple[str, ...] = ()  # what no executor here computes; such a model is costed, never run


@dataclass(frozen=True)
class Architecture(Dimensions):
    """A model that the executors run."""

    layers: tuple[Layer, ...]
