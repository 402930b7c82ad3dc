"""A linear map to one number whose gradients do not depend on the number of threads."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScalarLinear(nn.Linear):
    """`nn.Linear(width, 1)`, its bias being the weight of one more input of 1.

    The gradient of torch's bias is one sum over everything, which threads divide among them: its last bits depend on their
    number.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, input: Tensor) -> Tensor:
        joined = torch.cat([self.weight, self.bias[:, None]], dim=1)
        return nn.functional.linear(torch.cat([input, torch.ones_like(input[..., :1])], dim=-1), joined)
