"""The decoder as a causal sequence model: whole sequences at once, or step by step with a cache, full or banded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import Cache, PretrainedConfig


def run_whole(decoder: nn.Module, tokens: Tensor, band: int | None) -> Tensor:
    """Hidden states (batch, n, width) of `tokens` (batch, n, width); a token sees itself and the band - 1 before it."""
    mask = attention_mask(decoder, tokens, 0, band)
    output: Tensor = decoder(inputs_embeds=tokens, attention_mask=mask, use_cache=False).last_hidden_state
    return output


def run_cached(decoder: nn.Module, tokens: Tensor, cache: Cache, band: int | None) -> Tensor:
    """Append tokens (batch, n, width) to the cache; hidden states of them, (batch, n, width)."""
    cached = 0 if band is None else min(cache.get_seq_length(), band - 1)
    mask = attention_mask(decoder, tokens, cached, band)
    output: Tensor = decoder(inputs_embeds=tokens, attention_mask=mask, cache=cache, use_cache=True).last_hidden_state
    return output


def new_cache(decoder: nn.Module, band: int | None) -> Cache:
    """An empty cache; with a `band` it keeps the band - 1 last tokens."""
    from transformers.cache_utils import Cache, DynamicCache, DynamicSlidingWindowLayer

    if band is None:
        return DynamicCache(config=decoder.config)  # type: ignore[arg-type]
    layers = int(decoder.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    return Cache(layers=[DynamicSlidingWindowLayer(sliding_window=band) for _ in range(layers)])


def attention_mask(decoder: nn.Module, tokens: Tensor, cached: int, band: int | None) -> Tensor | None:
    """A mask (1, 1, n, cached + n): where a token attends, True for SDPA and 0 for eager attention (else the lowest number).

    None without a band: causal, the backbone's own default.
    """
    if band is None:
        return None
    new = tokens.shape[1]
    query = cached + torch.arange(new, device=tokens.device)[:, None]
    key = torch.arange(cached + new, device=tokens.device)
    allowed = ((key <= query) & (key > query - band))[None, None]
    config: Any = decoder.config
    if config._attn_implementation == "sdpa":
        return allowed
    return torch.zeros(allowed.shape, device=tokens.device).masked_fill(~allowed, torch.finfo(torch.float32).min)


def own_window(config: PretrainedConfig) -> int | None:
    """The fewest tokens that any block of this configuration looks back over, itself included; None: over all of them."""
    kinds = getattr(config, "layer_types", None)
    limits = []
    if kinds is None or any("sliding" in kind for kind in kinds):
        used = getattr(config, "use_sliding_window", True) if kinds is None else True
        limits.append(getattr(config, "sliding_window", None) if used else None)
    if kinds is not None and any("chunked" in kind for kind in kinds):
        limits.append(getattr(config, "attention_chunk_size", None))
    return min((int(size) for size in limits if size), default=None)
