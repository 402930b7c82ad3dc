"""What each layer sees: column sums of squared inputs, streamed over calibration batches by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from edgenetllm.models.decoder import Linear, linear_layers

Batch = TypeVar("Batch")


@torch.no_grad()
def input_sum_of_squares(
    decoder: nn.Module,
    batches: Iterable[Batch],
    forward: Callable[[Batch], object],
    tokens: Callable[[Batch], Tensor],
) -> dict[str, Tensor]:
    """Layer name -> (in,) float32 sums of X² over the tokens of all batches; memory does not grow with their number.

    `forward(batch)` must run the decoder on one batch; `tokens(batch)` (batch, tokens) is False where one is padding.
    """
    sums: dict[str, Tensor] = {}
    kept = torch.empty(0, dtype=torch.bool)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sums[name] = sums.get(name, 0) + inputs[0].detach().float()[kept].pow(2).sum(0)

        return add

    layers: dict[str, Linear] = linear_layers(decoder)
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        for batch in batches:
            kept = tokens(batch)
            forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    return sums
