# ruff: noqa: E501 (tables of settings)
"""Configs that the catalog does not hold: other sizes, other spellings, checkpoints of other schemes.

Totals are those of the published checkpoints where they are exact, and of the models' cards where they are
round.
"""

import json
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from membound.errors import InputError
from membound.models.config_json import dimensions_from_config
from membound.models.families import build
from membound.models.graph import ModelGraph
from membound.models.names import read_config

CATALOG = Path(__file__).parents[2] / "src" / "membound" / "models" / "catalog"


def dense(
    model_type: str, hidden: int, width: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": model_type, "hidden_size": hidden, "intermediate_size": width, "vocab_size": vocab,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "use_cache": True, **more,
    }  # fmt: skip


def like(name: str, *absent: str, **more: Any) -> dict[str, Any]:
    """A config of the catalog with settings changed and others absent."""
    found = json.loads((CATALOG / f"{name}.json").read_text())
    return {key: value for key, value in {**found, **more}.items() if key not in absent}


def text(config: dict[str, Any], *absent: str, **more: Any) -> dict[str, Any]:
    """What a nested config says of its text model, changed."""
    inner = {**config.get("text_config", config), **more}
    return {key: value for key, value in inner.items() if key not in absent}


def graph(values: dict[str, Any]) -> ModelGraph:
    return build(dimensions_from_config(values, "config.json"))


