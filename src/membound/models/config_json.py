"""Architecture from a Hugging Face config.json. Names, defaults and meaning are those of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from membound.errors import InputError
from membound.models.architecture import (
    MOST_LAYERS,
    Activation,
    Architecture,
    AttentionDims,
    Block,
    Dimensions,
    ExpertsDims,
    FeedForward,
    FeedForwardDims,
    Layer,
    Mixer,
)
from membound.models.config_experts import feed_forwards
from membound.models.config_fields import (
    COST_FREE,
    DEFAULTS,
    DRAFT_HEADS,
    FAMILIES,
    HARMLESS,
    OTHER_MODALITIES,
    RUNNABLE,
)
from membound.models.config_mixers import (
    compressed_layers,
    gated_delta_layers,
    kimi_layers,
    latent_layers,
    nemotron_kinds,
    nemotron_layers,
)
from membound.models.config_ropes import ropes
from membound.models.families import build
from membound.models.quantization import Quantization
from membound.models.quantization_config import quantization_from_config
from membound.models.rope import Rope
from membound.models.settings import Settings

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "relu2": "relu2",
    "situ": "situ",
}

TEXT_CONFIGS = ("text_config", "language_config", "llm_config")
SPELLINGS = {"attention_head_dim": "head_dim", "num_query_groups": "num_key_value_heads"}
GEMMA3_PATTERN = 6
PATTERN_KEYS = ("sliding_window_pattern", "_sliding_window_pattern")


def architecture_from_config(config: Mapping[str, Any], where: str) -> Architecture:
    """A model to run; raises InputError where it can only be costed, and as `dimensions_from_config` does."""
    known = dimensions_from_config(config, where)
    layers = tuple(
        Layer(block.attention, block.feed_forward, block.post_norms)
        for block in known.layers
        if isinstance(block.attention, AttentionDims) and isinstance(block.feed_forward, FeedForwardDims)
    )
    if known.cost_only or len(layers) < len(known.layers):
        reasons = ", ".join(known.cost_only)
        raise InputError(f"{where}: {reasons} cannot be run here, only costed: see `membound roofline`")
    return Architecture(**{**vars(known), "layers": layers})


def dimensions_from_config(config: Mapping[str, Any], where: str) -> Dimensions:
    """The dimensions of a model in Hugging Face's form; raises InputError for what is missing or not
    supported.

    `where` names the file in messages.
    """
    flat = _flat(config, where)
    model_type = flat.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        supported = ", ".join(FAMILIES)
        raise InputError(f"{where}: model_type {model_type!r} is not supported (supported: {supported})")
    family = FAMILIES[model_type]
    settings = Settings({**DEFAULTS.get(family, {}), **DEFAULTS.get(model_type, {}), **flat}, where)
    settings.ignore(HARMLESS | DRAFT_HEADS)
    if family not in RUNNABLE:
        settings.ignore(COST_FREE)

    hidden = settings.integer("hidden_size")
    longest = settings.optional_integer("model_max_length")
    context_length = settings.integer("max_position_embeddings", longest)
    count = settings.integer("num_hidden_layers", _listed_layers(settings), most=MOST_LAYERS)
    mixers, softcaps = _mixers(settings, family, hidden, count, context_length)
    activation = _activation(settings, family)
    forwards: list[FeedForward | None] = list(feed_forwards(settings, family, count, activation))
    if family == "nemotron_h":
        forwards = _nemotron_forwards(settings, forwards, count)
    expert_dtype = settings.get("expert_dtype")
    quantization = None
    if settings.get("quantization_config") is not None:
        quantization = quantization_from_config(settings.get("quantization_config"), where, expert_dtype)
    streams = settings.integer("hc_mult", 1)
    depth = settings.optional_integer("attn_res_block_size") is not None
    eps_keys = [k for k in ("rms_norm_eps", "layer_norm_epsilon", "norm_eps") if settings.get(k) is not None]
    dimensions = Dimensions(
        family=family,
        vocab=settings.integer("vocab_size"),
        hidden=hidden,
        norm_eps=settings.number(eps_keys[0] if eps_keys else "rms_norm_eps", 1e-6),
        tied=settings.flag("tie_word_embeddings", False),
        context_length=context_length,
        embedding_scale=hidden**0.5 if family in ("gemma2", "gemma3") else 1.0,
        layers=tuple(
            Block(mixer, forward, family in ("gemma2", "gemma3"), streams, depth)
            for mixer, forward in zip(mixers, forwards, strict=True)
        ),
        quantization=quantization,
        cost_only=_cost_only(family, forwards, activation, softcaps, quantization),
    )
    settings.refuse_unread()
    _refuse_lost_targets(dimensions, where)
    return dimensions


def _refuse_lost_targets(dimensions: Dimensions, where: str) -> None:
    """A scheme by names that are not this model's would leave in 16 bits what it means."""
    scheme = dimensions.quantization
    if scheme is None or not scheme.targets:
        return
    lost = scheme.without_module(parameter.name for parameter in build(dimensions).params())
    if lost:
        raise InputError(
            f"{where}: quantization_config targets {lost[0]!r}, which names no module known here"
        )


