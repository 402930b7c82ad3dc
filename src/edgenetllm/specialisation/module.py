"""Specialisation as a LightningModule: what does not learn stays as it is at the edge, without dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, cast

import torch
from torch import Tensor

from edgenetllm.models.module import AdaptationModule


class SpecialisationModule(AdaptationModule):
    """An AdaptationModule around a policy of which only some parameters require a gradient.

    Where a batch brings the `hidden` states that its head is given, the backbone is not run.
    """

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        outside = self.policy.outside().values()
        for module in [self.policy.decoder, *outside]:
            if module is self.policy.decoder or not any(one.requires_grad for one in module.parameters()):
                module.eval()
        return self

    def loss(self, batch: Mapping[str, Any]) -> Tensor:
        losses = [fraction * self._loss_of(batch[name], name) for name, fraction in self.fractions.items()]
        return cast(Tensor, sum(losses))

    def _loss_of(self, batch: Mapping[str, Any], task_name: str) -> Tensor:
        if "hidden" not in batch:
            return self.policy.loss(batch, batch["observation"], task_name)
        networks = self.policy.networks(task_name)
        with torch.no_grad():
            embedded = networks.encoder.embed(batch["observation"])
        return networks.head.loss(batch["hidden"], embedded, batch["action"], batch.get("target"), batch["valid"], None)
