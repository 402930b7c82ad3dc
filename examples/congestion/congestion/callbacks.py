"""A Lightning callback that logs the norm of the gradient."""

import lightning as L
import torch


class GradientNorm(L.Callback):
    """Logs `train/gradient_norm`, the norm over all trained weights, at each step of the optimizer."""

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer: object) -> None:
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        module.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))
