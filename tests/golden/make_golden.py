"""Makes golden.npz and the configs beside it: logits of small models as transformers computes them.

Run once, in an environment of its own: `pip install torch==2.13.0 transformers numpy`, then at the root
of the repository `python -m tests.golden.make_golden`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from tests.golden.seeded import seeded_tensor

HERE = Path(__file__).parent
TOKENS = [(index * index * 7 + index * 3 + 1) % 96 for index in range(40)]

DIMS = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LOCAL = {"rope_type": "default", "rope_theta": 100.0}
GLOBAL = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0}

CONFIGS = {
    "llama-llama3": transformers.LlamaConfig(**DIMS, rope_parameters=LLAMA3),
    "llama-yarn": transformers.LlamaConfig(
        **DIMS, rope_parameters=YARN, attention_bias=True, tie_word_embeddings=True
    ),
    "mistral": transformers.MistralConfig(**DIMS, sliding_window=8),
    "qwen2": transformers.Qwen2Config(**DIMS, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**DIMS, rope_parameters=YARN),
    "gemma3": transformers.Gemma3TextConfig(
        **{**DIMS, "num_hidden_layers": 7, "num_key_value_heads": 1},
        sliding_window=8,
        query_pre_attn_scalar=24,
        rope_parameters={"sliding_attention": LOCAL, "full_attention": GLOBAL},
    ),
}


def logits(config: transformers.PretrainedConfig) -> NDArray[np.float32]:
    """Of TOKENS, (tokens, vocab)."""
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(seeded_tensor(name, tuple(parameter.shape))))
        return np.asarray(model(torch.tensor([TOKENS])).logits[0], np.float32)


def main() -> None:
    golden = np.stack([logits(config) for config in CONFIGS.values()])
    names = np.array(list(CONFIGS))
    np.savez_compressed(HERE / "golden.npz", names=names, tokens=np.array(TOKENS), logits=golden)
    for name, config in CONFIGS.items():
        (HERE / f"{name}.json").write_text(config.to_json_string(use_diff=False))
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
