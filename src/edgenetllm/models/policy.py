"""The decision policy: a step is `(return-to-go, state_1 .. state_n, action)`, and the backbone predicts its action.

Design choices
- the hidden state of the last state token goes to the task's head; return-to-go and action tokens are context only
- every token is layer-normalised, then scaled to the root mean square of the token embeddings that the backbone was
  pretrained on, so that the first block sees inputs of the size it knows
- a learned time embedding per step is added to all tokens of the step (Decision Transformer, section 3), beside the
  backbone's own positions
- the whole episode is one causal sequence; padding stands at the end, so it needs no mask of its own
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from edgenetllm.models.decoder import width as decoder_width
from edgenetllm.tasks.task import Encoder, Head, Task


class DecisionPolicy(nn.Module):
    def __init__(
        self,
        decoder: nn.Module,
        encoder: Encoder,
        head: Head,
        *,
        max_steps: int,
        return_scale: float,
        embedding_rms: float,
    ) -> None:
        super().__init__()
        width = decoder_width(decoder)
        self.decoder = decoder
        self.encoder = encoder
        self.head = head
        self.return_to_go = nn.Linear(1, width)
        self.time = nn.Embedding(max_steps, width)
        self.norm = nn.LayerNorm(width)
        self.return_scale = return_scale
        self.embedding_rms = embedding_rms
        nn.init.normal_(self.time.weight, std=0.02)

    @property
    def tokens_per_step(self) -> int:
        return self.encoder.tokens_per_step + 2

    def task_parameters(self) -> dict[str, nn.Parameter]:
        """Everything outside the backbone: encoder, head, return-to-go, time, norm."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("decoder.")}

    def step_tokens(self, observation: Mapping[str, Tensor], return_to_go: Tensor, first_step: int) -> Tensor:
        """Return-to-go and state tokens (batch, steps, n + 1, width); `return_to_go` is (batch, steps) in reward units."""
        wanted = self.return_to_go(return_to_go[..., None] / self.return_scale)[:, :, None]
        tokens = torch.cat([wanted, self.encoder.state(observation)], dim=2)
        return self._finish(tokens, first_step)

    def action_tokens(self, action: Tensor, first_step: int) -> Tensor:
        """(batch, steps, ...) -> (batch, steps, 1, width)."""
        return self._finish(self.encoder.action(action)[:, :, None], first_step)

    def _finish(self, tokens: Tensor, first_step: int) -> Tensor:
        steps = torch.arange(first_step, first_step + tokens.shape[1], device=tokens.device)
        return self.norm(tokens + self.time(steps)[None, :, None]) * self.embedding_rms

    def hidden(self, observation: Mapping[str, Tensor], return_to_go: Tensor, action: Tensor) -> Tensor:
        """Whole episodes at once: hidden state that predicts each action, (batch, steps, width)."""
        batch, steps = return_to_go.shape
        tokens = torch.cat(
            [self.step_tokens(observation, return_to_go, 0), self.action_tokens(action, 0)], dim=2
        )  # (batch, steps, n + 2, width)
        output = self.decoder(inputs_embeds=tokens.flatten(1, 2), use_cache=False).last_hidden_state
        return output.reshape(batch, steps, self.tokens_per_step, -1)[:, :, -2]

    def extend(self, tokens: Tensor, cache: DynamicCache) -> Tensor:
        """Append tokens (batch, n, width) to a session's cache; hidden state of the last one, (batch, 1, width)."""
        return self.decoder(inputs_embeds=tokens, cache=cache, use_cache=True).last_hidden_state[:, -1:]


def build_policy(decoder: nn.Module, task: Task, embedding_rms: float) -> DecisionPolicy:
    """A policy with the task's own encoder and head, newly initialised from torch's global generator."""
    width = decoder_width(decoder)
    return DecisionPolicy(
        decoder,
        task.encoder(width),
        task.head(width),
        max_steps=task.max_steps,
        return_scale=task.return_scale,
        embedding_rms=embedding_rms,
    )
