"""One backbone for several tasks: a decision policy for each of them, with an encoder, a head, a return-to-go and a time
embedding of its own, around the same decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgenetllm.experience.joint_task import JointTask
from edgenetllm.models.policy import DecisionPolicy, Policy, build_policy
from edgenetllm.tasks.task import Task


def move(policy: DecisionPolicy, device: torch.device | str) -> None:
    """In place, with the decoder, which a part of a JointPolicy does not own."""
    policy.to(device)
    policy.decoder.to(device)


class JointPolicy(Policy):
    """`parts` are the policies of the tasks; `shares` weight their losses."""

    def __init__(self, decoder: nn.Module, parts: Mapping[str, DecisionPolicy], shares: Mapping[str, float]) -> None:
        super().__init__()
        self.decoder = decoder
        self.parts = nn.ModuleDict(parts)
        self.shares = dict(shares)
        self.embedding_rms = next(iter(parts.values())).embedding_rms
        for part in parts.values():
            del part.decoder
            part.__dict__["decoder"] = decoder  # not registered again: each of its weights has one name

    def part(self, task: str | None) -> DecisionPolicy:
        return cast(DecisionPolicy, self.parts[str(task)])

    def batch_loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Of a batch that holds one for each task: the mean of their losses, weighted by the shares."""
        losses = [share * self.part(name).batch_loss(batch[name]) for name, share in self.shares.items()]
        return cast(Tensor, sum(losses))

    def outside(self) -> dict[str, nn.Module]:
        return {
            f"parts.{task}.{name}": module for task in self.parts for name, module in self.part(task).outside().items()
        }


def build_joint_policy(decoder: nn.Module, task: JointTask, embedding_rms: float) -> JointPolicy:
    """With newly initialised encoders and heads. Raises UserError for a backbone that does not suit one of the tasks."""
    parts = {name: build_policy(decoder, one, embedding_rms) for name, one in task.tasks.items()}
    return JointPolicy(decoder, parts, task.shares)


def build_any_policy(decoder: nn.Module, task: Task | JointTask, embedding_rms: float) -> Policy:
    """What the task needs: a policy of its own, or one with a part for each of several tasks."""
    build = build_joint_policy if isinstance(task, JointTask) else build_policy
    return build(decoder, task, embedding_rms)  # type: ignore[arg-type]


def part_tensors(tensors: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
    """Of the tensors of a JointPolicy, those of the policy of one task, by their names there."""
    own = f"parts.{task}."
    return {name.removeprefix(own): value for name, value in tensors.items() if name.startswith(("decoder.", own))}
