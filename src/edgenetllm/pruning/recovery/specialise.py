"""Encoder and head learn again on the sparse backbone, which stays as it is."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.option_types import Count, LearningRate, Text
from edgenetllm.pruning.recovery.recover import RecoveryContext


@dataclass(config=ConfigDict(extra="forbid"))
class Specialise:
    """`recovery=specialise`: encoder, head, return-to-go, time and norm of the tokens. A figure after it says nothing of the
    backbone, unless the same figure at 100 % sparsity is given with it."""

    name: Text = "specialise"
    steps: Count = 60  # of the optimizer
    batch_size: Count = 8  # sequences
    lr: LearningRate = 1e-3

    def recover(self, policy: PolicyNetwork, dense: PolicyNetwork, context: RecoveryContext) -> int:
        from edgenetllm.pruning.recovery.fit import fit  # imports Lightning: only where something learns

        policy.requires_grad_(False)
        for parameter in policy.task_parameters().values():
            parameter.requires_grad_(True)
        return fit(policy, context, steps=self.steps, batch_size=self.batch_size, decoder_lr=self.lr, task_lr=self.lr)
