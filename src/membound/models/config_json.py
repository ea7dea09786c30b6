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
from membound.models.config_mixers import (
    compressed_layers,
    gated_delta_layers,
    kimi_layers,
    latent_layers,
    nemotron_kinds,
    nemotron_layers,
)
from membound.models.quantization import Quantization, quantization_from_config
from membound.models.rope import LinearScaling, Llama3Scaling, Rope, Scaling, YarnScaling, yarn_magnitude
from membound.models.settings import Settings

FAMILIES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "gemma2": "gemma2",
    "phi3": "phi3",
    "mixtral": "mixtral",
    "qwen2_moe": "qwen2",
    "qwen3_moe": "qwen3",
    "qwen3_next": "qwen3_next",
    "qwen3_5": "qwen3_5",
    "qwen3_5_text": "qwen3_5",
    "qwen3_5_moe": "qwen3_5",
    "qwen3_5_moe_text": "qwen3_5",
    "llama4": "llama4",
    "llama4_text": "llama4",
    "glm4_moe": "glm",
    "glm_moe_dsa": "deepseek_v3",
    "minimax_m2": "minimax_m2",
    "gpt_oss": "gpt_oss",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "deepseek_v32": "deepseek_v3",
    "kimi_k2": "deepseek_v3",
    "kimi_linear": "kimi",
    "nemotron_h": "nemotron_h",
    "deepseek_v4": "deepseek_v4",
}
# Families that the executors run; the others are costed.
RUNNABLE = {"llama", "mistral", "qwen2", "qwen3", "gemma3"}

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
    "gemma2": {
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    "mixtral": {"num_key_value_heads": 8},
    "qwen3_next": {"head_dim": 256},
    "qwen3_5": {"head_dim": 256},
    "llama4": {"head_dim": 128},
    "gpt_oss": {"head_dim": 64, "sliding_window": 128},
}

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "relu2": "relu2",
    "situ": "situ",
}

