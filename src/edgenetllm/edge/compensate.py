"""Quantisation whose error is made up for, column by column, as SparseGPT does for pruning (Frantar and others, 2023: GPTQ).

A column of a matrix is rounded, and the columns after it are changed so that the outputs of the layer on calibration data
stay as they were, as far as they can. Zeros stay zero.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from edgenetllm.edge.encoding import INTEGERS, Form, MaskForm, Values, form_of, largest_integer
from edgenetllm.edge.quantise import Integers, quantise
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.models.decoder import blocks, prunable_layers, weight_out_in
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.pruning.calibration import on_device, record_inputs, watch
from edgenetllm.pruning.sparsegpt import inverse_factor

BLOCK = 128  # columns rounded before the rest is changed
DAMPING = 0.01


@torch.no_grad()
def quantise_policy(
    policy: PolicyNetwork,
    batches: Sequence[Any],
    layers: Collection[str],
    *,
    values: Values,
    mask: MaskForm | str = "auto",
    group: int | None = None,
    device: torch.device | None = None,
) -> dict[str, QuantisedMatrix]:
    """The quantised matrices (out, in) of these layers of the decoder, by name in the decoder; the policy stays as it is.

    `batches` are what `calibration_step` takes. Each block sees what the quantised blocks before it give.
    """
    policy = copy.deepcopy(policy)
    decoder, matrices = policy.decoder, {}
    chosen = {name: layer for name, layer in prunable_layers(decoder).items() if name in layers}
    with TemporaryDirectory(prefix="edgenetllm-calibration-") as folder:
        states = Path(folder) / "states"
        states.mkdir()
        inputs = record_inputs(decoder, batches, policy.calibration_step, policy.calibration_mask, states)
        for block in blocks(decoder):
            members = set(block.modules())
            inside = {name: layer for name, layer in chosen.items() if layer in members}
            with on_device(block, device):
                seen = watch(block, inside, inputs, "gram")
                for name, layer in inside.items():
                    weight, gram = weight_out_in(layer), seen.pop(name).statistic
                    assert gram is not None
                    form = form_of(weight.float().cpu().numpy(), values, mask, group)  # type: ignore[arg-type]
                    matrices[name] = compensated(weight, gram, form)
                    weight.copy_(torch.from_numpy(matrices[name].dense()))
                inputs.advance(block)
    return matrices


def compensated(weight: Tensor, gram: Tensor, form: Form, damping: float = DAMPING) -> QuantisedMatrix:
    """`weight` (out, in) in the integers of a form; `gram` (in, in) is XᵀX over the calibration tokens.

    The scales are those of the weight as it is. Raises UserError for a gram matrix that is not finite or cannot be
    factorised.
    """
    # The scales, and the inverse Hessian.
    zero = weight == 0
    values, largest = INTEGERS[form.dtype], largest_integer(form, int(zero.sum()))
    assert form.group is not None
    plain = quantise(weight.float().cpu().numpy(), values, form.group, largest)
    scales = torch.from_numpy(plain.scales).to(weight.device).repeat_interleave(form.group, dim=1)
    factor = inverse_factor(gram.to(weight.device), damping)
    work = weight.float().clone()
    integers = torch.zeros(weight.shape, dtype=torch.int8, device=weight.device)
    # Block by block: round a column, then let later columns make up for it.
    for start in range(0, work.shape[1], BLOCK):
        columns = work[:, start : start + BLOCK]
        upper = factor[start : start + BLOCK, start : start + BLOCK]
        error = torch.zeros_like(columns)
        for j in range(columns.shape[1]):
            at = start + j
            level = _levels(columns[:, j] / scales[:, at], values, largest).masked_fill(zero[:, at], 0)
            integers[:, at] = level.to(torch.int8)
            error[:, j] = (columns[:, j] - level * scales[:, at]) / upper[j, j]
            columns[:, j:] -= error[:, j, None] * upper[j, j:]
        work[:, start + BLOCK :] -= error @ factor[start : start + BLOCK, start + BLOCK :]
    return QuantisedMatrix(integers.cpu().numpy(), plain.scales)


def _levels(ratio: Tensor, values: Integers, largest: int) -> Tensor:
    """The nearest level of each number, none of them zero."""
    if values == "int4":
        level = 2 * torch.floor(ratio / 2) + 1
    else:
        level = ratio.round()
        level = torch.where(level == 0, torch.where(ratio < 0, -1.0, 1.0), level)
    return level.clamp(-largest, largest)
