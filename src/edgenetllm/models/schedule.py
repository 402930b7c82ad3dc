"""The learning-rate schedule of an adaptation."""

from __future__ import annotations

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up over `warmup_steps`, then a cosine to 5 % at `total_steps`, as factors of the learning rates."""

    def __init__(self, optimizer: Optimizer, *, warmup_steps: int, total_steps: int) -> None:
        super().__init__(optimizer, partial(warmup_cosine, warmup_steps=warmup_steps, total_steps=total_steps))


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """The factor at a step, counted from 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
