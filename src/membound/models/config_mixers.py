"""Mixers of a config.json beside grouped-query attention: latent, compressed and linear attention, Mamba."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from membound.errors import InputError
from membound.models.architecture import (
    AttentionDims,
    CompressedAttentionDims,
    DeltaNetDims,
    IndexerDims,
    KimiDeltaDims,
    LatentAttentionDims,
    MambaDims,
    Mixer,
)
from membound.models.rope import Rope
from membound.models.settings import Settings

COMPRESSED_KINDS = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}
LATENT_KINDS = ("indexed_attention", "full_attention", "deepseek_sparse_attention", "sparse_attention")
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def latent_layers(settings: Settings, family: str, count: int, heads: int, rope: Rope) -> list[Mixer]:
    """DeepSeek-V2 to V3.2, Kimi-K2, GLM: layers are the same, but may use an earlier one's choice of keys."""
    settings.kinds("layer_types", LATENT_KINDS, count)
    whole = _latent(settings, heads, rope)
    owners = settings.kinds("indexer_types", ("full", "shared"), count)
    if owners is None or whole.indexer is None:
        return [whole] * count
    settings.ignore({"index_topk_freq", "index_skip_topk_offset"})  # what the list was made by
    if owners[0] == "shared":
        raise InputError(f"{settings.where}: indexer_types begins with a layer that has none to share with")
    reusing = replace(whole, indexer=replace(whole.indexer, shared=True))
    return [whole if owner == "full" else reusing for owner in owners]


def _latent(settings: Settings, heads: int, rope: Rope) -> LatentAttentionDims:
    nope, rotated = settings.integer("qk_nope_head_dim"), settings.integer("qk_rope_head_dim")
    whole = settings.optional_integer("qk_head_dim")
    if whole is not None and whole != nope + rotated:
        raise InputError(f"{settings.where}: qk_head_dim {whole} is not {nope} + {rotated}")
    return LatentAttentionDims(
        heads=heads,
        query_rank=settings.optional_integer("q_lora_rank"),
        kv_rank=settings.integer("kv_lora_rank"),
        nope_dim=nope,
        rope_dim=rotated,
        value_dim=settings.integer("v_head_dim"),
        scale=(nope + rotated) ** -0.5,
        rope=None if settings.flag("mla_use_nope", False) else rope,
        bias=settings.flag("attention_bias", False),
        output_gate=settings.flag("mla_use_output_gate", False),
        indexer=_indexer(settings),
    )


def _indexer(settings: Settings) -> IndexerDims | None:
    settings.ignore({"indexer_rope_interleave"})
    if settings.get("index_topk") is None:
        return None
    return IndexerDims(
        settings.integer("index_n_heads"), settings.integer("index_head_dim"), settings.integer("index_topk")
    )


def compressed_layers(settings: Settings, family: str, count: int, heads: int, rope: Rope) -> list[Mixer]:
    """DeepSeek-V4: the ratio of each layer; ratios beyond the layers belong to the draft head."""
    ratios = _ratios(settings, count)
    if len(ratios) < count:
        raise InputError(f"{settings.where}: compress_ratios must list a ratio for each of {count} layers")
    if settings.integer("num_key_value_heads", 1) != 1:
        raise InputError(f"{settings.where}: num_key_value_heads must be 1 with compress_ratios")
    head_dim, indexer = settings.integer("head_dim"), _indexer(settings)
    settings.ignore({"compress_rope_theta", "compress_rope_parameters"})
    if settings.integer("qk_nope_head_dim", head_dim - rope.dimensions) != head_dim - rope.dimensions:
        raise InputError(f"{settings.where}: qk_nope_head_dim is not head_dim less qk_rope_head_dim")

    def layer(ratio: int) -> CompressedAttentionDims:
        if ratio not in (0, 4, 128):
            raise InputError(f"{settings.where}: compress_ratios holds {ratio}; 0, 4 and 128 are understood")
        return CompressedAttentionDims(
            heads=heads,
            head_dim=head_dim,
            query_rank=settings.integer("q_lora_rank"),
            output_groups=settings.integer("o_groups"),
            output_rank=settings.integer("o_lora_rank"),
            window=settings.integer("sliding_window"),
            ratio=ratio,
            scale=head_dim**-0.5,
            rope=rope,
            indexer=indexer if ratio == 4 else None,
        )

    return [layer(ratio) for ratio in ratios[:count]]