# Settings that do not change what a forward pass computes.
HARMLESS = frozenset(
    """
    _name_or_path _attn_implementation _attn_implementation_autoset _flash_attn_2_enabled architectures
    attention_dropout auto_map bos_token_id cache_implementation chunk_size_feed_forward dtype eos_token_id
    id2label initializer_range is_decoder label2id model_type output_attentions output_hidden_states
    pad_token_id pretraining_tp problem_type return_dict rope_interleaved tokenizer_class torch_dtype
    transformers_version transformers.js_config use_cache

    add_cross_attention bad_words_ids begin_suppress_tokens cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id is_encoder_decoder length_penalty max_length
    min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores prefix
    pruned_heads remove_invalid_values repetition_penalty return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder top_k top_p torchscript typical_p
    use_bfloat16 is_llama_config embd_pdrop resid_pdrop hidden_dropout initial_context_length
    model_max_length num_logits_to_keep sliding_window_size max_seq_len rope_interleave
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
        "video_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
        "media_placeholder_token_id",
        "image_placeholder",
        "video_placeholder",
        "ignore_index",
        "use_unified_vision_chunk",
    }
)
# Heads that draft tokens for speculation: no part of a step of the model itself.
DRAFT_HEADS = frozenset(
    {
        "num_nextn_predict_layers",
        "mtp_num_hidden_layers",
        "mtp_use_dedicated_embeddings",
        "use_mtp",
        "mtp_transformer_layers",
        "num_mtp_modules",
    }
)
# Of a family's own mathematics that costs nothing: gates, clamps, initial values, and the kernels' own sizes.
COST_FREE = frozenset(
    """activation_situ_beta activation_situ_linear_beta attn_output_gate attn_temperature_tuning chunk_size
    expand floor_scale attn_scale hc_eps hc_sinkhorn_iters mamba_hidden_act mlp_hidden_act mlp_bias
    rescale_prenorm_residual residual_in_fp32 swiglu_limit time_step_floor time_step_max time_step_min
    use_bias use_mamba_kernels
    """.split()  # noqa: SIM905
)

GEMMA3_LOCAL_BASE = 10_000.0
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
    settings = Settings(flat, where)
    settings.ignore(HARMLESS | DRAFT_HEADS)
    if family not in RUNNABLE:
        settings.ignore(COST_FREE)

    hidden = settings.integer("hidden_size")
    default = DEFAULTS.get(family, {}).get
    context_length = settings.integer("max_position_embeddings", default("max_position_embeddings"))
    count = settings.integer("num_hidden_layers", most=MOST_LAYERS)
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
        vocab=settings.integer("vocab_size", default("vocab_size")),
        hidden=hidden,
        norm_eps=settings.number(eps_keys[0] if eps_keys else "rms_norm_eps", 1e-6),
        tied=settings.flag("tie_word_embeddings", default("tie_word_embeddings", False)),
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
    return dimensions


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
        and quantization.format.name != "fp8",
    }
    return tuple(name for name, present in found.items() if present)


def _mixers(
    settings: Settings, family: str, hidden: int, count: int, context_length: int
) -> tuple[Sequence[Mixer | None], bool]:
    """The mixer of each layer, and whether logits are capped."""
    default = DEFAULTS.get(family, {}).get
    heads = settings.integer("num_attention_heads", default("num_attention_heads"))
    own_head = {"deepseek_v2", "deepseek_v3", "kimi", "deepseek_v4"}
    if family in own_head:
        full_rope, _ = _ropes(settings, family, settings.integer("qk_rope_head_dim"), context_length)
        build = {"kimi": kimi_layers, "deepseek_v4": compressed_layers}.get(family, latent_layers)
        layers = build(settings, family, count, heads, full_rope)
        settings.ignore({"num_key_value_heads", "head_dim", "sliding_window", "layer_types"})
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
    default = DEFAULTS.get(family, {}).get
    head_dim = settings.integer("head_dim", default("head_dim", hidden // heads))
    rotated = head_dim
    if family not in RUNNABLE:
        fraction = settings.number("partial_rotary_factor", 1.0)
        rotated = settings.integer("rotary_dim", int(head_dim * fraction))
    full_rope, sliding_rope = _ropes(settings, family, rotated, context_length)
    bias = settings.flag("attention_bias", family == "qwen2")
    scale_of = head_dim
    softcaps = False
    if family in ("gemma2", "gemma3"):
        scale_of = settings.integer("query_pre_attn_scalar", default("query_pre_attn_scalar"))
        caps = [settings.get(key) for key in ("attn_logit_softcapping", "final_logit_softcapping")]
        softcaps = any(cap is not None for cap in caps)
    qk_norm = settings.flag("use_qk_norm", family in ("qwen3", "gemma3", "qwen3_next", "qwen3_5"))
    kind = settings.choice("qk_norm_type", {"per_layer": True, "per_head": False}, "per_head")
    attention = AttentionDims(
        heads=heads,
        kv_heads=settings.integer("num_key_value_heads", default("num_key_value_heads", heads)),
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
    """The text model's settings; a nested text_config inherits what only the outer config says."""
    nested = config.get("text_config")
    if nested is None:
        return dict(config)
    if not isinstance(nested, Mapping):
        raise InputError(f"{where}: text_config must be an object")
    outer = {key: value for key, value in config.items() if key not in {"text_config", *OTHER_MODALITIES}}
    return {**outer, **nested}


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
    window = None if family == "llama" else settings.optional_integer("sliding_window")
    period_key = next((key for key in PATTERN_KEYS if settings.get(key) is not None), PATTERN_KEYS[0])
    period = settings.integer(period_key, GEMMA3_PATTERN)
    first_sliding = settings.integer("max_window_layers", 28, least=0)
    named = settings.get("layer_types")
    if family == "gemma3":
        window = window or DEFAULTS[family]["sliding_window"]
        sliding = [(index + 1) % period != 0 for index in range(count)]
    elif family in ("gemma2", "gpt_oss"):
        window = window or DEFAULTS[family]["sliding_window"]
        sliding = [index % 2 == 0 for index in range(count)]
    elif family == "llama4":
        window = settings.integer("attention_chunk_size", 8192)
        sliding = _rotated_layers(settings, count)
    elif family in ("qwen2", "qwen3"):
        if not settings.flag("use_sliding_window", False):
            window = None
        sliding = [index >= first_sliding for index in range(count)]
    elif family == "minimax_m2":
        if any(kind != 1 for kind in settings.get("attn_type_list") or ()):
            raise InputError(f"{settings.where}: attn_type_list names linear layers, which are not supported")
        sliding = [False] * count
    else:
        sliding = [True] * count
    if named is not None:
        sliding = [_is_sliding(name, settings) for name in _list_of(named, count, settings)]
        if window is None and any(sliding):
            raise InputError(
                f"{settings.where}: layer_types names sliding layers, but there is no sliding_window"
            )
    return [window if slides else None for slides in sliding]


def _rotated_layers(settings: Settings, count: int) -> list[bool]:
    """Llama 4: layers that rotate see only their chunk of the context; one in four neither rotates nor is
    cut.
    """
    named = settings.get("no_rope_layers")
    if named:
        return [bool(rotates) for rotates in named]
    interval = settings.integer("no_rope_layer_interval", 4)
    return [(index + 1) % interval != 0 for index in range(count)]


def _list_of(named: Any, count: int, settings: Settings) -> Sequence[Any]:
    if not isinstance(named, list) or len(named) != count:
        raise InputError(f"{settings.where}: layer_types must list {count} layers")
    return named


def _is_sliding(name: Any, settings: Settings) -> bool:
    if name not in ("full_attention", "sliding_attention", "chunked_attention"):
        raise InputError(f"{settings.where}: layer type {name!r} is not supported")
    return bool(name != "full_attention")


def _ropes(settings: Settings, family: str, head_dim: int, context_length: int) -> tuple[Rope, Rope]:
    """The rotation of layers that see all, and of those with a window."""
    theta = settings.number("rope_theta", DEFAULTS.get(family, {}).get("rope_theta", 10_000.0))
    local_theta = settings.number("rope_local_base_freq", GEMMA3_LOCAL_BASE)
    parameters = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if family == "phi3":  # longrope: factors per pair, below and above the original context
        settings.ignore({"original_max_position_embeddings"})
        if isinstance(parameters, Mapping) and parameters.get("type") in ("longrope", "su"):
            parameters = {}
    settings.ignore({"rope_scaling"})

    if not isinstance(parameters, Mapping):
        raise InputError(f"{settings.where}: the rope settings must be an object, they are {parameters!r}")

    def rope(values: Any, base: float) -> Rope:
        if not isinstance(values, Mapping):
            raise InputError(f"{settings.where}: the rope settings must be objects, there is {values!r}")
        inner = Settings(values, f"{settings.where}, rope settings")
        base = inner.number("rope_theta", base)
        fraction = inner.number("partial_rotary_factor", 1.0)
        if fraction != 1.0 and family in RUNNABLE:
            raise InputError(f"{inner.where}: partial_rotary_factor is not supported")
        if family not in RUNNABLE:
            inner.ignore({"mrope_interleaved", "mrope_section"})  # text has one position per token
        scaling = _scaling(inner, context_length)
        inner.refuse_unread()
        return Rope(base, int(head_dim * fraction), "halves", scaling)

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
