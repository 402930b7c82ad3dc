"""The keys that the configuration of an architecture declares."""

from __future__ import annotations

from functools import cache

# Positions as earlier configurations had them, which transformers moves into rope_parameters, and what it reads unasked.
READ_ANYWAY = frozenset({
    "rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq", "rope_interleaved", "rotary_emb_base",
    "rotary_pct", "original_max_position_embeddings", "head_dim", "sliding_window", "layer_types", "is_decoder",
    "cross_attention_hidden_size", "pruned_heads",
})  # fmt: skip


@cache
def declared_keys(kind: str) -> frozenset[str]:
    """The keys that can matter to transformers' decoder of this `model_type`, which is one that it knows."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # takes half a second

    declared = CONFIG_MAPPING[kind]
    return frozenset({*declared().to_dict(), *declared.attribute_map, *READ_ANYWAY})
