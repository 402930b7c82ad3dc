"""The bare backbone: a transformers decoder fed with `inputs_embeds`, its token embedding dropped, no lm_head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgenetllm.errors import UserError

Linear = nn.Linear | Conv1D
NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


def decoder_config(settings: dict[str, Any], layers: int | None) -> PretrainedConfig:
    """Transformers configuration of the first `layers` blocks (None: all), without a vocabulary.

    Raises UserError for an unknown architecture or for more blocks than there are.
    """
    settings = {key: value for key, value in settings.items() if key not in NO_TOKENS}
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str):
        raise UserError("the model's configuration names no model_type (such as llama, qwen2 or gpt2)")
    for name in ("vocab_size", "architectures", "auto_map", "transformers_version"):
        settings.pop(name, None)
    try:
        config = AutoConfig.for_model(model_type, **settings, vocab_size=1, **NO_TOKENS)
    except (ValueError, TypeError) as error:
        raise UserError(f"model configuration of type {model_type!r}: {error}") from None
    keep_layers(config, layers)
    return config


def keep_layers(config: PretrainedConfig, layers: int | None) -> None:
    """Cut a configuration to its first `layers` blocks, in place. Raises UserError for more blocks than there are."""
    if layers is None:
        return
    if not 1 <= layers <= config.num_hidden_layers:
        raise UserError(f"model.layers={layers}: this backbone has {config.num_hidden_layers} decoder blocks")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:layers]


def build_decoder(settings: dict[str, Any], layers: int | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Randomly initialised decoder (blocks and final norm) for a configuration as `config.to_dict()` gives it."""
    config = decoder_config(settings, layers)
    decoder = bare(AutoModel.from_config(config, dtype=dtype, attn_implementation="sdpa"))
    drop_token_embedding(decoder)
    return decoder


def bare(model: nn.Module) -> nn.Module:
    """The module that holds the blocks: OPT has it inside one that only passes on."""
    inner = getattr(model, "decoder", None)
    return inner if isinstance(inner, PreTrainedModel) else model


def drop_token_embedding(decoder: nn.Module) -> None:
    """Decisions are not words: the table (28 of SmolLM2's 135 million weights) is never read."""
    decoder.set_input_embeddings(None)  # type: ignore[operator]


def width(decoder: nn.Module) -> int:
    """Of what goes in and comes out; OPT-350M projects it to another width for its blocks."""
    config: Any = decoder.config
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def learned_positions(decoder: nn.Module) -> int | None:
    """How many tokens a table of positions has room for (GPT-2, OPT); None where positions are relative."""
    if not any(isinstance(module, nn.Embedding) for module in decoder.modules()):
        return None
    return int(decoder.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]


def linear_layers(decoder: nn.Module) -> dict[str, Linear]:
    """The weight matrices of the decoder blocks, by name: what adapters attach to and what pruning zeroes."""
    inside = set(blocks(decoder).modules())
    linear = {name: module for name, module in decoder.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    return {name: module for name, module in linear.items() if module in inside}


def weight_out_in(layer: Linear) -> Tensor:
    """The weight as (out, in): GPT-2's Conv1D stores it transposed. A view, so that writing to it writes the layer."""
    return layer.weight.data.T if isinstance(layer, Conv1D) else layer.weight.data


def prunable_layers(decoder: nn.Module) -> dict[str, Linear]:
    """`linear_layers` without the matrices of adapters that were not merged."""
    return {name: layer for name, layer in linear_layers(decoder).items() if "lora_" not in name}


def recompute_activations(decoder: nn.Module) -> None:
    """Keep only what enters each block and compute the rest again for the gradient: less memory, a third more time."""
    decoder.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def blocks(decoder: nn.Module) -> nn.ModuleList:
    """The decoder blocks, in the order in which they are run."""
    wanted = int(decoder.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    found = [module for module in decoder.children() if isinstance(module, nn.ModuleList) and len(module) == wanted]
    if len(found) != 1:
        raise UserError(f"{type(decoder).__name__}: cannot tell its decoder blocks from its other layers")
    return found[0]
