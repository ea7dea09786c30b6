"""Architecture from a Hugging Face config.json. Names, defaults and meaning are those of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from membound.errors import InputError
from membound.models.architecture import Activation, Architecture, AttentionDims, FeedForwardDims, Layer
from membound.models.rope import LinearScaling, Llama3Scaling, Rope, Scaling, YarnScaling, yarn_magnitude
from membound.models.settings import Settings

FAMILIES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
}

# What transformers assumes where a config is silent, and it does not follow from other settings.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"num_key_value_heads": 8, "max_position_embeddings": 131_072},
    "qwen2": {"num_key_value_heads": 32, "max_position_embeddings": 32_768},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32_768},
    "gemma3": {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
    },
}

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
}

# Settings that do not change what a forward pass computes.
HARMLESS = frozenset(
    """
    _name_or_path _attn_implementation _attn_implementation_autoset _flash_attn_2_enabled architectures
    attention_dropout auto_map bos_token_id cache_implementation chunk_size_feed_forward dtype eos_token_id
    id2label initializer_range is_decoder label2id model_type output_attentions output_hidden_states
    pad_token_id pretraining_tp problem_type return_dict rope_interleaved tokenizer_class torch_dtype
    transformers_version transformers.js_config use_cache
    """.split()  # noqa: SIM905 (one word after another reads better than a list of strings)
)
# Of a config that nests its text model: the rest of it is not run.
OTHER_MODALITIES = frozenset(
    {
        "vision_config",
        "image_token_index",
        "image_token_id",
        "boi_token_index",
        "eoi_token_index",
        "mm_tokens_per_image",
    }
)

GEMMA3_LOCAL_BASE = 10_000.0
GEMMA3_PATTERN = 6


def architecture_from_config(config: Mapping[str, Any], where: str) -> Architecture:
    """The dimensions of a model in Hugging Face's form; raises InputError for what is missing or not
    supported.

    `where` names the file in messages.
    """
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        supported = ", ".join(FAMILIES)
        raise InputError(f"{where}: model_type {model_type!r} is not supported (supported: {supported})")
    family = FAMILIES[model_type]
    settings = Settings(_flat(config), where)
    settings.ignore(HARMLESS)

    hidden = settings.integer("hidden_size")
    default = DEFAULTS[family].get
    heads = settings.integer("num_attention_heads", default("num_attention_heads"))
    head_dim = settings.integer("head_dim", default("head_dim", hidden // heads))
    context_length = settings.integer("max_position_embeddings", default("max_position_embeddings"))
    count = settings.integer("num_hidden_layers")
    full_rope, sliding_rope = _ropes(settings, family, head_dim, context_length)
    windows = _windows(settings, family, count)
    _refuse_other_mathematics(settings)

    bias = settings.flag("attention_bias", family == "qwen2")
    scale_of = head_dim
    if family == "gemma3":
        scale_of = settings.integer("query_pre_attn_scalar", default("query_pre_attn_scalar"))
    attention = AttentionDims(
        heads=heads,
        kv_heads=settings.integer("num_key_value_heads", default("num_key_value_heads", heads)),
        head_dim=head_dim,
        rope=full_rope,
        scale=scale_of**-0.5,
        bias=bias,
        output_bias=bias and family in ("llama", "qwen3"),
        qk_norm=family in ("qwen3", "gemma3"),
    )
    feed_forward = FeedForwardDims(settings.integer("intermediate_size"), _activation(settings, family))
    full = Layer(attention, feed_forward, post_norms=family == "gemma3")
    architecture = Architecture(
        family=family,
        vocab=settings.integer("vocab_size", default("vocab_size")),
        hidden=hidden,
        norm_eps=settings.number("rms_norm_eps", 1e-6),
        tied=settings.flag("tie_word_embeddings", default("tie_word_embeddings", False)),
        context_length=context_length,
        embedding_scale=hidden**0.5 if family == "gemma3" else 1.0,
        layers=tuple(
            full
            if window is None
            else replace(full, attention=replace(attention, window=window, rope=sliding_rope))
            for window in windows
        ),
    )
    settings.refuse_unread()
    return architecture


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text model's settings; a nested text_config inherits what only the outer config says."""
    nested = config.get("text_config")
    if nested is None:
        return dict(config)
    if not isinstance(nested, Mapping):
        raise InputError("text_config must be an object")
    outer = {key: value for key, value in config.items() if key not in {"text_config", *OTHER_MODALITIES}}
    return {**outer, **nested}


def _activation(settings: Settings, family: str) -> Activation:
    key = "hidden_activation" if family == "gemma3" else "hidden_act"
    return settings.choice(key, ACTIVATIONS, "gelu_pytorch_tanh" if family == "gemma3" else "silu")


