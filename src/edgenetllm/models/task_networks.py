"""The networks that a task adds to a backbone: its encoder and head, and what else turns its steps into tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgenetllm.tasks.task import Encoder, Head


class TokenNorm(nn.LayerNorm):
    """A layer norm whose gradient does not depend on the number of threads: torch's own adds that of the weight thread by
    thread."""

    def forward(self, input: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(input, self.normalized_shape, eps=self.eps)
        return normed * self.weight + self.bias


class TaskNetworks(nn.Module):
    """Encoder, head, return-to-go, time and norm of one task, for a backbone of `width`.

    A task that is not `conditioned` has no return-to-go, one whose decisions are `independent` no time. `embedding_rms` is
    the root mean square that tokens are scaled to; with a `window` of steps there is no time embedding, and `band` is the
    number of tokens that one can look back on.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        *,
        width: int,
        max_steps: int,
        window: int | None,
        return_scale: float,
        relative_return: bool,
        embedding_rms: float,
        conditioned: bool = True,
        independent: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.return_to_go = nn.Linear(1, width) if conditioned else None
        self.time = nn.Embedding(max_steps, width) if window is None and not independent else None
        self.norm = TokenNorm(width)
        self.max_steps, self.window = max_steps, window
        self.conditioned, self.independent = conditioned, independent
        self.return_scale = return_scale
        self.relative_return = relative_return
        self.embedding_rms = embedding_rms
        self.band = None if window is None else window * self.tokens_per_step
        if self.time is not None:
            nn.init.normal_(self.time.weight, std=0.02)

    @property
    def tokens_per_step(self) -> int:
        return self.encoder.tokens_per_step + self.conditioned + (not self.independent)

    @property
    def capacity(self) -> int:
        """The number of tokens of the longest sequence: an episode, or a decision where these are independent."""
        return self.tokens_per_step * (1 if self.independent else self.max_steps)

    @property
    def sight(self) -> int:
        """The number of tokens that one can see at most, itself included."""
        return self.band if self.band is not None else self.capacity

    def step_tokens(self, embedded: Mapping[str, Tensor], return_to_go: Tensor, first_step: int) -> Tensor:
        """Return-to-go and state tokens (batch, steps, n + 1, width); `return_to_go` is (batch, steps) in reward units.

        Without a return-to-go, the n state tokens alone.
        """
        tokens = self.encoder.state(embedded)
        if self.return_to_go is not None:
            return_tokens = self.return_to_go(return_to_go[..., None] / self.return_scale)[:, :, None]
            tokens = torch.cat([return_tokens, tokens], dim=2)
        return self._finish(tokens, first_step)

    def action_tokens(self, action: Tensor, embedded: Mapping[str, Tensor], first_step: int) -> Tensor:
        """(batch, steps, ...) -> (batch, steps, 1, width)."""
        return self._finish(self.encoder.action(action, embedded)[:, :, None], first_step)

    def _finish(self, tokens: Tensor, first_step: int) -> Tensor:
        if self.time is not None:
            steps = torch.arange(first_step, first_step + tokens.shape[1], device=tokens.device)
            tokens = tokens + self.time(steps)[None, :, None]
        normed: Tensor = self.norm(tokens) * self.embedding_rms
        return normed
