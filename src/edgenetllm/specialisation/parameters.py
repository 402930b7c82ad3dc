"""The parameters that a specialisation trains, by the names of `specialise.train`, and the proof that no other changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import nn

from edgenetllm.errors import UserError
from edgenetllm.models.decoder import linear_layers, prunable_layers
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.models.stored import values_hash
from edgenetllm.sections import Trained


def part_of(policy: PolicyNetwork) -> dict[str, Trained]:
    """Parameter name -> part of the policy, of every parameter that may be trained: all but the backbone's matrices.

    `encoder` is all that makes tokens of a step: the task's encoder, return-to-go, time and the norm of tokens; `norms`
    and `biases` are those of the backbone.
    """
    biases = {layer.bias for layer in linear_layers(policy.decoder).values() if layer.bias is not None}
    parts: dict[str, Trained] = {}
    for name, parameter in policy.named_parameters():
        if not name.startswith("decoder."):
            parts[name] = "head" if name.split(".")[2] == "head" else "encoder"
        elif parameter.ndim == 1:
            parts[name] = "biases" if parameter in biases else "norms"
    return parts


def choose_trained(policy: PolicyNetwork, train: Sequence[Trained], sparse: Collection[str] = ()) -> list[str]:
    """Let exactly these parts require a gradient; returns the names of their parameters.

    `sparse` are the tensors in the bundle's sparse file. Raises UserError for a part that this policy does not have, and
    for one of whose matrices some are in that file, which must stay as it is.
    """
    parts = part_of(policy)
    for part in train:
        if part not in parts.values():
            raise UserError(f"specialise.train={part}: this backbone has no {part}; leave it away")
    trained = [name for name, part in parts.items() if part in train]
    if clash := sorted(set(trained) & set(sparse)):
        raise UserError(
            f"specialise.train: {clash[0]} was pruned (pruning.also) and lies in the sparse file, which must not change; "
            "start from a run without pruning.also, or leave this part of specialise.train away"
        )
    policy.requires_grad_(False)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name in set(trained))
    return trained


def frozen_hash(policy: PolicyNetwork, trained: Collection[str]) -> str:
    """The hash of everything in the policy that is not trained: equal before and after."""
    return values_hash({name: tensor for name, tensor in policy.state_dict().items() if name not in trained})


def zero_backbone(policy: PolicyNetwork) -> PolicyNetwork:
    """The policy with all matrices of the backbone's linear layers zero, in place: as `pruning=zero` leaves it."""
    with torch.no_grad():
        for layer in prunable_layers(policy.decoder).values():
            nn.init.zeros_(layer.weight)
    return policy
