"""Checks of a task's encoder and head: what they compute, in parts and step by step, around a tiny backbone."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgenetllm.experience.datamodule import BatchShard, EpisodeDataset
from edgenetllm.experience.pool import SCHEMA, read_pool, write_pool
from edgenetllm.experience.rollout import play
from edgenetllm.models.session import Session
from edgenetllm.stages.examined import WIDTH, Examined, Violation
from edgenetllm.tasks.task import Observation

SEQUENCES = 5  # in a batch
DECISIONS = 12  # of a sequence


class Watched(Session):
    """A session that keeps the hidden states of its decisions."""

    def start(self, episodes: int) -> None:
        super().start(episodes)
        self.states: list[Tensor] = []

    def hidden(self, observation: Observation) -> tuple[Tensor, Mapping[str, Tensor]]:
        hidden, embedded = super().hidden(observation)
        self.states.append(hidden)
        return hidden, embedded


def networks(seen: Examined) -> None:
    """Shapes and types of what the encoder and the head compute on a batch of the pool."""
    model, batch = seen.model, _batch(seen)
    shape = batch["valid"].shape
    with torch.no_grad():
        embedded = model.encoder.embed(batch["observation"])
        state, action = model.encoder.state(embedded), model.encoder.action(batch["action"], embedded)
        _require("encoder.state()", state, (*shape, model.encoder.tokens_per_step, WIDTH))
        _require("encoder.action()", action, (*shape, WIDTH))
        hidden = model.hidden(embedded, batch["return_to_go"], batch["action"])
        decided = model.head.decide(hidden, embedded)
        drawn = model.head.decide(hidden, embedded, torch.Generator().manual_seed(0))
    for what, value in (("head.decide()", decided), ("head.decide() with a generator", drawn)):
        if value.shape != batch["action"].shape or value.is_floating_point() != batch["action"].is_floating_point():
            raise Violation(
                f"{what} gives {value.dtype} {tuple(value.shape)}, the policies {batch['action'].dtype} "
                f"{tuple(batch['action'].shape)}"
            )
    loss = model.loss(batch, batch["observation"])
    if loss.shape != () or not torch.isfinite(loss) or not loss.requires_grad:
        raise Violation(f"head.loss() must be one finite number with a gradient, not {loss}")


def _require(what: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape or value.dtype != torch.float32 or not torch.isfinite(value).all():
        raise Violation(f"{what} must be finite float32 {shape}, not {value.dtype} {tuple(value.shape)}")


def loss(seen: Examined) -> None:
    """The mean of the losses of the parts of a batch is its loss, and steps outside of the mask do not count."""
    dataset, model = EpisodeDataset(seen.pool, seen.task.segment), seen.model
    chosen = list(range(min(SEQUENCES, len(dataset))))
    parts = [dataset[BatchShard(chosen[:1], chosen, 2)], dataset[BatchShard(chosen[1:], chosen, 2)]]
    batch: Any = dataset[chosen]
    with torch.no_grad():
        whole = model.loss(batch, batch["observation"])
        by_parts = torch.stack([model.loss(part, part["observation"]) for part in parts]).mean()  # type: ignore[arg-type]
        if not _close(whole, by_parts):
            raise Violation(
                f"head.loss() of a batch is {whole:.5g}, the mean over its two parts {by_parts:.5g}: divide sums over the "
                "mask by `counts` where they are given, else by `self.counts(...)`"
            )
        embedded = model.encoder.embed(batch["observation"])
        hidden = model.hidden(embedded, batch["return_to_go"], batch["action"])
        mask = batch["valid"].clone()
        mask[:, mask.shape[1] // 2 :] = False
        spoilt = torch.where(mask[..., None], hidden, 100 * torch.randn_like(hidden))
        rest = (embedded, batch["action"], batch.get("target"), mask)
        if not _close(model.head.loss(hidden, *rest), model.head.loss(spoilt, *rest)):
            raise Violation("head.loss() counts steps outside of the mask")


def step_by_step(seen: Examined) -> None:
    """A session with a cache, one step after another, computes what whole sequences at once do."""
    task, model = seen.task, seen.model
    session = Watched(model, float(np.median(seen.pool.returns)), "session")
    played = play(task.environment("test"), seen.test, session, keep_observations=True, limit=DECISIONS)
    left = np.zeros(played.reward.shape) if played.return_to_go is None else played.return_to_go
    with tempfile.TemporaryDirectory() as folder:
        write_pool(Path(folder) / "pool", [played], {"schema": SCHEMA, "task": seen.task.name})
        batch: Any = EpisodeDataset(read_pool(Path(folder) / "pool"))[list(range(len(seen.test)))]
    with torch.inference_mode():
        embedded = model.encoder.embed(batch["observation"])
        whole = model.hidden(embedded, torch.from_numpy(left).float(), batch["action"])
        decided = model.head.decide(whole, embedded)
    steps = torch.cat(session.states, dim=1)
    real = torch.from_numpy(played.valid)
    apart = (steps - whole).abs()[real].max()
    if not _close(steps[real], whole[real]):
        raise Violation(
            f"a decision of a session differs from that of the whole sequence (hidden state by {apart:.2g}): the encoder "
            "must treat each step by itself, without what lies before or after it"
        )
    if not _close(decided[real].float(), batch["action"][real].float()):
        raise Violation("head.decide() of a whole sequence differs from its decisions one by one")
    if task.conditioned and not task.relative_return:
        expected = session.target_return - np.cumsum(played.reward, axis=1)
        if not np.allclose(left[:, 1:], expected[:, :-1], rtol=1e-6):
            raise Violation("the return-to-go that is left in a session does not shrink by the rewards")


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def _batch(seen: Examined) -> Any:
    dataset = EpisodeDataset(seen.pool, seen.task.segment)
    return dataset[list(range(min(SEQUENCES, len(dataset))))]
