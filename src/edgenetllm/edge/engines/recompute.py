"""Engine `recompute`: no cache, the whole window of tokens at every decision. The yardstick of what a cache saves."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn

from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.engines.engine import Engine, Name
from edgenetllm.edge.engines.session import DecoderSession, Floats
from edgenetllm.models.causal import run_whole
from edgenetllm.tasks.task import Task


@plain_dataclass
class Tokens:
    """All tokens that can still influence a decision, (episodes, n, width)."""

    tokens: Floats
    reach: int | None  # number of last tokens that the last hidden state depends on; None: on all
    band: int | None


class WholeWindow:
    """A decoder that keeps tokens instead of keys and values, and runs over all of them again.

    With a band, a token sees band - 1 before it in each block, so that after all blocks the last hidden state depends on
    blocks * (band - 1) + 1 tokens: no more are kept, and the numbers are those of a cache.
    """

    def __init__(self, decoder: nn.Module) -> None:
        self.decoder = decoder

    def start(self, episodes: int, *, capacity: int, band: int | None) -> Tokens:
        reach = None if band is None else int(self.decoder.config.num_hidden_layers) * (band - 1) + 1  # type: ignore
        return Tokens(np.zeros((episodes, 0, 0), np.float32), reach, band)

    def extend(self, state: Tokens, tokens: Floats) -> Floats:
        kept = tokens if state.tokens.shape[1] == 0 else np.concatenate([state.tokens, tokens], axis=1)
        state.tokens = kept if state.reach is None else kept[:, -state.reach :]
        device = next(self.decoder.parameters()).device
        hidden = run_whole(self.decoder, torch.from_numpy(state.tokens).to(device), state.band)
        return hidden[:, -1].cpu().numpy()


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class RecomputeEngine(Engine):
    """As slow as NetLLM's inference: every decision computes all tokens of its window again, in torch."""

    name: Name = "recompute"

    def load(self, bundle: Path, task: Task, sample_seed: int | None = None) -> DecoderSession:
        policy, target_return = load_policy(bundle, task)
        return DecoderSession(policy, target_return, WholeWindow(policy.decoder), self.name, sample_seed)