def _cost_only(
    family: str,
    forwards: Sequence[FeedForward | None],
    activation: Activation,
    softcaps: bool,
    quantization: Quantization | None,
) -> tuple[str, ...]:
    """What no executor here computes."""
    found = {
        f"the {family} family": family not in RUNNABLE,
        "mixture of experts": any(isinstance(forward, ExpertsDims) for forward in forwards),
        f"the activation {activation}": activation not in ("silu", "gelu_tanh"),
        "logit softcapping": softcaps,
        "a safetensors checkpoint in another quantization than FP8": quantization is not None
        and not {kind.name for kind in quantization.formats} <= {"fp8", "bf16"},
    }
    return tuple(name for name, present in found.items() if present)


def _mixers(
    settings: Settings, family: str, hidden: int, count: int, context_length: int
) -> tuple[Sequence[Mixer | None], bool]:
    """The mixer of each layer, and whether logits are capped."""
    heads = settings.integer("num_attention_heads")
    own_head = {"deepseek_v2", "deepseek_v3", "kimi", "deepseek_v4"}
    if family in own_head:
        full_rope, _ = ropes(settings, family, settings.integer("qk_rope_head_dim"), context_length)
        build = {"kimi": kimi_layers, "deepseek_v4": compressed_layers}.get(family, latent_layers)
        layers = build(settings, family, count, heads, full_rope)
        settings.ignore({"num_key_value_heads", "head_dim", "sliding_window", "partial_rotary_factor"})
        return layers, False
    attention, sliding_rope, softcaps = _grouped(settings, family, hidden, heads, context_length)
    if family in ("qwen3_next", "qwen3_5"):
        settings.ignore({"use_sliding_window", "max_window_layers", "sliding_window"})
        return gated_delta_layers(settings, count, attention), softcaps
    if family == "nemotron_h":
        settings.ignore({"sliding_window"})
        return nemotron_layers(settings, count, attention), softcaps
    windows = _windows(settings, family, count)
    if family in RUNNABLE:
        _refuse_other_mathematics(settings)
    return [
        attention if window is None else replace(attention, window=window, rope=sliding_rope)
        for window in windows
    ], softcaps


