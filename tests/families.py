"""Tiny configurations of many architectures that transformers builds, in addition to those in `small.ARCHITECTURES`."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}  # fmt: skip
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 4}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24, "head_dim": 8}
DENSE: dict[str, dict[str, Any]] = {
    "gpt_neox": SIZES,
    "gptj": GPT,
    "codegen": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
                "window_size": 24, "max_position_embeddings": 512},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512, "expansion_ratio": 2},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "phi": SIZES,
    "phi3": SIZES,
    "stablelm": SIZES,
    "olmo": SIZES,
    "olmo2": SIZES,
    "cohere": SIZES,
    "cohere2": {**SIZES, **MIXED},
    "starcoder2": SIZES,
    "granite": SIZES,
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 512},
    "gemma": {**SIZES, "head_dim": 8},
    "gemma2": {**SIZES, **MIXED},
    "gemma3_text": {**SIZES, **MIXED},
    "qwen3": {**SIZES, "head_dim": 8},
    "mistral": {**SIZES, "sliding_window": 24},
}  # fmt: skip
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {**SIZES, "num_local_experts": 4},
    "qwen3_moe": {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
    "qwen2_moe": {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                  "shared_expert_intermediate_size": 24},
    "gpt_oss": {**SIZES, **MIXED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {**SIZES, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
                    "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8,
                    "qk_nope_head_dim": 8, "v_head_dim": 8, "moe_intermediate_size": 24},
    "olmoe": {**SIZES, "num_experts": 4, "num_experts_per_tok": 2},
    "granitemoe": {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2},
    "phimoe": {**SIZES, "num_local_experts": 4},
    "jetmoe": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_key_value_heads": 2,
               "kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip
HYBRID: dict[str, dict[str, Any]] = {
    "qwen3_next": {**SIZES, "layer_types": ["linear_attention", "full_attention"], "num_experts": 4, "num_experts_per_tok": 2,
                   "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "linear_num_value_heads": 4,
                   "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 8},
}  # fmt: skip
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
OTHER_KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "t5": ({}, "encoder with a decoder"),
    "bart": ({}, "encoder with a decoder"),
    "bert": (SIZES, "cannot tell its decoder blocks"),
    "xlm": ({"emb_dim": 32, "n_layers": 2, "n_heads": 4}, "cannot tell its decoder blocks"),
    "gemma3": ({}, r"holds a language model \(gemma3_text\)"),
    "qwen2_vl": ({}, r"holds a language model \(qwen2_vl_text\)"),
    "rwkv": ({"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}, "step by step, with a cache"),
    "openai-gpt": ({"n_embd": 32, "n_layer": 2, "n_head": 4}, "step by step, with a cache"),
    "mamba": (MAMBA, "step by step, with a cache"),
    "ctrl": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48}, "its tokens see those that follow them"),
    "nonsense": ({}, "nonsense"),
}


def settings_of(kind: str) -> dict[str, Any]:
    """The configuration with its `model_type`."""
    return {"model_type": kind, **(DENSE | EXPERTS | HYBRID)[kind]}
