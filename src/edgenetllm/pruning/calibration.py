"""What each layer sees: column sums of squared inputs, streamed over calibration batches by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from edgenetllm.models.decoder import Linear, linear_layers


@torch.no_grad()
def input_sum_of_squares(
    decoder: nn.Module, batches: Iterable[object], forward: Callable[[object], object]
) -> dict[str, Tensor]:
    """Layer name -> (in,) float32 sums of X² over all tokens of all batches; memory does not grow with their number.

    `forward(batch)` must run the decoder on one batch.
    """
    sums: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sums[name] = sums.get(name, 0) + inputs[0].detach().float().flatten(0, -2).pow(2).sum(0)

        return add

    layers: dict[str, Linear] = linear_layers(decoder)
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        for batch in batches:
            forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    return sums
