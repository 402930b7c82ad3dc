"""The weights of the backbone that learn: LoRA by peft on its linear layers (attached, later merged), all, or nothing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from edgenetllm.errors import UserError
from edgenetllm.models.decoder import block_matrices, blocks, describe_others, linear_layers, other_matrices
from edgenetllm.option_types import NUMBER, Count, Positive

Side = Literal["attention", "mlp"]
OF_A_MIXER = {  # what a module is given that lets tokens see each other, and a feed-forward layer never is
    "attention_mask", "mask", "cache", "cache_params", "past_key_values", "layer_past", "position_embeddings", "alibi"
}  # fmt: skip
OTHERWISE = "type adapter.targets=all, or adapter=full or adapter=none"


@dataclass(config=ConfigDict(extra="forbid"))
class Lora:
    """Options of `adapter=lora`; the layers follow from the architecture, GPT-2's Conv1D included."""

    rank: Count = 32
    alpha: Positive = 32.0  # the update is scaled by alpha / rank
    dropout: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.0
    targets: Literal["all", "attention", "mlp"] = "all"

    def attach(self, decoder: nn.Module, seed: int) -> None:
        """Freeze the decoder and add trainable float32 adapters in place.

        Raises UserError where targeted matrices are in no linear layer (fused experts), and where attention and MLP
        cannot be distinguished.
        """
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds: only where it is used
        from transformers.pytorch_utils import Conv1D

        decoder.requires_grad_(False)
        layers = linear_layers(decoder)
        others = other_matrices(decoder)
        targets = self._wanted(decoder, [*layers, *others])
        self._check_all_reached(decoder, {name: others[name] for name in targets if name in others})
        names = [name for name in targets if name in layers]
        transposed = any(isinstance(layers[name], Conv1D) for name in names)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=names,
            fan_in_fan_out=transposed,
            bias="none",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, decoder)
        for name, parameter in decoder.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if "lora_" in name:
                parameter.data = parameter.data.float()

    def _wanted(self, decoder: nn.Module, names: list[str]) -> list[str]:
        if self.targets == "all":
            return names
        sides = sides_of(decoder, names)
        return [name for name in names if sides[name] == self.targets]

    def _check_all_reached(self, decoder: nn.Module, others: Mapping[str, Tensor]) -> None:
        if others:
            total = sum(value.numel() for value in block_matrices(decoder).values())
            raise UserError(
                f"adapter.targets={self.targets}: {describe_others(others, total)}; LoRA would leave them out. Choose "
                "adapter.targets=attention where they are not in the attention, adapter=full or adapter=none"
            )


def sides_of(decoder: nn.Module, names: list[str]) -> dict[str, Side]:
    """The side, attention or not, of each matrix of the blocks, layers or parameters by name.

    By structure: a matrix belongs to attention if a module around it, inside the block, is one that lets tokens see each
    other, which is seen in the arguments of its `forward` (a mask, a cache, positions). Raises UserError where there is
    none, or one that is no attention (Mamba's mixer).
    """
    inside = {module for block in blocks(decoder) for module in block.modules() if module is not block}
    sides: dict[str, Side] = {}
    for name in names:
        path = name.split(".")
        around = [decoder.get_submodule(".".join(path[:end])) for end in range(1, len(path))]
        mixer = next(
            (type(one).__name__ for one in around if one in inside and _mixes_tokens(one)), None
        )  # the outermost
        if mixer is not None and "attention" not in mixer.lower():
            raise UserError(f"adapter.targets: {name} is part of a {mixer}, neither attention nor MLP; {OTHERWISE}")
        sides[name] = "mlp" if mixer is None else "attention"
    if "attention" not in sides.values():
        raise UserError(f"adapter.targets: {type(decoder).__name__} shows no attention; {OTHERWISE}")
    return sides


def _mixes_tokens(module: nn.Module) -> bool:
    return not OF_A_MIXER.isdisjoint(inspect.signature(module.forward).parameters)


@dataclass(config=ConfigDict(extra="forbid"))
class NoAdapter:
    """`adapter=none`: the backbone stays frozen, only encoder and head learn."""

    def attach(self, decoder: nn.Module, seed: int) -> None:
        decoder.requires_grad_(False)


@dataclass(config=ConfigDict(extra="forbid"))
class Full:
    """`adapter=full`: every weight of the backbone learns and is kept in checkpoints, in float32."""

    def attach(self, decoder: nn.Module, seed: int) -> None:
        decoder.float().requires_grad_(True)


Adapter = Lora | NoAdapter | Full


@torch.no_grad()
def merge(decoder: nn.Module) -> None:
    """Add every active adapter to its weight and put the plain layer back; the decoder becomes float32 and frozen."""
    from peft.tuners.lora import LoraLayer

    decoder.float().requires_grad_(False)
    for name, module in list(decoder.named_modules()):
        if not isinstance(module, LoraLayer):
            continue
        layer = module.get_base_layer()
        for adapter in module.active_adapters:
            layer.weight.data += module.get_delta_weight(adapter).float()
        parent, _, child = name.rpartition(".")
        setattr(decoder.get_submodule(parent), child, layer)


def has_adapters(decoder: nn.Module) -> bool:
    """True while LoRA is attached and not merged."""
    from peft.tuners.lora import LoraLayer

    return any(isinstance(module, LoraLayer) for module in decoder.modules())


def cast_frozen_linears(decoder: nn.Module, dtype: torch.dtype) -> None:
    """Keep the frozen matrices in the dtype that they are multiplied in; norms, biases and adapters stay float32."""
    for layer in linear_layers(decoder).values():
        if not layer.weight.requires_grad:
            layer.weight.data = layer.weight.data.to(dtype)
