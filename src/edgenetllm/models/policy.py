"""The decision policy: a step is `(return-to-go, state_1 .. state_n, action)`, and the backbone predicts its action.

Design choices
- the hidden state of the last state token goes to the task's head; return-to-go and action tokens are context only
- every token is layer-normalised, then scaled to the root mean square of the token embeddings that the backbone was
  pretrained on, so that the first block sees inputs of the size it knows
- episodes of bounded length are one causal sequence, and a learned time embedding per step is added to all tokens of the
  step (Decision Transformer, section 3), beside the backbone's own positions; padding stands at the end, so it needs no
  mask of its own
- with a `window`, episodes may go on for ever: a token sees itself and the window * tokens_per_step - 1 tokens before it
  (a banded causal mask), time is known from the backbone's relative positions alone, and a session's cache keeps no more
  than the band
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from edgenetllm.errors import UserError
from edgenetllm.models.causal import new_cache, own_window, run_cached, run_whole
from edgenetllm.models.decoder import learned_positions
from edgenetllm.models.decoder import width as decoder_width
from edgenetllm.tasks.task import Encoder, Head, Task


class Policy(nn.Module):
    """A decoder and what stands around it: what pruning, recovery and export ask of a policy, of one task or of several."""

    decoder: nn.Module
    embedding_rms: float

    @property
    def device(self) -> torch.device:
        """Of everything outside the decoder, whose blocks may be elsewhere for a while."""
        return next(iter(self.task_parameters().values())).device

    def part(self, task: str | None) -> DecisionPolicy:
        """The policy that plays this task; None: the only one there is."""
        raise NotImplementedError

    def batch_loss(self, batch: Mapping[str, Any]) -> Tensor:
        """Of a batch as the data module gives it for training."""
        raise NotImplementedError

    def outside(self) -> dict[str, nn.Module]:
        """Encoder and head (of each task), by their names."""
        raise NotImplementedError

    def calibration_step(self, batch: Mapping[str, Any]) -> Tensor:
        """Run the decoder on a batch of the pool, of one task, which `task` names where there are several."""
        part = self.part(batch.get("task"))
        embedded = part.encoder.embed(self._here(batch["observation"]))
        return part.hidden(embedded, batch["return_to_go"].to(self.device), batch["action"].to(self.device))

    def calibration_mask(self, batch: Mapping[str, Any]) -> Tensor:
        """The tokens of such a batch that count, (sequences, tokens): False where one is padding."""
        valid: Tensor = batch["valid"]
        return valid.repeat_interleave(self.part(batch.get("task")).tokens_per_step, dim=1)

    def calibration_loss(self, batch: Mapping[str, Any]) -> Tensor:
        """The task's loss on such a batch."""
        return self.part(batch.get("task")).loss(self._here(batch), self._here(batch["observation"]))

    def _here(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in values.items() if isinstance(value, Tensor)}

    def task_parameters(self) -> dict[str, nn.Parameter]:
        """Everything outside the backbone: encoder, head, return-to-go, time, norm."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("decoder.")}


class DecisionPolicy(Policy):
    def __init__(
        self,
        decoder: nn.Module,
        encoder: Encoder,
        head: Head,
        *,
        max_steps: int,
        window: int | None,
        return_scale: float,
        relative_return: bool,
        embedding_rms: float,
    ) -> None:
        super().__init__()
        width = decoder_width(decoder)
        self.decoder = decoder
        self.encoder = encoder
        self.head = head
        self.return_to_go = nn.Linear(1, width)
        self.time = nn.Embedding(max_steps, width) if window is None else None
        self.norm = nn.LayerNorm(width)
        self.return_scale = return_scale
        self.relative_return = relative_return
        self.embedding_rms = embedding_rms
        self.band = None if window is None else window * self.tokens_per_step
        if self.time is not None:
            nn.init.normal_(self.time.weight, std=0.02)

    @property
    def tokens_per_step(self) -> int:
        return self.encoder.tokens_per_step + 2

    def part(self, task: str | None) -> DecisionPolicy:
        return self

    def outside(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "head": self.head}

    def step_tokens(self, embedded: Mapping[str, Tensor], return_to_go: Tensor, first_step: int) -> Tensor:
        """Return-to-go and state tokens (batch, steps, n + 1, width); `return_to_go` is (batch, steps) in reward units."""
        wanted = self.return_to_go(return_to_go[..., None] / self.return_scale)[:, :, None]
        tokens = torch.cat([wanted, self.encoder.state(embedded)], dim=2)
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

    def hidden(self, embedded: Mapping[str, Tensor], return_to_go: Tensor, action: Tensor) -> Tensor:
        """Whole sequences at once: hidden state that predicts each action, (batch, steps, width)."""
        batch, steps = return_to_go.shape
        tokens = torch.cat(
            [self.step_tokens(embedded, return_to_go, 0), self.action_tokens(action, embedded, 0)], dim=2
        )  # (batch, steps, n + 2, width)
        output = run_whole(self.decoder, tokens.flatten(1, 2), self.band)
        return output.reshape(batch, steps, self.tokens_per_step, -1)[:, :, -2]

    def batch_loss(self, batch: Mapping[str, Any]) -> Tensor:
        return self.loss(batch, batch["observation"])

    def loss(self, batch: Mapping[str, Tensor], observation: Mapping[str, Tensor]) -> Tensor:
        """Of a batch of the pool: `action`, `return_to_go`, `valid` and maybe `target`, each (batch, steps, ...).

        Of a part of a batch (its `whole` says of what), so that the mean over the parts is the loss of the whole.
        """
        embedded = self.encoder.embed(observation)
        hidden = self.hidden(embedded, batch["return_to_go"], batch["action"])
        counts = None
        if "whole" in batch:
            whole: Mapping[str, Tensor] = batch["whole"]  # type: ignore[assignment]
            counts = self.head.counts(whole["action"], whole.get("target"), whole["valid"]) / whole["parts"]
        return self.head.loss(hidden, embedded, batch["action"], batch.get("target"), batch["valid"], counts)

    def new_cache(self) -> Cache:
        """The empty cache of a session that starts."""
        return new_cache(self.decoder, self.band)

    def extend(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Append tokens (batch, n, width) to a session's cache; hidden state of the last one, (batch, 1, width)."""
        return run_cached(self.decoder, tokens, cache, self.band)[:, -1:]


