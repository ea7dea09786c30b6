"""Every real config of the catalog against independent counts, other spellings, and refusals by name."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from membound.errors import InputError
from membound.models.config_json import dimensions_from_config
from membound.models.families import build
from membound.models.graph import ModelGraph

CATALOG = Path(__file__).parents[2] / "src" / "membound" / "models" / "catalog"
with (CATALOG / "INDEX.csv").open(newline="") as file:
    INDEX = {row["file"]: row for row in csv.DictReader(file)}


def config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CATALOG / name).read_text())
    return loaded


def graph(values: dict[str, Any]) -> ModelGraph:
    return build(dimensions_from_config(values, "config.json"))


@pytest.mark.parametrize("name", INDEX)
def test_counts_of_every_config(name: str) -> None:
    model, row = graph(config(name)), INDEX[name]
    if row["total_params_computed"]:
        assert model.parameters() == int(row["total_params_computed"])
        assert model.active_parameters() == int(row["active_params_computed"])
        assert model.kv_bytes_per_token(2) == int(row["kv_bytes_per_token_16bit_all_layers_growing"])


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("deepseek-ai--DeepSeek-V4-Flash.json", 284e9, 13e9),
        ("moonshotai--Kimi-K3.json", 2.78e12, 103e9),
        ("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.json", 31.6e9, 3.2e9),
    ],
)
def test_models_without_a_computed_count_agree_with_what_was_published(
    name: str, total: float, active: float
) -> None:
    model = graph(config(name))
    assert model.parameters() == pytest.approx(total, rel=0.005)
    assert model.active_parameters() == pytest.approx(active, rel=0.03)


def test_what_does_not_grow_is_kept_apart() -> None:
    gemma = graph(config("google--gemma-3-27b_text.json"))
    per_layer = 2 * 16 * 128 * 2
    assert gemma.kv_bytes_per_token(2) == 62 * per_layer
    assert gemma.growing_bytes_per_token(2) == 10 * per_layer
    assert gemma.bounded_bytes_per_sequence(2) == 52 * per_layer * 1024
    hybrid = graph(config("Qwen--Qwen3-Next-80B-A3B-Thinking.json"))
    state = 32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2
    assert hybrid.bounded_bytes_per_sequence(2) == 36 * state
    sparse = graph(config("deepseek-ai--DeepSeek-V3.2.json"))
    assert sparse.growing_bytes_per_token(2) == 61 * (576 * 2 + 128 + 4)


def test_spellings_of_the_same_model_agree() -> None:
    plain = config("mistralai--Mixtral-8x7B-v0.1.json")
    other = dict(plain, num_experts=plain["num_local_experts"], rope_parameters={"rope_theta": 1e6})
    del other["num_local_experts"], other["rope_theta"]
    nested = {"model_type": "wrapper", "vision_config": {"depth": 2}, "text_config": plain}
    assert graph(other).parameters() == graph(nested).parameters() == graph(plain).parameters()
    both = dict(plain, num_experts=plain["num_local_experts"] + 1)
    with pytest.raises(InputError, match="num_experts and num_local_experts say different things"):
        graph(both)


LLAMA4 = {"interleave_moe_layer_step": 2, "num_local_experts": 128, "use_qk_norm": False}
DEEPSEEK_V2 = {
    "hidden_size": 5120, "num_hidden_layers": 60, "num_attention_heads": 128, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "n_routed_experts": 160, "moe_intermediate_size": 1536, "intermediate_size": 12288,
}  # fmt: skip
QWEN_MOE = {
    "model_type": "qwen2_moe", "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 16,
    "num_hidden_layers": 24, "intermediate_size": 5632, "moe_intermediate_size": 1408, "vocab_size": 151936,
    "shared_expert_intermediate_size": 5632, "num_experts": 60, "num_experts_per_tok": 4,
}  # fmt: skip
PHI3 = {
    "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 32,
    "num_hidden_layers": 32, "vocab_size": 32064, "rope_scaling": {"type": "longrope", "short_factor": [1.0]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "total"),
    [
        (config("meta-llama--Llama-4-Scout-17B-16E-Instruct.json")["text_config"] | LLAMA4, 400.7e9),
        (config("inference-sim--deepseek-v2-lite.json") | DEEPSEEK_V2, 235.7e9),
        (QWEN_MOE, 14.3e9),
        (config("microsoft--phi-4.json") | PHI3, 3.82e9),
    ],
)
def test_other_sizes_of_known_families(values: dict[str, Any], total: float) -> None:
    """Published totals: Llama-4-Maverick 400B, DeepSeek-V2 236B, Qwen1.5-MoE 14.3B, Phi-3-mini 3.8B."""
    assert graph(values).parameters() == pytest.approx(total, rel=0.002)


@pytest.mark.parametrize("field", ["cross_layer_sharing", "kv_compression", "attn_window_schedule"])
@pytest.mark.parametrize("name", ["meta-llama--Meta-Llama-3.1-8B.json", "deepseek-ai--DeepSeek-V3.json"])
def test_a_field_not_understood_is_refused_by_name(name: str, field: str) -> None:
    with pytest.raises(InputError, match=field):
        graph(dict(config(name), **{field: 4}))


def test_families_layers_and_schemes_not_understood_are_refused_by_name() -> None:
    llama = config("meta-llama--Meta-Llama-3.1-8B.json")
    hybrid = config("Qwen--Qwen3-Next-80B-A3B-Thinking.json")
    nemotron = config("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.json")
    refused: list[tuple[dict[str, Any], str]] = [
        (dict(llama, model_type="mamba3"), "model_type 'mamba3'"),
        (dict(hybrid, layer_types=["retention"] * 48), "layer type 'retention'"),
        (dict(nemotron, hybrid_override_pattern="MX" * 26), "hybrid_override_pattern"),
        (dict(llama, quantization_config={"quant_method": "aqlm"}), "quant_method = 'aqlm'"),
        (dict(config("deepseek-ai--DeepSeek-V4-Flash.json"), compress_ratios=[8] * 43), "compress_ratios"),
        (dict(config("MiniMaxAI--MiniMax-M2.5.json"), attn_type_list=[0, 1] * 31), "attn_type_list"),
        (dict(config("mistralai--Mixtral-8x7B-v0.1.json"), num_experts_per_tok=9), "num_experts_per_tok"),
    ]
    for values, complaint in refused:
        with pytest.raises(InputError, match=complaint):
            graph(values)


@pytest.mark.parametrize(
    ("name", "tensor", "bits"),
    [
        ("openai--gpt-oss-120b.json", "blk.0.ffn_up_exps.weight", 4.25),
        ("openai--gpt-oss-120b.json", "blk.0.attn_q.weight", 16),
        ("openai--gpt-oss-120b.json", "blk.0.ffn_gate_inp.weight", 16),
        ("Qwen--Qwen3-32B-FP8.json", "blk.0.ffn_up.weight", 8 + 32 / 128**2),
        ("Qwen--Qwen3-32B-FP8.json", "output.weight", 16),
        ("Qwen--Qwen3-32B-FP8.json", "blk.0.attn_norm.weight", 16),
        ("nvidia--Kimi-K2.5-NVFP4.json", "blk.7.ffn_up_exps.weight", 4.5),
        ("nvidia--Kimi-K2.5-NVFP4.json", "blk.7.attn_q_b.weight", 16),
        ("moonshotai--Kimi-K3.json", "blk.7.ffn_up_exps.weight", 4.25),
        ("moonshotai--Kimi-K3.json", "blk.7.ffn_up_shexp.weight", 16),
        ("moonshotai--Kimi-K3.json", "blk.0.ffn_up.weight", 16),
        ("deepseek-ai--DeepSeek-V4-Flash.json", "blk.7.ffn_up_exps.weight", 4.25),
        ("deepseek-ai--DeepSeek-V4-Flash.json", "blk.7.attn_q_b.weight", 8 + 32 / 128**2),
        ("zai-org--GLM-5-FP8.json", "blk.7.indexer_weights.weight", 16),
    ],
)
def test_what_a_checkpoint_stores_in_few_bits_and_what_it_keeps(name: str, tensor: str, bits: float) -> None:
    scheme = dimensions_from_config(config(name), name).quantization
    assert scheme is not None
    shape = (1,) if "norm" in tensor else (1, 1)
    assert scheme.format_of(tensor, shape).bits == bits