def _grouped(
    settings: Settings, family: str, hidden: int, heads: int, context_length: int
) -> tuple[AttentionDims, Rope, bool]:
    """Grouped-query attention that sees all, the rotation of layers that do not, and whether logits are
    capped.
    """
    head_dim = settings.integer("head_dim", hidden // heads if hidden % heads == 0 else None)
    rotated = head_dim
    if family not in RUNNABLE:
        fraction = settings.number("partial_rotary_factor", 1.0)
        rotated = settings.integer("rotary_dim", int(head_dim * fraction))
    full_rope, sliding_rope = ropes(settings, family, rotated, context_length)
    bias = settings.flag("qkv_bias", settings.flag("attention_bias", family == "qwen2"))
    scale_of = head_dim
    softcaps = False
    if family in ("gemma2", "gemma3"):
        scale_of = settings.integer("query_pre_attn_scalar")
        caps = [settings.get(key) for key in ("attn_logit_softcapping", "final_logit_softcapping")]
        softcaps = any(cap is not None for cap in caps)
    qk_norm = settings.flag("use_qk_norm", family in ("qwen3", "gemma3", "qwen3_next", "qwen3_5"))
    kind = settings.choice("qk_norm_type", {"per_layer": True, "per_head": False}, "per_head")
    attention = AttentionDims(
        heads=heads,
        kv_heads=settings.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        rope=full_rope,
        scale=scale_of**-0.5,
        bias=bias,
        output_bias=bias and family in ("llama", "qwen3", "gpt_oss"),
        qk_norm=qk_norm and family != "llama4",  # llama4's norm has no weight
        whole_qk_norm=kind,
        output_gate=family in ("qwen3_next", "qwen3_5"),
        sinks=family == "gpt_oss",
    )
    return attention, sliding_rope, softcaps


def _nemotron_forwards(
    settings: Settings, forwards: Sequence[FeedForward | None], count: int
) -> list[FeedForward | None]:
    """A layer that is a feed-forward has it alone."""
    dense = FeedForwardDims(settings.integer("intermediate_size", 1), "relu2", gated=False)
    kinds = nemotron_kinds(settings, count)
    return [
        forward if kind == "moe" else dense if kind == "mlp" else None
        for forward, kind in zip(forwards, kinds, strict=True)
    ]


def _flat(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The text model's settings that are not null; a nested one inherits what only the outer says."""
    inside = [key for key in TEXT_CONFIGS if config.get(key) is not None]
    nested = config[inside[0]] if inside else {}
    if not isinstance(nested, Mapping):
        raise InputError(f"{where}: {inside[0]} must be an object")
    outer = dict(config)
    if inside or config.get("vision_config") is not None:
        outer = {key: value for key, value in config.items() if key not in {*TEXT_CONFIGS, *OTHER_MODALITIES}}
    flat = {key: value for key, value in {**outer, **nested}.items() if value is not None}
    for other, usual in SPELLINGS.items():
        if other in flat and flat.setdefault(usual, flat[other]) != flat.pop(other):
            raise InputError(f"{where}: {other} and {usual} say different things")
    return flat


def _listed_layers(settings: Settings) -> int | None:
    """How many layers a list of their kinds has, for a config that does not count them."""
    kinds = settings.get("layers_block_type") or settings.get("hybrid_override_pattern")
    return len(kinds) if isinstance(kinds, list | str) else None


def _activation(settings: Settings, family: str) -> Activation:
    gemma = family in ("gemma2", "gemma3")
    key = "hidden_activation" if gemma else "hidden_act"
    if gemma:
        settings.ignore({"hidden_act"})
    if family == "nemotron_h":
        return "relu2"
    chosen = settings.choice(key, ACTIVATIONS, "gelu_pytorch_tanh" if gemma else "silu")
    return "clamped_silu" if family == "gpt_oss" else chosen


def _refuse_other_mathematics(settings: Settings) -> None:
    """A rotation of a part of each head is the one setting whose plain value is not falsy."""
    fraction = settings.number("partial_rotary_factor", 1.0)
    if fraction != 1.0:
        raise InputError(f"{settings.where}: partial_rotary_factor {fraction} is not supported")


def _windows(settings: Settings, family: str, count: int) -> list[int | None]:
    """Each layer's attention window; None sees the whole context."""
    window = None
    if family != "llama" and settings.get("sliding_window") != 0:
        window = settings.optional_integer("sliding_window")
    period_key = next((key for key in PATTERN_KEYS if settings.get(key) is not None), PATTERN_KEYS[0])
    period = settings.integer(period_key, GEMMA3_PATTERN)
    first_sliding = settings.integer("max_window_layers", 28, least=0)
    named = settings.kinds("layer_types", ("full_attention", "sliding_attention", "chunked_attention"), count)
    if family == "gemma3":
        sliding = [(index + 1) % period != 0 for index in range(count)]
    elif family in ("gemma2", "gpt_oss"):
        sliding = [index % 2 == 0 for index in range(count)]
    elif family == "llama4":
        window = settings.integer("attention_chunk_size", 8192)
        sliding = _rotated_layers(settings, count)
    elif family in ("qwen2", "qwen3"):
        if not settings.flag("use_sliding_window", False):
            window = None
        sliding = [index >= first_sliding for index in range(count)]
    elif family == "minimax_m2":
        if any(kind != 1 for kind in settings.integers("attn_type_list")):
            raise InputError(f"{settings.where}: attn_type_list names linear layers, which are not supported")
        sliding = [False] * count
    else:
        sliding = [True] * count
    if named is not None:
        sliding = [name != "full_attention" for name in named]
        if window is None and any(sliding):
            raise InputError(
                f"{settings.where}: layer_types names sliding layers, but there is no sliding_window"
            )
    return [window if slides else None for slides in sliding]


def _rotated_layers(settings: Settings, count: int) -> list[bool]:
    """Llama 4: layers that rotate see only their chunk of the context; one in four neither rotates nor is
    cut.
    """
    named, interval = settings.integers("no_rope_layers"), settings.integer("no_rope_layer_interval", 4)
    if named and len(named) != count:
        raise InputError(f"{settings.where}: no_rope_layers must list {count} layers")
    if named:
        return [bool(rotates) for rotates in named]
    return [(index + 1) % interval != 0 for index in range(count)]