def build_policy(decoder: nn.Module, task: Task, embedding_rms: float) -> DecisionPolicy:
    """A policy with the task's own encoder and head, newly initialised from torch's global generator.

    Raises UserError for a backbone that counts positions from the start where the task's episodes have no end, for more
    tokens than the backbone has positions for, and for a `window` that some of its blocks cannot look back over.
    """
    width, positions = decoder_width(decoder), learned_positions(decoder)
    if task.window is not None and positions is not None:
        raise UserError(f"task={task.name} needs a backbone with relative positions (model=smollm2, llama2 or qwen2_5)")
    policy = DecisionPolicy(
        decoder,
        task.encoder(width),
        task.head(width),
        max_steps=task.max_steps,
        window=task.window,
        return_scale=task.return_scale,
        relative_return=task.relative_return,
        embedding_rms=embedding_rms,
    )
    reach = own_window(decoder.config)  # type: ignore[arg-type]
    if policy.band is not None and reach is not None and reach < policy.band:
        raise UserError(
            f"task={task.name}: a decision looks back over {policy.band} tokens, but some blocks of this backbone over no "
            f"more than {reach} (sliding_window in its config.json); choose another model"
        )
    if positions is not None and task.max_steps * policy.tokens_per_step > positions:
        raise UserError(
            f"task={task.name}: an episode has up to {task.max_steps} x {policy.tokens_per_step} tokens, this backbone "
            f"knows {positions} positions; choose one with relative positions (model=smollm2, llama2 or qwen2_5)"
        )
    return policy
