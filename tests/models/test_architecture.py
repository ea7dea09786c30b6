"""Dimensions from both kinds of settings, and what is not understood is refused by name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from membound.errors import InputError
from membound.models.architecture import Layer
from membound.models.config_json import architecture_from_config
from membound.models.gguf_metadata import architecture_from_gguf
from membound.models.rope import FrequencyDivisors, LinearScaling, Llama3Scaling, Rope, YarnScaling
from tests.small_models import (
    FAMILIES,
    architecture_name,
    gguf_metadata,
    hf_config,
    random_tensors,
    small_architecture,
)


def metadata(family: str, **changes: Any) -> dict[str, Any]:
    architecture = small_architecture(family)
    name = architecture_name(architecture)
    changed = {f"{name}.{key.replace('__', '.')}": value for key, value in changes.items()}
    return {"general.architecture": name, **gguf_metadata(architecture), **changed}


def in_halves(layer: Layer) -> Layer:
    rope = replace(layer.attention.rope, pairing="halves")
    return replace(layer, attention=replace(layer.attention, rope=rope))


@pytest.mark.parametrize("family", FAMILIES)
def test_config_gives_back_what_was_written(family: str) -> None:
    for scaling in (None, LinearScaling(2.0), Llama3Scaling(8.0, 1.0, 4.0, 64)):
        architecture = small_architecture(family, scaling=scaling, window=None if family == "llama" else 24)
        assert architecture_from_config(hf_config(architecture), "config.json") == architecture


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mistral"])
def test_gguf_gives_back_what_was_written(family: str) -> None:
    architecture = small_architecture(family)
    found = architecture_from_gguf(metadata(family), random_tensors(architecture), None)
    rope = found.layers[-1].attention.rope
    assert rope.pairing == ("adjacent" if family == "llama" else "halves")
    assert replace(found, layers=tuple(map(in_halves, found.layers))) == architecture


def test_a_nested_text_config_and_the_newer_rope_settings() -> None:
    flat = hf_config(small_architecture("gemma3", scaling=LinearScaling(8.0)))
    ropes = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": flat["rope_theta"]},
        "sliding_attention": {"rope_type": "default", "rope_theta": flat["rope_local_base_freq"]},
    }
    newer = {key: value for key, value in flat.items() if not key.startswith("rope_")}
    layer_types = ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    newer |= {"rope_parameters": ropes, "layer_types": layer_types}
    nested = {"model_type": "gemma3", "text_config": newer, "vision_config": {"hidden_size": 3}}
    expected = architecture_from_config(flat, "old")
    assert architecture_from_config(newer, "new") == expected
    assert architecture_from_config(nested, "nested") == expected


def test_qwen2_slides_only_from_the_layer_it_names() -> None:
    config = hf_config(small_architecture("qwen2", layers=4, window=16))
    config |= {"use_sliding_window": True, "max_window_layers": 3}
    windows = [layer.attention.window for layer in architecture_from_config(config, "config").layers]
    assert windows == [None, None, None, 16]
    config["use_sliding_window"] = False
    windows = [layer.attention.window for layer in architecture_from_config(config, "config").layers]
    assert windows == [None] * 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "twist": 3}}, "twist"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_scaling": "linear"}, "rope settings"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_act": "relu"}, "relu"),
        ({"hidden_act": "relu2"}, "relu2"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"sliding_window": 64}, "sliding_window"),
        ({"num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}, "mixture of"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 1 << 40}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "3 key-value heads"),
        ({"rope_theta": 1.0}, "rope base"),
        ({"head_dim": 15}, "15 dimensions"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
    ],
)
def test_a_config_that_is_not_understood(change: dict[str, Any], named: str) -> None:
    config = {**hf_config(small_architecture("llama")), **change}
    with pytest.raises(InputError, match=named):
        architecture_from_config(config, "config.json")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rope__scaling__type": "longrope", "rope__scaling__factor": 2.0}, "longrope"),
        ({"rope__scaling__yarn_log_multiplier": 0.1}, "yarn_log_multiplier"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"expert_count": 8}, "expert_count"),
        ({"attention__head_count_kv": [2, 2]}, "head_count_kv"),
        ({"attention__value_length": 8}, "value_length"),
        ({"embedding_length": None}, "embedding_length"),
        ({"block_count": 1 << 32}, "block_count"),
        ({"rope__dimension_count": 32}, "32 elements"),
    ],
)
def test_metadata_that_is_not_understood(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        architecture_from_gguf(metadata("llama", **change), (), None)


@pytest.mark.parametrize("name", ["gemma2", None, ["llama"], "mamba"])
def test_an_unknown_architecture(name: object) -> None:
    with pytest.raises(InputError, match="is not supported"):
        architecture_from_gguf({"general.architecture": name}, (), None)


def test_rope_divisors_must_fit() -> None:
    with pytest.raises(InputError, match="4 rope frequency divisors for 8 pairs"):
        architecture_from_gguf(metadata("llama"), (), [1.0] * 4)
    with pytest.raises(InputError, match="positive"):
        architecture_from_gguf(metadata("llama"), (), [0.0] * 8)
    scaled = metadata("llama", rope__scaling__type="linear", rope__scaling__factor=2.0)
    with pytest.raises(InputError, match="together"):
        architecture_from_gguf(scaled, (), [1.0] * 8)


def test_gemma3_27b_alone_scales_by_the_width_of_its_heads() -> None:
    wide = {"attention__key_length": 32, "attention__value_length": 32}
    for count, width in ((62, 64 / 4), (61, 32)):
        found = architecture_from_gguf(metadata("gemma3", block_count=count, **wide), (), None)
        assert found.layers[0].attention.scale == width**-0.5


def test_scalings_by_their_definitions() -> None:
    """Ends of each ramp: fast pairs keep their frequency, slow ones lose the factor."""
    plain = Rope(10_000.0, 64, "halves").inverse_frequencies()
    turns = 4096 * plain / (2 * math.pi)
    llama3 = Rope(10_000.0, 64, "halves", Llama3Scaling(8.0, 1.0, 4.0, 4096)).inverse_frequencies()
    np.testing.assert_allclose(llama3[turns > 4], plain[turns > 4], rtol=1e-6)
    np.testing.assert_allclose(llama3[turns < 1], plain[turns < 1] / 8, rtol=1e-6)
    assert np.all(np.diff(llama3) < 0)
    yarn = Rope(10_000.0, 64, "halves", YarnScaling(8.0, 4096, 1.2)).inverse_frequencies()
    np.testing.assert_allclose(yarn[turns > 64], plain[turns > 64], rtol=1e-6)
    np.testing.assert_allclose(yarn[turns < 0.5], plain[turns < 0.5] / 8, rtol=1e-6)
    divisors = tuple((plain / llama3).tolist())
    resolved = Rope(10_000.0, 64, "adjacent", FrequencyDivisors(divisors)).inverse_frequencies()
    np.testing.assert_allclose(resolved, llama3, rtol=1e-6)
