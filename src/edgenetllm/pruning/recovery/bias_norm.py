"""Only the backbone's norms and biases learn: a few ten thousand parameters."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.option_types import Count, LearningRate, Text
from edgenetllm.pruning.recovery.recover import RecoveryContext


@dataclass(config=ConfigDict(extra="forbid"))
class BiasNorm:
    """`recovery=bias_norm`: everything in the decoder that is not a matrix."""

    name: Text = "bias_norm"
    steps: Count = 60  # of the optimizer
    batch_size: Count = 8  # sequences
    lr: LearningRate = 2e-3

    def recover(self, policy: PolicyNetwork, dense: PolicyNetwork, context: RecoveryContext) -> int:
        from edgenetllm.pruning.recovery.fit import fit  # imports Lightning: only where something learns

        policy.requires_grad_(False)
        for parameter in policy.decoder.parameters():
            parameter.requires_grad_(parameter.ndim == 1)
        return fit(policy, context, steps=self.steps, batch_size=self.batch_size, decoder_lr=self.lr, task_lr=self.lr)
