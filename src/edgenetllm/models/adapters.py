"""What of the backbone learns: LoRA by peft on its linear layers (attached, later merged into them), all, or nothing."""

from __future__ import annotations

from typing import Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn
from transformers.pytorch_utils import Conv1D

from edgenetllm.models.decoder import linear_layers

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv_proj", "c_attn", "attn.c_proj")


@dataclass(config=ConfigDict(extra="forbid"))
class Lora:
    """Options of `adapter=lora`; the layers follow from the architecture, GPT-2's Conv1D included."""

    rank: PositiveInt = 32
    alpha: float = Field(default=32.0, gt=0)  # the update is scaled by alpha / rank
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all", "attention", "mlp"] = "all"

    def attach(self, decoder: nn.Module, seed: int) -> None:
        """Freeze the decoder and add trainable float32 adapters in place."""
        decoder.requires_grad_(False)
        layers = linear_layers(decoder)
        names = [name for name in layers if self._wanted(name)]
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

    def _wanted(self, name: str) -> bool:
        return self.targets == "all" or name.endswith(ATTENTION) == (self.targets == "attention")


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
    """Add every adapter to its weight and put the plain layer back in place; the decoder becomes float32 and frozen."""
    decoder.float().requires_grad_(False)
    for name, module in list(decoder.named_modules()):
        if not isinstance(module, LoraLayer):
            continue
        delta = module.get_delta_weight("default").float()
        layer = module.get_base_layer()
        layer.weight.data += delta
        parent, _, child = name.rpartition(".")
        setattr(decoder.get_submodule(parent), child, layer)


def cast_frozen_linears(decoder: nn.Module, dtype: torch.dtype) -> None:
    """Keep the frozen matrices in the dtype that they are multiplied in; norms, biases and adapters stay float32."""
    for layer in linear_layers(decoder).values():
        if not layer.weight.requires_grad:
            layer.weight.data = layer.weight.data.to(dtype)
