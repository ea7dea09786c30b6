"""Fields of a Hugging Face config.json: names of families, what silence means, and what costs nothing."""

from __future__ import annotations

from typing import Any

FAMILIES = {
    "llama": "llama",
    "mistral": "mistral",
    "ministral3": "ministral3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "gemma2": "gemma2",
    "phi3": "phi3",
    "mixtral": "mixtral",
    "qwen2_moe": "qwen2",
    "qwen3_moe": "qwen3",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe": "qwen3",
    "qwen3_vl_moe_text": "qwen3",
    "qwen3_next": "qwen3_next",
    "qwen3_5": "qwen3_5",
    "qwen3_5_text": "qwen3_5",
    "qwen3_5_moe": "qwen3_5",
    "qwen3_5_moe_text": "qwen3_5",
    "llama4": "llama4",
    "llama4_text": "llama4",
    "glm4_moe": "glm",
    "glm4_moe_lite": "deepseek_v3",
    "glm_moe_dsa": "deepseek_v3",
    "minimax_m2": "minimax_m2",
    "gpt_oss": "gpt_oss",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "deepseek_v32": "deepseek_v3",
    "kimi_k2": "deepseek_v3",
    "kimi_k25": "deepseek_v3",
    "kimi_linear": "kimi",
    "nemotron_h": "nemotron_h",
    "deepseek_v4": "deepseek_v4",
}
# Families that the executors run; the others are costed.
RUNNABLE = {"llama", "mistral", "qwen2", "qwen3", "gemma3"}

# What transformers assumes where a config is silent, and it does not follow from other settings: of a family,
# then of a model_type that differs from it.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"num_key_value_heads": 8, "max_position_embeddings": 131_072},
    "ministral3": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32, "max_position_embeddings": 32_768},
    "qwen2_moe": {"num_key_value_heads": 16},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32_768},
    "qwen3_moe": {"num_key_value_heads": 4, "head_dim": None},
    "qwen3_vl_moe_text": {"num_key_value_heads": 16},
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
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    "mixtral": {"num_key_value_heads": 8},
    "qwen3_next": {"num_key_value_heads": 2, "head_dim": 256},
    "qwen3_5": {"num_key_value_heads": 4, "head_dim": 256},
    "qwen3_5_moe_text": {"num_key_value_heads": 2},
    "llama4": {"num_key_value_heads": 8, "head_dim": 128},
    "glm": {"num_key_value_heads": 8},
    "minimax_m2": {"num_key_value_heads": 8, "use_qk_norm": True, "qk_norm_type": "per_layer"},
    "gpt_oss": {"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128},
    "nemotron_h": {"num_key_value_heads": 8, "head_dim": 128},
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
# Of a config with a text model among others: the rest of it is not run.
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
        "vision_token_id",
        "vision_feature_layer",
        "vision_feature_select_strategy",
        "multimodal_projector_bias",
        "projector_hidden_act",
        "spatial_merge_size",
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
        "mtp_hybrid_override_pattern",
        "mtp_layers_block_type",
        "keep_mtp_spec_in_bf16",
        "index_share_for_mtp_iteration",
    }
)
# Of a family's own mathematics that costs nothing: gates, clamps, initial values, and the kernels' own sizes.
COST_FREE = frozenset(
    """activation_situ_beta activation_situ_linear_beta attn_output_gate attn_temperature_tuning chunk_size
    expand floor_scale attn_scale full_attn_mod hc_eps hc_sinkhorn_iters interpolate_factor mamba_hidden_act
    mlp_hidden_act moe_router_dtype moe_shared_expert_overlap rescale_prenorm_residual residual_in_fp32
    swiglu_alpha swiglu_limit time_step_floor time_step_limit time_step_max time_step_min time_step_rank
    use_mamba_kernels
    """.split()  # noqa: SIM905
)
