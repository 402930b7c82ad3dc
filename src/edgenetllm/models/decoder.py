"""The bare backbone: a transformers decoder fed with `inputs_embeds`, its token embedding dropped, no lm_head."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from edgenetllm.errors import UserError
from edgenetllm.models.declared import declared_keys

if TYPE_CHECKING:  # transformers takes half a second to import, and options are checked before
    from transformers import PretrainedConfig
    from transformers.pytorch_utils import Conv1D

    Linear = nn.Linear | Conv1D

NO_SUCH_MODEL = (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError)  # as configurations raise it
log = logging.getLogger(__name__)
NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


def decoder_config(settings: dict[str, Any], layers: int | None) -> PretrainedConfig:
    """Transformers configuration of the first `layers` blocks (None: all), without a vocabulary.

    Raises UserError for an unknown architecture, for one that is no decoder alone, and for more blocks than there
    are.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = {key: value for key, value in settings.items() if key not in NO_TOKENS}
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str):
        raise UserError("the model's configuration names no model_type (such as llama, qwen2 or gpt2)")
    for name in ("vocab_size", "architectures", "auto_map", "transformers_version", "_attn_implementation"):
        settings.pop(name, None)
    if model_type in CONFIG_MAPPING:
        ignored = sorted(set(settings) - declared_keys(model_type))
        settings = {name: value for name, value in settings.items() if name not in ignored}
        if ignored:
            log.info("keys of the model's configuration that no %s has are ignored: %s", model_type, ", ".join(ignored))
    try:
        config = AutoConfig.for_model(model_type, **settings)
        _refuse_other_kinds(config)
        config = AutoConfig.for_model(model_type, **settings, vocab_size=1, **NO_TOKENS)
    except NO_SUCH_MODEL as error:
        raise UserError(f"model configuration of type {model_type!r:.80}: {type(error).__name__}: {error}") from None
    keep_layers(config, layers)
    return config


def _refuse_other_kinds(config: PretrainedConfig) -> None:
    """Raises UserError for what is not a decoder alone."""
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"model type {kind} is an encoder with a decoder; a backbone is a decoder alone (such as llama)"
        )
    text = config.get_text_config()
    if text is not config:
        raise UserError(
            f"model type {kind} holds a language model ({text.model_type}) together with other models; a backbone is a "
            "language model alone: save that part as a folder of its own and give it as model.path=..."
        )
    if not isinstance(getattr(config, "num_hidden_layers", None), int):
        raise UserError(f"model type {kind} does not say how many decoder blocks it has (num_hidden_layers)")


def keep_layers(config: PretrainedConfig, layers: int | None) -> None:
    """Cut a configuration to its first `layers` blocks, in place. Raises UserError for more blocks than there are."""
    if layers is None:
        return
    depth = config.num_hidden_layers
    if not 1 <= layers <= depth:
        raise UserError(f"model.layers={layers}: this backbone has {depth} decoder blocks")
    for name, value in vars(config).items():
        if "layer" in name and isinstance(value, list) and len(value) == depth and _one_per_block(value):
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    if hasattr(config, "attention_types") and hasattr(
        config, "attention_layers"
    ):  # GPT-Neo: the list, and how it is made
        config.attention_types = [[list(config.attention_layers), 1]]


def _one_per_block(values: list[Any]) -> bool:
    """Kinds or flags of the blocks (`layer_types`, `no_rope_layers`), not numbers of blocks (`mlp_only_layers`)."""
    return all(isinstance(value, str) for value in values) or set(values) <= {0, 1}


