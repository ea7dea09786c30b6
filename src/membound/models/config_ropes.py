"""Rotations of a config.json: `rope_theta` and `rope_scaling`, or `rope_parameters`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from membound.errors import InputError
from membound.models.config_fields import RUNNABLE
from membound.models.rope import LinearScaling, Llama3Scaling, Rope, Scaling, YarnScaling, yarn_magnitude
from membound.models.settings import Settings

GEMMA3_LOCAL_BASE = 10_000.0
# Of an image's position in three sections; text has the same position in all of them, and turns as ever.
SECTIONS = frozenset({"mrope_interleaved", "mrope_section"})
OWN_ROTATED = {"deepseek_v2", "deepseek_v3", "deepseek_v4", "kimi"}  # qk_rope_head_dim says what turns
BY_PAIR = ("longrope", "su")  # Phi-3: factors per pair, below and above the original context


def ropes(settings: Settings, family: str, dimensions: int, context_length: int) -> tuple[Rope, Rope]:
    """The rotation of layers that see all, and of those with a window.

    `dimensions` of a head turn, or the part of them that the rope settings name.
    """
    theta = settings.number("rope_theta", 10_000.0)
    local_theta = settings.number("rope_local_base_freq", GEMMA3_LOCAL_BASE)
    parameters = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    settings.ignore({"rope_scaling"})
    if family == "phi3":
        settings.ignore({"original_max_position_embeddings"})
    if not isinstance(parameters, Mapping):
        raise InputError(f"{settings.where}: the rope settings must be an object, they are {parameters!r}")

    def rope(values: Any, base: float) -> Rope:
        return _rope(settings.where, values, family, dimensions, base, context_length)

    parameters = parameters.get("main", parameters)  # DeepSeek-V4: its compressed entries have their own
    if "full_attention" in parameters or "sliding_attention" in parameters:
        return (
            rope(parameters.get("full_attention", {}), theta),
            rope(parameters.get("sliding_attention", {}), local_theta if family == "gemma3" else theta),
        )
    full = rope(parameters, theta)
    return full, Rope(local_theta, dimensions, "halves") if family == "gemma3" else full


def _rope(where: str, values: Any, family: str, dimensions: int, base: float, context_length: int) -> Rope:
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: the rope settings must be objects, there is {values!r}")
    inner = Settings(values, f"{where}, rope settings")
    base = inner.number("rope_theta", base)
    inner.ignore(SECTIONS)
    fraction = inner.number("partial_rotary_factor", 1.0)
    if family in RUNNABLE and fraction != 1.0:
        raise InputError(f"{inner.where}: partial_rotary_factor is not supported")
    if family in OWN_ROTATED:
        fraction = 1.0
    if family == "ministral3":
        inner.ignore({"llama_4_scaling_beta", "max_position_embeddings"})  # a temperature by position
    if family == "phi3" and inner.get(_kind_key(inner)) in BY_PAIR:
        return Rope(base, int(dimensions * fraction), "halves")
    scaling = _scaling(inner, context_length)
    inner.refuse_unread()
    return Rope(base, int(dimensions * fraction), "halves", scaling)


def _kind_key(values: Settings) -> str:
    return "rope_type" if values.get("rope_type") is not None else "type"


def _scaling(values: Settings, context_length: int) -> Scaling | None:
    kinds = {kind: kind for kind in ("default", "mrope", "linear", "llama3", "yarn")}
    kind = values.choice(_kind_key(values), kinds, default="default")
    values.ignore({"type"})
    if kind in ("default", "mrope"):
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
