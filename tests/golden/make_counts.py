"""Makes counts.json: parameters and FLOPs as transformers and torch count them.

Run once, in an environment of its own: `pip install torch==2.13.0 transformers`, then at the root of the
repository `python -m tests.golden.make_counts`.

`whole`: transformers' own default of each family, as it saves it, and the parameters of the model that it
builds without memory. `small`: small models with random weights, and what torch's counter finds in one step:
a prompt of PROMPT tokens, or one token behind PROMPT cached ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
PROMPT = 12

WHOLE: dict[str, dict[str, Any]] = {
    name: {}
    for name in (
        "llama", "mistral", "ministral3", "qwen2", "qwen3", "gemma3_text", "gemma2", "phi3", "mixtral",
        "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "llama4_text", "glm4_moe_lite",
        "glm_moe_dsa", "minimax_m2", "gpt_oss", "deepseek_v3", "deepseek_v32", "deepseek_v4", "kimi_linear",
        "nemotron_h", "qwen2_moe",
    )
} | {"glm4_moe": {"head_dim": 128}, "deepseek_v2": {"num_experts_per_tok": 6}}  # fmt: skip

DENSE = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
LATENT = {
    "num_key_value_heads": 4, "head_dim": 8, "q_lora_rank": 24, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 16,
    "n_routed_experts": 8, "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    **EXPERTS,
}  # fmt: skip
WINDOW = {"sliding_window": 8}
SMALL: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "mistral": WINDOW,
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "gemma3_text": {**WINDOW, "num_hidden_layers": 7},
    "gemma2": WINDOW,
    "phi3": {"head_dim": 8, "hidden_size": 32},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2_moe": {**EXPERTS, "num_experts": 8, "shared_expert_intermediate_size": 40, "head_dim": 8},
    "qwen3_moe": {**EXPERTS, "num_experts": 8},
    "gpt_oss": {**WINDOW, "num_local_experts": 8, "num_experts_per_tok": 2},
    "glm4_moe": {**EXPERTS, "n_routed_experts": 8, "n_shared_experts": 1},
    "minimax_m2": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "llama4_text": {"num_local_experts": 8, "intermediate_size_mlp": 40, "interleave_moe_layer_step": 2},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "glm4_moe_lite": LATENT,
}


def saved(config: transformers.PretrainedConfig) -> dict[str, Any]:
    """What config.json of such a model holds."""
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    return found


def parameters(model: torch.nn.Module) -> int:
    """With the corrections of routers, which are stored with the weights but are not trained."""
    corrections = (b.numel() for name, b in model.named_buffers() if name.endswith("e_score_correction_bias"))
    return int(sum(p.numel() for p in model.parameters()) + sum(corrections))


def whole(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    config = transformers.AutoConfig.for_model(name, **changes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return {"config": saved(config), "parameters": parameters(model)}


def counted(model: torch.nn.Module, *words: Any, **more: Any) -> int:
    """FLOPs of one call, but for the angles of the rotation, which are a matrix product in transformers."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*words, **more)
    by_module = counter.get_flop_counts()
    angles = (flops for name, flops in by_module.items() if name.endswith("rotary_emb"))
    return int(counter.get_total_flops() - sum(sum(flops.values()) for flops in angles))


def small(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    config = transformers.AutoConfig.for_model(name, **{**DENSE, **changes})
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    model.eval()
    prompt = torch.arange(PROMPT)[None] % 90
    with torch.no_grad():
        cache = model(prompt, use_cache=True).past_key_values
    return {
        "config": saved(config),
        "parameters": parameters(model),
        "prompt_flops": counted(model, prompt, use_cache=False, logits_to_keep=1),
        "token_flops": counted(model, torch.tensor([[5]]), past_key_values=cache, use_cache=True),
    }


def main() -> None:
    found = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "prompt": PROMPT,
        "whole": {name: whole(name, changes) for name, changes in WHOLE.items()},
        "small": {name: small(name, changes) for name, changes in SMALL.items()},
    }
    (HERE / "counts.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
