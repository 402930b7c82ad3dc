"""Adaptation to several tasks at once: an optimisation step learns from all pools, validation plays all tasks."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from edgenetllm.experience.joint_task import JointTask
from edgenetllm.models.joint_policy import JointPolicy
from edgenetllm.models.module import AdaptationModule


class JointModule(AdaptationModule):
    """Logs `train/loss` and `val/<metric>` of every task as a run of that task alone does, and `val/relative_gain`.

    `train/loss` is the mean of the tasks' losses weighted by their shares. The checkpoint is chosen by
    `val/relative_gain`, the mean over the tasks of what their metric gains on their teacher (see JointTask): on validation
    episodes of all tasks, and on nothing else. `target_returns` is the return-to-go of each task in those episodes.
    """

    def __init__(
        self, policy: JointPolicy, task: JointTask, *, target_returns: dict[str, float], **options: Any
    ) -> None:
        super().__init__(policy, task, target_return=0.0, **options)  # type: ignore[arg-type]
        self.joint_task = task
        self.target_returns = target_returns
        self.val_metrics = torch.nn.ModuleDict(
            {
                name: torch.nn.ModuleDict({m.name: MeanMetric(sync_on_compute=False) for m in one.metrics})
                for name, one in task.tasks.items()
            }
        )

    def validation_step(self, seeds: Tensor, batch_index: int, dataloader_idx: int = 0) -> None:
        """Loader i is that of task i."""
        name, task = list(self.joint_task.tasks.items())[dataloader_idx]
        metrics = cast(torch.nn.ModuleDict, self.val_metrics[name])
        self.judge(task, self.policy.part(name), self.target_returns[name], seeds, metrics)

    def on_validation_epoch_end(self) -> None:
        shared = self.trainer.world_size > 1
        figures = {}
        for name, task in self.joint_task.tasks.items():
            metrics = cast(torch.nn.ModuleDict, self.val_metrics[name])
            values = {key: metric.compute() for key, metric in metrics.items()}  # type: ignore[operator]
            figures[name] = float(values[task.metric.name])
            for key, value in values.items():
                self.log(
                    f"val/{self.joint_task.logged(name, key)}",
                    value,
                    prog_bar=key == task.metric.name,
                    sync_dist=shared,
                )
                metrics[key].reset()  # type: ignore[operator]
        gain = torch.tensor(self.joint_task.gain(figures), device=self.device)
        self.log(f"val/{self.joint_task.metric.name}", gain, prog_bar=True, sync_dist=shared)

    @staticmethod
    def target_argument(target_return: Any) -> dict[str, Any]:
        return {"target_returns": target_return}

    def stored_target(self) -> dict[str, float]:
        return dict(self.target_returns)
