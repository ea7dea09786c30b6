"""Parameters and FLOPs against transformers and torch's flop counter, as golden/counts.json holds them."""

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type

from membound.models.config_json import dimensions_from_config
from membound.models.families import build
from membound.models.graph import ModelGraph, uniform_types
from membound.models.latent import LatentAttention
from membound.models.operators import Attention, Chunk, attention_pairs

COUNTS = json.loads((Path(__file__).parents[1] / "golden" / "counts.json").read_text())
PROMPT: int = COUNTS["prompt"]
# transformers lets every expert of Llama 4 multiply every token, and the expansion of all cached latents
# for each new one: a step of an engine does neither.
ALL_EXPERTS, EXPANDS = {"llama4_text"}, {"deepseek_v2", "deepseek_v3", "glm4_moe_lite"}


def graph(config: dict[str, Any]) -> ModelGraph:
    return build(dimensions_from_config(config, "config.json"))


def flops(model: ModelGraph, chunk: Chunk) -> float:
    works = model.works([chunk], uniform_types(model, Type.BF16), kv_bytes=2)
    return sum(work.flops for work in works.values())


def masked(model: ModelGraph) -> float:
    """FLOPs of the pairs that a prompt's mask hides, which a plain matrix product computes too."""
    total = 0.0
    for operator in (operator for layer in model.layers for operator in layer):
        if isinstance(operator, Attention):
            hidden = PROMPT**2 - attention_pairs(PROMPT, 0, operator.window)
            total += 4 * operator.heads * operator.head_dim * hidden
        if isinstance(operator, LatentAttention):
            d = operator.dims
            hidden = PROMPT**2 - attention_pairs(PROMPT, 0, None)
            total += 2 * d.heads * (d.nope_dim + d.rope_dim + d.value_dim) * hidden
    return total


@pytest.mark.parametrize("name", COUNTS["whole"])
def test_parameters_of_every_family_as_transformers_saves_it(name: str) -> None:
    assert graph(COUNTS["whole"][name]["config"]).parameters() == COUNTS["whole"][name]["parameters"]


@pytest.mark.parametrize("name", COUNTS["small"])
def test_flops_of_small_models(name: str) -> None:
    counted = COUNTS["small"][name]
    model = graph(counted["config"])
    assert model.parameters() == counted["parameters"]
    if name not in ALL_EXPERTS:
        assert flops(model, Chunk(PROMPT, 0)) + masked(model) == counted["prompt_flops"]
    if name not in ALL_EXPERTS | EXPANDS:
        assert flops(model, Chunk(1, PROMPT)) == counted["token_flops"]
