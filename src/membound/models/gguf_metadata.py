"""Architecture from the metadata of a GGUF file. Keys and their meaning are llama.cpp's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from membound.errors import InputError
from membound.models.architecture import (
    MOST_LAYERS,
    Activation,
    Architecture,
    AttentionDims,
    FeedForwardDims,
    Layer,
)
from membound.models.rope import (
    FrequencyDivisors,
    LinearScaling,
    Pairing,
    Rope,
    Scaling,
    YarnScaling,
    yarn_magnitude,
)
from membound.models.settings import Settings

# llama's q and k rows are permuted by the converter so that the pairs that turn together are neighbours.
PAIRING: dict[str, Pairing] = {
    "llama": "adjacent",
    "qwen2": "halves",
    "qwen3": "halves",
    "gemma3": "halves",
}

GEMMA3_LOCAL_BASE = 10_000.0  # of the layers with a sliding window, where the file does not say
GEMMA3_PATTERN = 6  # every sixth layer sees the whole context
GEMMA3_27B_LAYERS = 62  # this size alone scales by (hidden / heads)**-0.5; the file does not say so


def architecture_from_gguf(
    metadata: Mapping[str, Any], tensors: Collection[str], frequency_divisors: Sequence[float] | None
) -> Architecture:
    """The dimensions of a GGUF model.

    `tensors` are the names in the file: a head of its own and biases show only there. `frequency_divisors`
    is the content of `rope_freqs.weight`, if the file has it. Raises InputError for what is missing or not
    supported.
    """
    family = metadata.get("general.architecture")
    if not isinstance(family, str) or family not in PAIRING:
        supported = ", ".join(PAIRING)
        raise InputError(f"general.architecture {family!r} is not supported (supported: {supported})")
    prefix = f"{family}."
    settings = Settings(
        {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)},
        f"GGUF metadata of {family}",
    )
    hidden = settings.integer("embedding_length")
    heads = settings.integer("attention.head_count")
    head_dim = settings.integer("attention.key_length", hidden // heads)
    if settings.integer("attention.value_length", head_dim) != head_dim:
        raise InputError("attention.value_length differs from attention.key_length: not supported")
    count = settings.integer("block_count", most=MOST_LAYERS)
    context_length = settings.integer("context_length")
    scaling = _scaling(settings, context_length, frequency_divisors)
    rope = Rope(
        base=settings.number("rope.freq_base", 10_000.0),
        dimensions=settings.integer("rope.dimension_count", head_dim),
        pairing=PAIRING[family],
        scaling=scaling,
    )
    window = settings.optional_integer("attention.sliding_window")
    attention = AttentionDims(
        heads=heads,
        kv_heads=settings.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        rope=rope,
        scale=settings.number("attention.scale", head_dim**-0.5),
        window=window,
        bias="blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
        qk_norm=family in ("qwen3", "gemma3"),
    )
    activation: Activation = "gelu_tanh" if family == "gemma3" else "silu"
    feed_forward = FeedForwardDims(settings.integer("feed_forward_length"), activation)
    layers = (Layer(attention, feed_forward),) * count
    if family == "gemma3":
        layers = _gemma3_layers(settings, attention, feed_forward, count, hidden)
    settings.ignore({"rope.scaling.finetuned"})
    tokens = metadata.get("tokenizer.ggml.tokens")
    vocab = settings.integer("vocab_size", len(tokens) if isinstance(tokens, list) else None)
    norm_eps = settings.number("attention.layer_norm_rms_epsilon")
    settings.refuse_unread()
    return Architecture(
        family=family,
        vocab=vocab,
        hidden=hidden,
        norm_eps=norm_eps,
        tied="output.weight" not in tensors,
        context_length=context_length,
        embedding_scale=hidden**0.5 if family == "gemma3" else 1.0,
        layers=layers,
    )


def _gemma3_layers(
    settings: Settings, attention: AttentionDims, feed_forward: FeedForwardDims, count: int, hidden: int
) -> tuple[Layer, ...]:
    """Five layers with a sliding window and an unscaled rope of their own base, then one that sees all."""
    if count == GEMMA3_27B_LAYERS:
        attention = replace(attention, scale=(hidden / attention.heads) ** -0.5)
    local_rope = replace(
        attention.rope, base=settings.number("rope.freq_base_swa", GEMMA3_LOCAL_BASE), scaling=None
    )
    sliding = Layer(replace(attention, rope=local_rope), feed_forward, post_norms=True)
    full = Layer(replace(attention, window=None), feed_forward, post_norms=True)
    period = settings.integer("attention.sliding_window_pattern", GEMMA3_PATTERN)
    return tuple(full if (index + 1) % period == 0 else sliding for index in range(count))


def _scaling(settings: Settings, context_length: int, divisors: Sequence[float] | None) -> Scaling | None:
    kind = settings.choice(
        "rope.scaling.type", {"none": "none", "linear": "linear", "yarn": "yarn"}, default="none"
    )
    if divisors is not None and kind != "none":
        raise InputError(f"rope_freqs.weight together with rope.scaling.type {kind!r} is not supported")
    if divisors is not None:
        return FrequencyDivisors(tuple(float(divisor) for divisor in divisors))
    if kind == "none":
        settings.ignore({"rope.scaling.factor", "rope.scaling.original_context_length"})
        return None
    factor = settings.number("rope.scaling.factor")
    if kind == "linear":
        settings.ignore({"rope.scaling.original_context_length"})
        return LinearScaling(factor)
    return YarnScaling(
        factor=factor,
        original_context=settings.integer("rope.scaling.original_context_length", context_length),
        amplitude=settings.number("rope.scaling.attn_factor", 1.0) * yarn_magnitude(factor),
        beta_fast=settings.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=settings.number("rope.scaling.yarn_beta_slow", 1.0),
    )