def _ratios(settings: Settings, count: int) -> list[int]:
    """compress_ratios as they are, or those of each kind of layer."""
    kinds = settings.kinds("layer_types", COMPRESSED_KINDS, count)
    ratios = settings.integers("compress_ratios")
    rates = {**COMPRESSED_KINDS, **(settings.get("compress_rates") or {})}
    return ratios or [rates[kind] for kind in kinds or ()]


def gated_delta_layers(settings: Settings, count: int, attention: AttentionDims) -> list[Mixer]:
    """Qwen3-Next and Qwen3.5: linear layers with a full one every few."""
    linear = DeltaNetDims(
        key_heads=settings.integer("linear_num_key_heads"),
        value_heads=settings.integer("linear_num_value_heads"),
        key_dim=settings.integer("linear_key_head_dim"),
        value_dim=settings.integer("linear_value_head_dim"),
        kernel=settings.integer("linear_conv_kernel_dim"),
        state_bytes=settings.choice("mamba_ssm_dtype", ELEMENT_BYTES, "float32"),
    )
    named = settings.kinds("layer_types", ("linear_attention", "full_attention"), count)
    interval = settings.integer("full_attention_interval", 4)
    if named is None:
        named = ["linear_attention" if (i + 1) % interval else "full_attention" for i in range(count)]
    kinds: Mapping[str, Mixer] = {"linear_attention": linear, "full_attention": attention}
    return [kinds[name] for name in named]


def kimi_layers(settings: Settings, family: str, count: int, heads: int, rope: Rope) -> list[Mixer]:
    """Kimi Linear and K3: linear_attn_config lists the layers of each kind, counted from one."""
    latent = _latent(settings, heads, rope)
    named = settings.kinds("layer_types", ("linear_attention", "full_attention"), count)
    if named is not None and settings.get("linear_attn_config") is None:
        linear = KimiDeltaDims(
            heads=settings.integer("linear_num_heads"),
            head_dim=settings.integer("linear_head_dim"),
            kernel=settings.integer("linear_conv_kernel_dim"),
            full_rank_gate=False,
        )
        return [latent if name == "full_attention" else linear for name in named]
    inner = settings.inside("linear_attn_config")
    linear = KimiDeltaDims(
        heads=inner.integer("num_heads"),
        head_dim=inner.integer("head_dim"),
        kernel=inner.integer("short_conv_kernel_size"),
        full_rank_gate=inner.flag("use_full_rank_gate", False),
    )
    full, deltas = set(inner.integers("full_attn_layers")), set(inner.integers("kda_layers"))
    inner.ignore({"gate_lower_bound"})  # bounds a decay, at no cost
    inner.refuse_unread()
    if full & deltas or full | deltas != set(range(1, count + 1)):
        raise InputError(
            f"{settings.where}: kda_layers and full_attn_layers must name each of {count} layers once"
        )
    return [latent if index in full else linear for index in range(1, count + 1)]


NEWER = {"linear_attention": "mamba", "full_attention": "attention"}
PATTERN = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}


def nemotron_layers(settings: Settings, count: int, attention: AttentionDims) -> list[Mixer | None]:
    """Nemotron-H: each layer is one mixer or one feed-forward; None stands where a feed-forward is."""
    mamba = MambaDims(
        heads=settings.integer("mamba_num_heads"),
        head_dim=settings.integer("mamba_head_dim"),
        groups=settings.integer("n_groups"),
        state=settings.integer("ssm_state_size"),
        kernel=settings.integer("conv_kernel"),
        conv_bias=settings.flag("use_conv_bias", True),
        bias=settings.flag("mamba_proj_bias", False),
        state_bytes=settings.choice("mamba_ssm_cache_dtype", ELEMENT_BYTES, "float32"),
    )
    kinds: Mapping[str, Mixer | None] = {"mamba": mamba, "attention": attention}
    return [kinds.get(name) for name in nemotron_kinds(settings, count)]


def nemotron_kinds(settings: Settings, count: int) -> list[str]:
    """mamba, attention, moe or mlp for each layer."""
    named = settings.kinds("layers_block_type", (*PATTERN.values(), *NEWER), count)
    pattern = settings.get("hybrid_override_pattern")
    if named is not None:
        return [NEWER.get(name, name) for name in named]
    if not isinstance(pattern, str) or set(pattern) - set(PATTERN):
        raise InputError(f"{settings.where}: hybrid_override_pattern must be a text of M, *, E and -")
    if len(pattern) != count:
        raise InputError(
            f"{settings.where}: hybrid_override_pattern must have {count} layers, it has {len(pattern)}"
        )
    return [PATTERN[letter] for letter in pattern]