def build_decoder(settings: dict[str, Any], layers: int | None = None, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Randomly initialised decoder (blocks and final norm) for a configuration as `config.to_dict()` gives it.

    Attention is SDPA where transformers supports it for the architecture, else eager. Raises UserError as `decoder_config`
    does, and for an architecture that this environment cannot build.
    """
    from transformers import AutoModel

    config = decoder_config(settings, layers)
    try:
        decoder = bare(AutoModel.from_config(config, dtype=dtype))
    except (ImportError, NotImplementedError, *NO_SUCH_MODEL) as error:
        raise UserError(
            f"model type {config.model_type} cannot be built here: {type(error).__name__}: {error}"
        ) from None
    drop_token_embedding(decoder)
    return decoder


def bare(model: nn.Module) -> nn.Module:
    """The module that holds the blocks: OPT has it inside one that only passes on."""
    from transformers import PreTrainedModel

    inner = getattr(model, "decoder", None)
    return inner if isinstance(inner, PreTrainedModel) else model


def drop_token_embedding(decoder: nn.Module) -> None:
    """Drop the token embedding (28 of SmolLM2's 135 million weights), which is never read: decisions are not words."""
    decoder.set_input_embeddings(None)  # type: ignore[operator]


def width(decoder: nn.Module) -> int:
    """The width of what goes in and comes out; OPT-350M projects it to another width for its blocks."""
    config: Any = decoder.config
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def learned_positions(decoder: nn.Module) -> int | None:
    """Number of tokens that a table of positions has room for (GPT-2, OPT); None where positions are relative."""
    if not any(isinstance(module, nn.Embedding) for module in decoder.modules()):
        return None
    return int(decoder.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]


def linear_layers(decoder: nn.Module) -> dict[str, Linear]:
    """The weight matrices of the decoder blocks, by name: what adapters attach to and what pruning zeroes."""
    from transformers.pytorch_utils import Conv1D

    inside = set(blocks(decoder).modules())
    linear = {name: module for name, module in decoder.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    return {name: module for name, module in linear.items() if module in inside}


def weight_out_in(layer: Linear) -> Tensor:
    """The weight as (out, in): GPT-2's Conv1D stores it transposed. A view, so that writing to it writes the layer."""
    from transformers.pytorch_utils import Conv1D

    return layer.weight.data.T if isinstance(layer, Conv1D) else layer.weight.data


def prunable_layers(decoder: nn.Module) -> dict[str, Linear]:
    """`linear_layers` without the matrices of adapters that were not merged."""
    return {name: layer for name, layer in linear_layers(decoder).items() if "lora_" not in name}


def recompute_activations(decoder: nn.Module) -> None:
    """Keep only what enters each block and compute the rest again for the gradient: less memory, a third more time."""
    decoder.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]


def blocks(decoder: nn.Module) -> nn.ModuleList:
    """The decoder blocks, in the order in which they are run. Raises UserError where they cannot be identified."""
    count = getattr(decoder.config, "num_hidden_layers", None)
    lists = [module for module in decoder.children() if isinstance(module, nn.ModuleList) and len(module) == count]
    candidates = [module for module in lists if any(parameter.ndim > 1 for parameter in module.parameters())]
    if len(candidates) != 1:
        raise UserError(f"{type(decoder).__name__}: cannot tell its decoder blocks from its other layers")
    return candidates[0]


def block_matrices(decoder: nn.Module) -> dict[str, nn.Parameter]:
    """Every weight of the blocks with two dimensions or more, by name; norms, biases and adapters are none.

    Fused experts have three dimensions, (experts, ...); kernels of convolutions count too.
    """
    inside = {parameter for parameter in blocks(decoder).parameters() if parameter.ndim > 1}
    return {name: value for name, value in decoder.named_parameters() if value in inside and "lora_" not in name}


def other_matrices(decoder: nn.Module) -> dict[str, nn.Parameter]:
    """The `block_matrices` that belong to no linear layer: neither pruning nor LoRA reaches them."""
    linear = {layer.weight for layer in prunable_layers(decoder).values()}
    return {name: value for name, value in block_matrices(decoder).items() if value not in linear}


def block_zeros(decoder: nn.Module) -> tuple[int, int]:
    """Number of weights of all `block_matrices`, and of those that are zero."""
    matrices = block_matrices(decoder).values()
    return sum(value.numel() for value in matrices), sum(int((value == 0).sum()) for value in matrices)


def describe_others(others: Mapping[str, Tensor], total: int) -> str:
    """Their fraction of `total` weights, and some of their names with their shapes."""
    fraction = sum(value.numel() for value in others.values()) / total
    named = [f"{name} ({' x '.join(map(str, value.shape))})" for name, value in others.items()]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return f"{fraction:.1%} of the block weights are in no linear layer: {', '.join(named[:3])}{more}"
