"""The decision policy: a step is `(return-to-go, state_1 .. state_n, action)`, and the backbone predicts its action.

Design choices
- the hidden state of the last state token goes to the task's head; return-to-go and action tokens are context only
- every token is layer-normalised, then scaled to the root mean square of the token embeddings that the backbone was
  pretrained on, so that the first block sees inputs of the size it knows
- episodes of bounded length are one causal sequence, and a learned time embedding per step is added to all tokens of the
  step (Decision Transformer, section 3), in addition to the backbone's own positions; padding stands at the end, so it
  needs no mask of its own
- with a `window`, episodes have no end: a token sees itself and the window * tokens_per_step - 1 tokens before it
  (a banded causal mask), time is known from the backbone's relative positions alone, and a session's cache keeps no more
  than the band
- decisions that are independent (`Task.independent`) are sequences of their own, without time and without action tokens;
  a task that is not conditioned (`Task.conditioned`) has no return-to-go token
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from edgenetllm.errors import UserError
from edgenetllm.models.causal import new_cache, own_window, run_cached, run_whole
from edgenetllm.models.decoder import learned_positions
from edgenetllm.models.decoder import width as decoder_width
from edgenetllm.models.task_networks import TaskNetworks
from edgenetllm.tasks.task import Encoder, Head, Task

if TYPE_CHECKING:
    from transformers import Cache


class PolicyNetwork(nn.Module):
    """One backbone, and for each of one or more tasks the networks around it: `tasks`, by the names of the tasks.

    Methods that play or learn take the `task_name`; None, and `encoder` and `head`, stand for the only task there is and
    raise ValueError where there are several. `of_task` gives the policy of one of them.
    """

    def __init__(self, decoder: nn.Module, tasks: Mapping[str, TaskNetworks]) -> None:
        super().__init__()
        self.decoder = decoder
        self.tasks = nn.ModuleDict(tasks)

    @property
    def device(self) -> torch.device:
        """The device of everything outside the decoder, whose blocks may be elsewhere for a while."""
        return next(iter(self.task_parameters().values())).device

    @property
    def embedding_rms(self) -> float:
        """The root mean square that the tokens of all tasks are scaled to."""
        return cast(TaskNetworks, next(iter(self.tasks.values()))).embedding_rms

    @property
    def encoder(self) -> Encoder:
        return self.networks().encoder

    @property
    def head(self) -> Head:
        return self.networks().head

    def networks(self, task_name: str | None = None) -> TaskNetworks:
        """The networks of this task."""
        if task_name is None:
            if len(self.tasks) > 1:
                raise ValueError(f"the policy plays {', '.join(self.tasks)}: say which of these tasks is meant")
            task_name = next(iter(self.tasks))
        return cast(TaskNetworks, self.tasks[task_name])

    def of_task(self, task_name: str) -> PolicyNetwork:
        """The policy of one task, around the same decoder and of the same networks."""
        return PolicyNetwork(self.decoder, {task_name: self.networks(task_name)})

    def outside(self) -> dict[str, nn.Module]:
        """Encoder and head of each task, by their names."""
        return {
            f"tasks.{task_name}.{name}": getattr(self.networks(task_name), name)
            for task_name in self.tasks
            for name in ("encoder", "head")
        }

    def task_parameters(self) -> dict[str, nn.Parameter]:
        """Everything outside the backbone: encoder, head, return-to-go, time, norm."""
        return {name: value for name, value in self.named_parameters() if not name.startswith("decoder.")}

    def hidden(
        self, embedded: Mapping[str, Tensor], return_to_go: Tensor, action: Tensor, task_name: str | None = None
    ) -> Tensor:
        """Whole sequences at once: hidden state that predicts each action, (batch, steps, width)."""
        networks, (batch, steps) = self.networks(task_name), return_to_go.shape
        if networks.independent:
            tokens = networks.step_tokens(embedded, return_to_go, 0).flatten(0, 1)  # (batch * steps, n, width)
            return run_whole(self.decoder, tokens, None)[:, -1].reshape(batch, steps, -1)
        tokens = torch.cat(
            [networks.step_tokens(embedded, return_to_go, 0), networks.action_tokens(action, embedded, 0)], dim=2
        )  # (batch, steps, n + 2, width)
        output = run_whole(self.decoder, tokens.flatten(1, 2), networks.band)
        return output.reshape(batch, steps, networks.tokens_per_step, -1)[:, :, -2]

    def loss(
        self, batch: Mapping[str, Tensor], observation: Mapping[str, Tensor], task_name: str | None = None
    ) -> Tensor:
        """The head's loss on a batch of the pool: `action`, `return_to_go`, `valid` and maybe `target`, each (batch, steps,
        ...).

        For a shard of a batch (its `whole` says of which), the mean over the shards is the loss of the whole.
        """
        networks = self.networks(task_name)
        embedded = networks.encoder.embed(observation)
        hidden = self.hidden(embedded, batch["return_to_go"], batch["action"], task_name)
        counts = None
        if "whole" in batch:
            whole: Mapping[str, Tensor] = batch["whole"]  # type: ignore[assignment]
            counts = networks.head.counts(whole["action"], whole.get("target"), whole["valid"]) / whole["shards"]
        return networks.head.loss(hidden, embedded, batch["action"], batch.get("target"), batch["valid"], counts)

    def new_cache(self, task_name: str | None = None) -> Cache:
        """The empty cache of a session that starts."""
        return new_cache(self.decoder, self.networks(task_name).band)

    def extend(self, tokens: Tensor, cache: Cache, task_name: str | None = None) -> Tensor:
        """Append tokens (batch, n, width) to a session's cache; hidden state of the last one, (batch, 1, width)."""
        return run_cached(self.decoder, tokens, cache, self.networks(task_name).band)[:, -1:]

    def calibration_step(self, batch: Mapping[str, Any]) -> Tensor:
        """Run the decoder on a batch of the pool of one task, which `task` names where there are several."""
        task_name, batch = self._of_one_task(batch)
        embedded = self.networks(task_name).encoder.embed(self._here(batch["observation"]))
        return self.hidden(embedded, batch["return_to_go"].to(self.device), batch["action"].to(self.device), task_name)

    def calibration_mask(self, batch: Mapping[str, Any]) -> Tensor:
        """The tokens of such a batch that count, (sequences, tokens): False where one is padding."""
        task_name, batch = self._of_one_task(batch)
        valid: Tensor = batch["valid"]
        networks = self.networks(task_name)
        if networks.independent:
            return valid.flatten()[:, None].expand(-1, networks.tokens_per_step)
        return valid.repeat_interleave(networks.tokens_per_step, dim=1)

    def calibration_loss(self, batch: Mapping[str, Any]) -> Tensor:
        """The task's loss on such a batch."""
        task_name, batch = self._of_one_task(batch)
        return self.loss(self._here(batch), self._here(batch["observation"]), task_name)

    def _of_one_task(self, batch: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
        """The task that a batch is of (None: the only one), and the batch. Raises UserError for a batch of several tasks."""
        if "valid" in batch:
            return batch.get("task"), batch
        if len(batch) > 1:
            raise UserError(
                "calibration takes batches of one task: give the fit a datamodule, whose calibration_batches() has them"
            )
        ((task_name, inner),) = batch.items()  # a batch for training
        return task_name, inner

    def _here(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in values.items() if isinstance(value, Tensor)}


def build_policy(decoder: nn.Module, tasks: Mapping[str, Task], embedding_rms: float) -> PolicyNetwork:
    """A policy of these tasks with their own encoders and heads, newly initialised from torch's global generator.

    Raises UserError for a backbone that counts positions from the start where a task's episodes have no end, for more
    tokens than the backbone has positions for, and for a `window` that some of its blocks cannot look back over.
    """
    return PolicyNetwork(decoder, {name: _build_networks(decoder, task, embedding_rms) for name, task in tasks.items()})


def _build_networks(decoder: nn.Module, task: Task, embedding_rms: float) -> TaskNetworks:
    width, positions = decoder_width(decoder), learned_positions(decoder)
    if task.window is not None and positions is not None:
        raise UserError(f"task={task.name} needs a backbone with relative positions (model=smollm2, llama2 or qwen2_5)")
    # Encoder, head and the rest around them.
    networks = TaskNetworks(
        task.encoder(width),
        task.head(width),
        width=width,
        max_steps=task.max_steps,
        window=task.window,
        return_scale=task.return_scale,
        relative_return=task.relative_return,
        embedding_rms=embedding_rms,
        conditioned=task.conditioned,
        independent=task.independent,
    )
    # Refuse a backbone that sees fewer tokens than a decision or an episode needs.
    reach = own_window(decoder.config)  # type: ignore[arg-type]
    if networks.band is not None and reach is not None and reach < networks.band:
        raise UserError(
            f"task={task.name}: a decision looks back over {networks.band} tokens, but some blocks of this backbone over no "
            f"more than {reach} (sliding_window in its config.json); choose another model"
        )
    if positions is not None and networks.capacity > positions:
        raise UserError(
            f"task={task.name}: a sequence has up to {networks.capacity} tokens, this backbone "
            f"knows {positions} positions; choose one with relative positions (model=smollm2, llama2 or qwen2_5)"
        )
    return networks