ROPE3 = {
    "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3",
    "original_max_position_embeddings": 8192,
}  # fmt: skip
LONGROPE = {"long_factor": [1.0] * 48, "short_factor": [1.0] * 48}
YARN4 = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 16,
    "original_max_position_embeddings": 65536,
    "type": "yarn",
}
WINDOWED = {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 512, "sliding_window_pattern": 6}
GEMMA2 = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "cache_implementation": "hybrid"}
PICTURES = {
    "vision_config": {"hidden_size": 1024}, "image_token_index": 10, "multimodal_projector_bias": False,
    "projector_hidden_act": "gelu", "spatial_merge_size": 2, "vision_feature_layer": -1,
}  # fmt: skip
MINISTRAL_ROPE = {
    "rope_type": "yarn", "type": "yarn", "rope_theta": 1e8, "factor": 48.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
QWEN27 = {
    "hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 64, "num_attention_heads": 24,
    "num_key_value_heads": 4, "linear_num_value_heads": 48, "model_type": "qwen3_5_text", "mlp_only_layers": [],
}  # fmt: skip
QWEN35 = like("Qwen--Qwen3.5-397B-A17B")
QWEN_EXPERTS = (
    "layer_types", "num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size",
)  # fmt: skip
NEMOTRON = {
    "model_type": "nemotron_h", "vocab_size": 131072, "n_groups": 8, "ssm_state_size": 128, "conv_kernel": 4,
    "layer_norm_epsilon": 1e-5, "mamba_hidden_act": "silu", "mlp_hidden_act": "relu2", "use_conv_bias": True,
    "time_step_limit": [0.0, inf], "time_step_rank": 256, "chunk_size": 128, "expand": 2,
    "max_position_embeddings": 8192, "rescale_prenorm_residual": True,
}  # fmt: skip
KIMI_LINEAR = {
    "model_type": "kimi_linear", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 27,
    "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 72, "kv_lora_rank": 512, "q_lora_rank": None,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "mla_use_nope": True,
    "linear_attn_config": {
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "head_dim": 128, "num_heads": 32,
        "kda_layers": [n for n in range(1, 27) if n % 4], "short_conv_kernel_size": 4,
    },
    "num_experts": 256, "num_experts_per_token": 8, "num_shared_experts": 1, "moe_intermediate_size": 1024,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "moe_router_activation_func": "sigmoid",
    "model_max_length": 1048576, "vocab_size": 163840, "use_grouped_topk": True, "num_expert_group": 1,
}  # fmt: skip
MOONLIGHT = like(
    "deepseek-ai--DeepSeek-V3", "rope_scaling", "quantization_config",
    hidden_size=2048, intermediate_size=11264, num_hidden_layers=27, num_attention_heads=16, n_routed_experts=64,
    n_shared_experts=2, num_experts_per_tok=6, moe_intermediate_size=1408, first_k_dense_replace=1,
    q_lora_rank=None, vocab_size=163840, num_key_value_heads=16,
)  # fmt: skip
GLM_FLASH = {
    "model_type": "glm4_moe_lite", "num_hidden_layers": 47, "hidden_size": 2048, "num_attention_heads": 20,
    "num_key_value_heads": 20, "head_dim": 64, "intermediate_size": 10240, "vocab_size": 154880,
    "max_position_embeddings": 202752, "n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 4,
    "moe_intermediate_size": 1536, "first_k_dense_replace": 1, "kv_lora_rank": 512, "q_lora_rank": 768,
    "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "partial_rotary_factor": 1.0,
}  # fmt: skip
OWNERS = ["full" if n in (0, 1, 2, *range(6, 78, 4)) else "shared" for n in range(78)]
GLM52 = like(
    "zai-org--GLM-5-FP8", "first_k_dense_replace", head_dim=192, index_topk_freq=4, index_skip_topk_offset=3,
    mlp_layer_types=["dense"] * 3 + ["sparse"] * 75, indexer_types=OWNERS, index_share_for_mtp_iteration=True,
)  # fmt: skip
SUPER = "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"


def pair(layers: int, kv_heads: int, head_dim: int) -> int:
    """Bytes of a token's keys and values in 16 bits."""
    return 2 * layers * kv_heads * head_dim * 2


def latent(layers: int) -> int:
    """Bytes of a token's latents of 512 and rotated keys of 64 in 16 bits."""
    return layers * (512 + 64) * 2


EXACT = [
    ("Llama-3.2-3B", dense("llama", 3072, 8192, 28, 24, 8, 128256, tie_word_embeddings=True, dtype="bfloat16",
        rope_parameters={**ROPE3, "rope_theta": 5e5}), 3_212_749_824, pair(28, 8, 128)),
    ("Llama-3-8B", dense("llama", 4096, 14336, 32, 32, 8, 128256, rope_scaling=None, rope_theta=5e5,
        torch_dtype="bfloat16"), 8_030_261_248, pair(32, 8, 128)),
    ("Llama-2-13b", text(dense("llama", 5120, 13824, 40, 40, 40, 32000, pretraining_tp=1), "num_key_value_heads"),
        13_015_864_320, pair(40, 40, 128)),
    ("TinyLlama-1.1B", dense("llama", 2048, 5632, 22, 32, 4, 32000), 1_100_048_384, pair(22, 4, 64)),
    ("SmolLM2-360M", dense("llama", 960, 2560, 32, 15, 5, 49152, tie_word_embeddings=True, is_llama_config=True,
        rope_interleaved=False), 361_821_120, pair(32, 5, 64)),
    ("Yi-34B", dense("llama", 7168, 20480, 60, 56, 8, 64000, rope_theta=5e6), 34_388_917_248, pair(60, 8, 128)),
    ("CodeLlama-34b", dense("llama", 8192, 22016, 48, 64, 8, 32000, rope_theta=1e6), 33_743_970_304,
        pair(48, 8, 128)),
    ("Qwen2.5-3B", dense("qwen2", 2048, 11008, 36, 16, 2, 151936, tie_word_embeddings=True, sliding_window=32768,
        use_sliding_window=False, max_window_layers=36, use_mrope=False), 3_085_938_688, pair(36, 2, 128)),
    ("Qwen2.5-14B", dense("qwen2", 5120, 13824, 48, 40, 8, 152064, layer_types=["full_attention"] * 48,
        sliding_window=None), 14_770_033_664, pair(48, 8, 128)),
    ("Qwen2.5-32B", dense("qwen2", 5120, 27648, 64, 40, 8, 152064, rope_scaling={"type": "yarn", "factor": 4.0,
        "original_max_position_embeddings": 32768}), 32_763_876_352, pair(64, 8, 128)),
    ("Qwen2.5-VL-7B", dense("qwen2_5_vl", 3584, 18944, 28, 28, 4, 152064, vision_config={"depth": 32},
        vision_token_id=151654, rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]}), 7_615_616_512,
        pair(28, 4, 128)),
    ("Qwen3-1.7B", dense("qwen3", 2048, 6144, 28, 16, 8, 151936, head_dim=128, tie_word_embeddings=True),
        1_720_574_976, pair(28, 8, 128)),
    ("Qwen3-4B", dense("qwen3", 2560, 9728, 36, 32, 8, 151936, tie_word_embeddings=True), 4_022_468_096,
        pair(36, 8, 128)),
    ("Qwen3-14B", dense("qwen3", 5120, 17408, 40, 40, 8, 151936, head_dim=128), 14_768_307_200, pair(40, 8, 128)),
    ("Qwen3-Coder-480B", dense("qwen3_moe", 6144, 8192, 62, 96, 8, 151936, head_dim=128, num_experts=160,
        num_experts_per_tok=8, moe_intermediate_size=2560, shared_expert_intermediate_size=0, qkv_bias=False,
        use_qk_norm=True, mlp_only_layers=[], decoder_sparse_step=1), 480_154_875_392, pair(62, 8, 128)),
    ("Qwen3-VL-235B", {"model_type": "qwen3_vl_moe", "tie_word_embeddings": False, "vision_config": {"depth": 27},
        "text_config": like("Qwen--Qwen3-235B-A22B", model_type="qwen3_vl_moe_text", rope_scaling={
            "mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"})}, 235_093_634_560,
        pair(94, 4, 128)),
    ("gemma-3-1b", dense("gemma3_text", 1152, 6912, 26, 4, 1, 262144, head_dim=256, query_pre_attn_scalar=256,
        rope_scaling=None, **WINDOWED), 999_885_952, pair(26, 1, 256)),
    ("gemma-3-4b", {"model_type": "gemma3", "boi_token_index": 255999, "mm_tokens_per_image": 256, **PICTURES,
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024}}, 3_880_263_168, pair(34, 4, 256)),
    ("gemma-2-2b", dense("gemma2", 2304, 9216, 26, 8, 4, 256000, head_dim=256, query_pre_attn_scalar=256,
        hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh", **GEMMA2), 2_614_341_888,
        pair(26, 4, 256)),
    ("gemma-2-27b", dense("gemma2", 4608, 36864, 46, 32, 16, 256000, head_dim=128, query_pre_attn_scalar=144,
        sliding_window=4096, sliding_window_size=4096, **GEMMA2), 27_227_128_320, pair(46, 16, 128)),
    ("Phi-3-mini-4k", dense("phi3", 3072, 8192, 32, 32, 32, 32064, sliding_window=2047, embd_pdrop=0.0,
        original_max_position_embeddings=4096), 3_821_079_552, pair(32, 32, 96)),
    ("Phi-3-medium-128k", dense("phi3", 5120, 17920, 40, 40, 10, 32064, original_max_position_embeddings=4096,
        rope_scaling={**LONGROPE, "type": "su"}), 13_960_238_080, pair(40, 10, 128)),
    ("Phi-4-mini", dense("phi3", 3072, 8192, 32, 24, 8, 200064, partial_rotary_factor=0.75, full_attn_mod=1,
        interpolate_factor=1, lm_head_bias=False, tie_word_embeddings=True, original_max_position_embeddings=4096,
        rope_scaling={**LONGROPE, "type": "longrope"}), 3_836_021_760, pair(32, 8, 128)),
    ("Phi-4-mini, newer", dense("phi3", 3072, 8192, 32, 24, 8, 200064, tie_word_embeddings=True, rope_parameters={
        **LONGROPE, "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75}), 3_836_021_760,
        pair(32, 8, 128)),
    ("Mistral-7B-v0.1", dense("mistral", 4096, 14336, 32, 32, 8, 32000, sliding_window=4096), 7_241_732_096,
        pair(32, 8, 128)),
    ("Mistral-Nemo", text(dense("mistral", 5120, 14336, 40, 32, 8, 131072, head_dim=128), "num_key_value_heads"),
        12_247_782_400, pair(40, 8, 128)),
    ("Mistral-Large", dense("mistral", 12288, 28672, 88, 96, 8, 32768, head_dim=128), 122_610_069_504,
        pair(88, 8, 128)),
    ("Mistral-Small-3.1", {"model_type": "mistral3", **PICTURES, "text_config": dense("mistral", 5120, 32768, 40,
        32, 8, 131072, head_dim=128)}, 23_572_403_200, pair(40, 8, 128)),
    ("Devstral-Small-2", {"model_type": "mistral3", **PICTURES, "text_config": dense("ministral3", 5120, 32768, 40,
        32, 8, 131072, head_dim=128, rope_parameters=MINISTRAL_ROPE)}, 23_572_403_200, pair(40, 8, 128)),
    ("MiniMax-M2.5, num_experts", like("MiniMaxAI--MiniMax-M2.5", "num_local_experts", num_experts=256),
        228_689_764_864, 253_952),
    ("gpt-oss-20b, newer", like("openai--gpt-oss-20b", "rope_scaling", "rope_theta", "layer_types",
        "num_key_value_heads", "head_dim", rope_parameters={"rope_theta": 150000, "rope_type": "yarn",
            "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}), 20_914_757_184, 49_152),
    ("gpt-oss-20b, n_routed_experts", like("openai--gpt-oss-20b", "num_local_experts", n_routed_experts=32),
        20_914_757_184, 49_152),
    ("DeepSeek-V3, num_experts", like("deepseek-ai--DeepSeek-V3", "n_routed_experts", "n_shared_experts",
        num_experts=256, num_shared_experts=1), 671_026_419_200, latent(61)),
    ("Kimi-K2.5, flat", like("moonshotai--Kimi-K2-Instruct", model_type="kimi_k25", vision_config={"depth": 27}),
        1_026_408_232_448, latent(61)),
]  # fmt: skip

ROUND = [
    ("Qwen2-57B-A14B", dense("qwen2_moe", 3584, 18944, 28, 28, 4, 151936, num_experts=64, num_experts_per_tok=8,
        moe_intermediate_size=2560, shared_expert_intermediate_size=20480, decoder_sparse_step=1,
        use_sliding_window=False, max_window_layers=28), 57.41e9, 14e9, pair(28, 4, 128)),
    ("GLM-4.5", like("zai-org--GLM-4.5-Air", "num_key_value_heads", hidden_size=5120,
        num_hidden_layers=92, intermediate_size=12288, moe_intermediate_size=1536, n_routed_experts=160,
        first_k_dense_replace=3, use_qk_norm=True), 352.8e9, 32e9, pair(92, 8, 128)),
    ("GLM-4.7-Flash", GLM_FLASH, 29.9e9, 3.6e9, latent(47)),
    ("Moonlight-16B-A3B", MOONLIGHT, 15.96e9, 2.6e9, latent(27)),
    ("Kimi-Linear-48B-A3B", KIMI_LINEAR, 49.1e9, 3e9, latent(7)),
    ("Qwen3.5-27B", {"model_type": "qwen3_5", "vision_config": {"depth": 27},
        "text_config": text(QWEN35, *QWEN_EXPERTS, **QWEN27)}, 26.9e9, 26e9, pair(16, 4, 256)),
    ("Qwen3.5-35B-A3B", text(QWEN35, "layer_types", hidden_size=2048, num_hidden_layers=40, num_experts=256,
        num_experts_per_tok=8, moe_intermediate_size=512, shared_expert_intermediate_size=512,
        num_attention_heads=16, num_key_value_heads=2, linear_num_value_heads=32), 34.66e9, 3e9, pair(10, 2, 256)),
    ("DeepSeek-V4-Pro", like("deepseek-ai--DeepSeek-V4-Flash", compress_ratios=[128, 128, *[4, 128] * 29, 4, 0],
        hidden_size=7168, index_topk=1024, moe_intermediate_size=3072, n_routed_experts=384, o_groups=16,
        num_attention_heads=128, num_hidden_layers=61, q_lora_rank=1536), 1.573e12, 49e9, None),
    ("DeepSeek-V4-Flash, newer", like("deepseek-ai--DeepSeek-V4-Flash", "rope_scaling", "rope_theta",
        compress_rope_parameters={**YARN4, "rope_theta": 160000}, partial_rotary_factor=0.125, kv_lora_rank=None,
        qk_nope_head_dim=448, rope_parameters={**YARN4, "rope_type": "yarn", "rope_theta": 10000,
            "partial_rotary_factor": 0.125}), 284e9, 13e9, None),
    ("Nemotron-H-8B", {**NEMOTRON, "attention_head_dim": 128, "hidden_size": 4096, "intermediate_size": 21504,
        "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-", "mamba_head_dim": 64,
        "mamba_num_heads": 128, "num_attention_heads": 32, "num_query_groups": 8}, 8.1e9, 7.6e9, pair(4, 8, 128)),
    ("Nemotron-Nano-9B-v2", {**NEMOTRON, "hidden_size": 4480, "intermediate_size": 15680, "mamba_head_dim": 80,
        "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
        "mamba_num_heads": 128, "num_attention_heads": 40}, 8.89e9, 8.3e9, pair(4, 8, 128)),
    ("Nemotron-3-Super-120B-A12B", like("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", hidden_size=4096,
        num_hidden_layers=88, hybrid_override_pattern=SUPER, mamba_num_heads=128, moe_latent_size=1024,
        moe_intermediate_size=2688, n_routed_experts=512, num_experts_per_tok=22, num_nextn_predict_layers=1,
        moe_shared_expert_intermediate_size=5376, mtp_hybrid_override_pattern="*E"), 120.6e9, 12.2e9,
        pair(8, 2, 128)),
]  # fmt: skip


@pytest.mark.parametrize(("config", "total", "kv"), [row[1:] for row in EXACT], ids=[row[0] for row in EXACT])
def test_models_whose_total_is_published(config: dict[str, Any], total: int, kv: int) -> None:
    model = graph(config)
    assert model.parameters() == pytest.approx(total, rel=1e-5)  # to a few vectors
    assert model.kv_bytes_per_token(2) == kv


@pytest.mark.parametrize(
    ("config", "total", "active", "kv"), [row[1:] for row in ROUND], ids=[row[0] for row in ROUND]
)
def test_models_whose_total_is_published_in_round_numbers(
    config: dict[str, Any], total: float, active: float, kv: int | None
) -> None:
    model = graph(config)
    assert model.parameters() == pytest.approx(total, rel=0.005)
    assert model.active_parameters() == pytest.approx(active, rel=0.05)
    assert kv is None or model.kv_bytes_per_token(2) == kv


def test_layers_that_reuse_a_choice_have_no_indexer_but_read_as_few() -> None:
    plain, sharing = graph(like("zai-org--GLM-5-FP8")), graph(GLM52)
    indexer = 32 * 128 * 2048 + 128 * 6144 + 2 * 128 + 32 * 6144
    assert plain.parameters() - sharing.parameters() == OWNERS.count("shared") * indexer
    growing = 78 * (512 + 64) * 2 + OWNERS.count("full") * (128 + 4)
    assert sharing.growing_bytes_per_token(2) == growing
    long = [(1, 100_000)]

    def chosen(model: ModelGraph) -> float:
        from gguf import GGMLQuantizationType

        from membound.models.graph import uniform_types

        return model.works(long, uniform_types(model, GGMLQuantizationType.BF16), 2)["attn"].kv_read_bytes

    assert chosen(plain) == chosen(sharing) == 78 * 2048 * (512 + 64) * 2


def compressed(weights: dict[str, Any], inputs: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"], **more,
    }  # fmt: skip


MIXED = {
    "quant_method": "compressed-tensors",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "type": "float"},
            "input_activations": {"num_bits": 8}},
        "group_1": {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 4, "type": "float", "group_size": 16},
            "input_activations": {"num_bits": 4}},
    },
}  # fmt: skip
MODELOPT = {
    "quant_algo": "NVFP4",
    "group_size": 16,
    "kv_cache_quant_algo": "FP8",
    "exclude_modules": ["lm_head"],
}
LLAMA = dense("llama", 4096, 14336, 32, 32, 8, 128256)
GATE, QUERY = "blk.3.ffn_gate.weight", "blk.3.attn_q.weight"
AWQ4, GPTQ32 = 4 + (16 + 4) / 128, 4 + (16 + 4) / 32


@pytest.mark.parametrize(
    ("scheme", "bits", "activations", "kv"),
    [
        ({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "static"}, {GATE: 8}, "fp8", None),
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"},
            {GATE: 8 + 32 / 128**2}, "fp8", None),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert":
            ["model.layers.3.mlp.gate_proj"]}, {GATE: 16, QUERY: 8}, "fp8", None),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm",
            "modules_to_not_convert": None}, {GATE: AWQ4}, "bf16", None),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "modules_to_not_convert": ["self_attn"]},
            {GATE: AWQ4, QUERY: 16}, "bf16", None),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": True}, {GATE: GPTQ32},
            "bf16", None),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, {GATE: 8}, "bf16", None),
        (compressed({"num_bits": 8, "type": "int", "strategy": "channel"}, {"num_bits": 8}), {GATE: 8}, "int8",
            None),
        (compressed({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
            {"num_bits": 8}), {GATE: 8 + 32 / 128**2}, "fp8", None),
        (compressed({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}),
            {GATE: 4.5}, "bf16", None),
        (compressed({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": False}),
            {GATE: AWQ4}, "bf16", None),
        (compressed({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
            {"num_bits": 4}, kv_cache_scheme={"num_bits": 8, "type": "float"}), {GATE: 4.5}, "fp4", "fp8"),
        (compressed({"num_bits": 4, "type": "float", "group_size": 32}, None, format="mxfp4-pack-quantized"),
            {GATE: 4.25}, "bf16", None),
        (MIXED, {GATE: 4.5, QUERY: 8, "output.weight": 16}, None, None),
        ({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}, {GATE: 4.25, QUERY: 16},
            "bf16", None),
        ({"quant_method": "modelopt", **MODELOPT}, {GATE: 4.5}, "fp4", "fp8"),
        ({"producer": {"name": "modelopt"}, "quantization": MODELOPT}, {GATE: 4.5}, "fp4", "fp8"),
        ({"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}}, {GATE: 8}, "fp8", None),
        ({"quantization": {"quant_algo": "W4A16_AWQ", "group_size": 128}}, {GATE: 4.125}, "bf16", None),
    ],
)  # fmt: skip
def test_schemes(
    scheme: dict[str, Any], bits: dict[str, float], activations: str | None, kv: str | None
) -> None:
    found = dimensions_from_config({**LLAMA, "quantization_config": scheme}, "config.json").quantization
    assert found is not None
    assert {name: found.format_of(name, (1, 1)).bits for name in bits} == bits
    assert (found.activations, found.kv) == (activations, kv)


def test_a_large_checkpoint_weighs_what_is_published() -> None:
    """Kimi-K2-Thinking: its safetensors files are 594 GB."""
    kept = [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
    ]
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
    config = like("moonshotai--Kimi-K2-Instruct", quantization_config=compressed(weights, ignore=kept))
    dimensions = dimensions_from_config(config, "config.json")
    scheme = dimensions.quantization
    assert scheme is not None
    stored = sum(scheme.format_of(p.name, p.shape).bits / 8 * p.elements for p in build(dimensions).params())
    assert stored == pytest.approx(594e9, rel=0.005)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (dict(LLAMA, multi_query_latents=3), "multi_query_latents"),
        (dict(LLAMA, text_config=[1]), "text_config"),
        (like("zai-org--GLM-4.5-Air", "head_dim"), "head_dim is missing"),
        (dict(LLAMA, rope_parameters={"rope_theta": 1e4, "rope_type": "ntk"}), "rope_type 'ntk'"),
        (dict(LLAMA, rope_scaling={"type": "yarn", "factor": 4.0, "attention_bias": 2}), "attention_bias"),
        (like("zai-org--GLM-5-FP8", indexer_types=["full"]), "indexer_types must list 78 layers"),
        (like("zai-org--GLM-5-FP8", indexer_types=["shared"] * 78), "indexer_types begins"),
        (like("zai-org--GLM-5-FP8", index_topk_freq=4), "index_topk_freq"),
        (like("zai-org--GLM-5-FP8", mlp_layer_types=["odd"] * 78), "'odd' in mlp_layer_types"),
        (like("zai-org--GLM-5-FP8", layer_types=["lightning"] * 78), "'lightning' in layer_types"),
        (like("deepseek-ai--DeepSeek-V3", moe_layer_freq=[0, 1]), "moe_layer_freq must list 61 layers"),
        (like("deepseek-ai--DeepSeek-V4-Flash", qk_nope_head_dim=400), "qk_nope_head_dim"),
        (like("Qwen--Qwen3-30B-A3B", mlp_only_layers=3), "mlp_only_layers must be a list of integers"),
        (like("Qwen--Qwen3-30B-A3B", num_local_experts=64), "num_experts and num_local_experts"),
        (like("openai--gpt-oss-20b", layer_types=["sliding_attention"] * 3), "layer_types must list 24 layers"),
        (like("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", hybrid_override_pattern="M?" * 26), "hybrid_override_pattern"),
        ({**NEMOTRON, "head_dim": 64, "attention_head_dim": 128}, "attention_head_dim and head_dim"),
        (like("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", mlp_bias=True), "mlp_bias"),
        ({**KIMI_LINEAR, "linear_attn_config": {"num_heads": 1, "head_dim": 1, "short_conv_kernel_size": 4,
            "kda_layers": "all"}}, "kda_layers"),
        (dict(LLAMA, quantization_config="fp8"), "quantization_config must be an object"),
        (dict(LLAMA, quantization_config={"quant_method": "bitsandbytes"}), "quant_method = 'bitsandbytes'"),
        (dict(LLAMA, quantization_config={"quant_method": "gptq", "bits": 3}), "bits = 3"),
        (dict(LLAMA, quantization_config={"quant_method": "gptq", "bits": 4, "dynamic": {"+:a": {}}}), "dynamic"),
        (dict(LLAMA, quantization_config={"quant_method": "awq", "bits": 4, "group_size": "x"}), "group_size = 'x'"),
        (dict(LLAMA, quantization_config={"quant_algo": "MIXED_PRECISION"}), "quant_algo = 'MIXED_PRECISION'"),
        (dict(LLAMA, quantization_config={**MIXED, "ignore": ["re:("]}), "not a regular expression"),
        (dict(LLAMA, quantization_config={**MIXED, "config_groups": {"a": {"targets": ["re:.*attn.wq$"],
            "weights": {"num_bits": 8, "type": "float"}}}}), "names no module known here"),
        (dict(LLAMA, quantization_config={"quant_method": "compressed-tensors"}), "config_groups"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        dimensions_from_config(config, "config.json")


def test_a_scheme_beside_a_config_that_leaves_it_null(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": None}))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": MODELOPT}))
    scheme = read_config(tmp_path / "config.json").quantization
    assert scheme is not None
    assert scheme.main.name == "nvfp4"


STRANGE: tuple[Any, ...] = (
    None,
    -1,
    0,
    1.5,
    "x",
    True,
    1 << 70,
    float("nan"),
    [],
    [1],
    [[1]],
    ["x"],
    {},
    {"a": 1},
)


def changed(config: Any, strange: Any) -> Iterator[Any]:
    """The config once for each of its settings, at every depth, with the strange value in its place."""
    for key, value in config.items():
        yield {**config, key: strange}
        if isinstance(value, dict):
            yield from ({**config, key: inner} for inner in changed(value, strange))


@pytest.mark.parametrize("strange", STRANGE, ids=repr)
@pytest.mark.parametrize(
    "name",
    ["deepseek-ai--DeepSeek-V3.2", "moonshotai--Kimi-K3", "google--gemma-3-270m", "openai--gpt-oss-20b"],
)
def test_any_setting_of_a_wrong_kind_is_refused_or_means_something(name: str, strange: Any) -> None:
    for config in changed(like(name), strange):
        try:
            assert graph(config).parameters() > 0
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
