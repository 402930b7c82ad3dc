"""Block by block, the weights that are left learn to give the dense block's output (as EBFT, Guo et al. 2024, does).

The sparse block sees what the sparse blocks before it give and aims at what the dense model has there, so that errors are
corrected and not handed on. Nothing but hidden states is needed: no labels, and memory for one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from edgenetllm.models.decoder import blocks, prunable_layers
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.option_types import Count, LearningRate, Text
from edgenetllm.progress import tqdm
from edgenetllm.pruning.calibration import BlockInputs, on_device, record_inputs
from edgenetllm.pruning.recovery.recover import RecoveryContext


@dataclass(config=ConfigDict(extra="forbid"))
class Reconstruct:
    """`recovery=reconstruct`: the matrices of attention and MLP, through their masks."""

    name: Text = "reconstruct"
    windows: Count = 64  # sequences of the pool
    batch_size: Count = 4  # sequences
    epochs: Count = 3  # over the windows, for each block
    lr: LearningRate = 3e-4

    def recover(self, policy: PolicyNetwork, dense: PolicyNetwork, context: RecoveryContext) -> int:
        layers = prunable_layers(policy.decoder)
        policy.requires_grad_(False)
        windows = context.windows(self.windows, self.batch_size)
        trained = 0
        with TemporaryDirectory(prefix="edgenetllm-reconstruct-") as folder:
            # Inputs of the first block in both models.
            states = []
            for name, model in (("dense", dense), ("sparse", policy)):
                (Path(folder) / name).mkdir()
                states.append(
                    record_inputs(
                        model.decoder, windows, model.calibration_step, model.calibration_mask, Path(folder) / name
                    )
                )
            targets, given = states
            # Block by block: compute the dense output, fit the sparse block to it, advance.
            both = list(zip(blocks(dense.decoder), blocks(policy.decoder), strict=True))
            for teacher, block in tqdm(both, desc="reconstruct", unit="block", disable=not context.progress):
                with on_device(teacher, context.device):
                    targets.advance(teacher)  # now: what the dense block gives
                inside = set(block.modules())
                weights = [layer.weight for layer in layers.values() if layer in inside]
                trained += sum(int((weight != 0).sum()) for weight in weights)
                with on_device(block, context.device):
                    self._fit_block(block, weights, given, targets, context)
                    given.advance(block)
        return trained

    def _fit_block(
        self,
        block: nn.Module,
        weights: list[Tensor],
        given: BlockInputs,
        targets: BlockInputs,
        context: RecoveryContext,
    ) -> None:
        device = weights[0].device
        optimizer = torch.optim.Adam(weights, lr=self.lr)
        total = self.epochs * len(given)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        order = np.random.default_rng(context.seed)
        with _through_mask(weights):
            for _ in range(self.epochs):
                for number in order.permutation(len(given)):
                    # Compare the outputs where no token is padding.
                    real = given.token_masks[number].to(device)
                    if not bool(real.any()):
                        continue
                    target = targets.read(int(number), device)[real]
                    with torch.autocast(device.type, torch.bfloat16, enabled=context.bf16):
                        output = given.run(block, int(number), device)[real]
                    loss = (output.float() - target).square().mean() / target.square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()


@contextmanager
def _through_mask(weights: list[Tensor]) -> Iterator[None]:
    """While open, gradients of weights that are zero are zero: Adam without decay then leaves them zero."""

    def hook(mask: Tensor):  # type: ignore[no-untyped-def]
        return lambda gradient: gradient * mask

    handles = []
    for weight in weights:
        weight.requires_grad_(True)
        handles.append(weight.register_hook(hook(weight.data != 0)))
    try:
        yield
    finally:
        for handle, weight in zip(handles, weights, strict=True):
            handle.remove()
            weight.requires_grad_(False)
            weight.grad = None
