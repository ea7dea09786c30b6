"""Feed-forwards of a config.json: dense layers and mixtures of experts, whichever way the family spells
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from membound.errors import InputError
from membound.models.architecture import Activation, ExpertsDims, FeedForward, FeedForwardDims
from membound.models.settings import Settings

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk")
SHARED_COUNT = ("n_shared_experts", "num_shared_experts")
LATENT = ("routed_expert_hidden_size", "moe_latent_size")
SHARED_WIDTH = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
)
# How scores become weights of experts: it changes the numbers, not what is read or multiplied.
ROUTING = frozenset(
    """
    aux_loss_alpha ep_size moe_renormalize moe_router_activation_func n_group norm_topk_prob num_expert_group
    output_router_logits routed_scaling_factor router_aux_loss_coef router_jitter_noise
    scoring_func seq_aux topk_group topk_method use_grouped_topk use_routing_bias
    """.split()  # noqa: SIM905 (one word after another reads better than a list of strings)
)
CORRECTED_ROUTERS = {"deepseek_v3", "deepseek_v4", "glm", "gpt_oss", "kimi", "minimax_m2", "nemotron_h"}
MLP_KINDS = ("dense", "sparse", "moe", "hash_moe")
WHOLE_WIDTH = {"mixtral", "gpt_oss", "minimax_m2", "llama4"}  # intermediate_size is an expert's


def feed_forwards(settings: Settings, family: str, count: int, activation: Activation) -> list[FeedForward]:
    """The feed-forward of each layer."""
    experts = _experts(settings, family, activation)
    gated = family != "nemotron_h"
    if experts is None:
        settings.ignore(ROUTING | {"moe_intermediate_size", *ACTIVE, *SHARED_COUNT, *SHARED_WIDTH, *LATENT})
        return [FeedForwardDims(settings.integer("intermediate_size"), activation, gated)] * count
    sparse, hashed = _sparse_layers(settings, count), _hashed_layers(settings, count)
    if any(hashed):
        plain = replace(experts, router_bias=False)
        settings.ignore({"intermediate_size"})
        return [plain if is_hashed else experts for is_hashed in hashed]
    if family == "nemotron_h" or all(sparse):
        settings.ignore({"intermediate_size", "intermediate_size_mlp"})
        return [experts] * count
    wide = settings.optional_integer("intermediate_size_mlp")
    dense = FeedForwardDims(wide or settings.integer("intermediate_size"), activation, gated)
    return [experts if is_sparse else dense for is_sparse in sparse]


def _experts(settings: Settings, family: str, activation: Activation) -> ExpertsDims | None:
    """The mixture of experts, or None for a dense model."""
    count = _first(settings, EXPERTS)
    if count is None:
        return None
    settings.ignore(ROUTING)
    active = _first(settings, ACTIVE)
    if active is None or active > count:
        raise InputError(f"{settings.where}: {ACTIVE[0]} must be between 1 and {count}, it is {active}")
    own_width = settings.optional_integer("moe_intermediate_size")
    if own_width is None and family not in WHOLE_WIDTH:
        raise InputError(f"{settings.where}: moe_intermediate_size is missing")
    width = own_width or settings.integer("intermediate_size")
    shared, shared_width = _first(settings, SHARED_COUNT), _first(settings, SHARED_WIDTH)
    if shared_width is None:
        shared_width = width * ((shared or 0) if family != "llama4" else 1)
    elif shared is not None and family != "nemotron_h":
        shared_width *= shared
    return ExpertsDims(
        experts=count,
        active=active,
        width=width,
        activation=activation,
        gated=family != "nemotron_h",
        shared_width=shared_width,
        shared_gate=family in ("qwen2", "qwen3_next", "qwen3_5"),
        router_bias=family in CORRECTED_ROUTERS,
        expert_bias=family == "gpt_oss",
        latent=_first(settings, LATENT),
        latent_norm=settings.flag("latent_moe_use_norm", False),
    )


def _first(settings: Settings, keys: Sequence[str]) -> int | None:
    """What the first of several spellings says; two that differ are refused. Zero counts as absent."""
    found = {key: value for key in keys if (value := settings.get(key))}
    for key in found:
        settings.integer(key)
    if len(set(found.values())) > 1:
        raise InputError(f"{settings.where}: {' and '.join(found)} say different things")
    return next(iter(found.values()), None)


def _hashed_layers(settings: Settings, count: int) -> list[bool]:
    """DeepSeek-V4: layers whose first choice of experts is a table by token, which needs no correction."""
    first = settings.optional_integer("num_hash_layers") or 0
    kinds = settings.kinds("mlp_layer_types", MLP_KINDS, count)
    return [kind == "hash_moe" for kind in kinds] if kinds else [index < first for index in range(count)]


def _sparse_layers(settings: Settings, count: int) -> list[bool]:
    """Which layers have experts."""
    first = settings.get("first_k_dense_replace") or 0
    frequency = settings.get("moe_layer_freq")
    step = settings.get("decoder_sparse_step") or settings.get("interleave_moe_layer_step") or 1
    dense, named = set(settings.integers("mlp_only_layers")), set(settings.integers("moe_layers"))
    kinds = settings.kinds("mlp_layer_types", MLP_KINDS, count)
    if kinds is not None:
        return [kind != "dense" for kind in kinds]
    if isinstance(frequency, list):
        if len(frequency) < count:
            raise InputError(f"{settings.where}: moe_layer_freq must list {count} layers")
        return [bool(flag) for flag in frequency[:count]]
    frequency = frequency or 1
    for key, value in (
        ("moe_layer_freq", frequency),
        ("decoder_sparse_step", step),
        ("first_k_dense_replace", first),
    ):
        if type(value) is not int:
            raise InputError(f"{settings.where}: {key} must be an integer, it is {value!r}")
    if named:
        return [index in named for index in range(count)]
    return [
        index >= first and index not in dense and (index + 1) % step == 0 and index % frequency == 0
        for index in range(count)
    ]