def _refuse_other_mathematics(settings: Settings) -> None:
    """A rotation of a part of each head is the one setting whose plain value is not falsy."""
    fraction = settings.number("partial_rotary_factor", 1.0)
    if fraction != 1.0:
        raise InputError(f"{settings.where}: partial_rotary_factor {fraction} is not supported")


def _windows(settings: Settings, family: str, count: int) -> list[int | None]:
    """Each layer's attention window; None sees the whole context."""
    window = settings.optional_integer("sliding_window")
    period = settings.get("sliding_window_pattern") or settings.get("_sliding_window_pattern")
    named = settings.get("layer_types")
    first_sliding = settings.get("max_window_layers")
    if family == "gemma3":
        window = window or DEFAULTS[family]["sliding_window"]
        sliding = [(index + 1) % (period or GEMMA3_PATTERN) != 0 for index in range(count)]
    elif family in ("qwen2", "qwen3"):
        if not settings.flag("use_sliding_window", False):
            window = None
        first = 28 if first_sliding is None else first_sliding
        sliding = [index >= first for index in range(count)]
    else:
        sliding = [True] * count
    if named is not None:
        sliding = [_is_sliding(name, settings) for name in _list_of(named, count, settings)]
        if window is None and any(sliding):
            raise InputError(
                f"{settings.where}: layer_types names sliding layers, but there is no sliding_window"
            )
    return [window if slides else None for slides in sliding]


def _list_of(named: Any, count: int, settings: Settings) -> Sequence[Any]:
    if not isinstance(named, list) or len(named) != count:
        raise InputError(f"{settings.where}: layer_types must list {count} layers")
    return named


def _is_sliding(name: Any, settings: Settings) -> bool:
    if name not in ("full_attention", "sliding_attention"):
        raise InputError(f"{settings.where}: layer type {name!r} is not supported")
    return bool(name == "sliding_attention")


def _ropes(settings: Settings, family: str, head_dim: int, context_length: int) -> tuple[Rope, Rope]:
    """The rotation of layers that see all, and of those with a window."""
    theta = settings.number("rope_theta", DEFAULTS[family].get("rope_theta", 10_000.0))
    local_theta = settings.number("rope_local_base_freq", GEMMA3_LOCAL_BASE)
    parameters = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    settings.ignore({"rope_scaling"})

    def rope(values: Any, base: float) -> Rope:
        if not isinstance(values, Mapping):
            raise InputError(f"{settings.where}: the rope settings must be an object, they are {values!r}")
        inner = Settings(values, f"{settings.where}, rope settings")
        base = inner.number("rope_theta", base)
        scaling = _scaling(inner, context_length)
        inner.refuse_unread()
        return Rope(base, head_dim, "halves", scaling)

    if "full_attention" in parameters or "sliding_attention" in parameters:
        return (
            rope(parameters.get("full_attention", {}), theta),
            rope(parameters.get("sliding_attention", {}), local_theta if family == "gemma3" else theta),
        )
    full = rope(parameters, theta)
    return full, Rope(local_theta, head_dim, "halves") if family == "gemma3" else full


def _scaling(values: Settings, context_length: int) -> Scaling | None:
    kinds = {kind: kind for kind in ("default", "linear", "llama3", "yarn")}
    key = "rope_type" if values.get("rope_type") is not None else "type"
    kind = values.choice(key, kinds, default="default")
    values.ignore({"type"})
    if values.number("partial_rotary_factor", 1.0) != 1.0:
        raise InputError(f"{values.where}: partial_rotary_factor is not supported")
    if kind == "default":
        values.ignore({"factor", "original_max_position_embeddings"})
        return None
    factor = values.number("factor")
    original = values.integer("original_max_position_embeddings", context_length)
    if kind == "linear":
        return LinearScaling(factor)
    if kind == "llama3":
        return Llama3Scaling(
            factor, values.number("low_freq_factor"), values.number("high_freq_factor"), original
        )
    return YarnScaling(
        factor=factor,
        original_context=original,
        amplitude=_yarn_amplitude(values, factor),
        beta_fast=values.number("beta_fast", 32.0),
        beta_slow=values.number("beta_slow", 1.0),
        whole_pairs=values.flag("truncate", True),
    )


def _yarn_amplitude(values: Settings, factor: float) -> float:
    given = values.optional_number("attention_factor")
    scale, scale_all = values.optional_number("mscale"), values.optional_number("mscale_all_dim")
    if given is not None:
        return given
    if scale is not None and scale_all is not None:
        return yarn_magnitude(factor, scale) / yarn_magnitude(factor, scale_all)
    return yarn_magnitude(factor)
