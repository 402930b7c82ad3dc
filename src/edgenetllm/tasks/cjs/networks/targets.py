"""The learning targets of the CJS head, from the supervised rows that `policies/targets.py` describes."""

from __future__ import annotations

import torch
from torch import Tensor

from edgenetllm.tasks.cjs.policies.targets import TOP_CHOICES


def intended_action(action: Tensor, target: Tensor | None) -> Tensor:
    """The action to learn, (b, t, 2): the target's where there is one (with executors), else the one that was taken."""
    return action if target is None else torch.where(target[..., 1:2] > 0, target[..., :2].long(), action)


def top_choices(action: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """Indices in the schedulable list and their probabilities, (b, t, TOP_CHOICES) each; the action alone with no target."""
    index, probability = action[..., :1], torch.ones_like(action[..., :1], dtype=torch.float32)
    if target is None:
        return index, probability
    index = torch.nn.functional.pad(index, (0, TOP_CHOICES - 1))
    probability = torch.nn.functional.pad(probability, (0, TOP_CHOICES - 1))
    given = target[..., 1:2] > 0
    return torch.where(given, target[..., 2::2].long(), index), torch.where(given, target[..., 3::2], probability)
