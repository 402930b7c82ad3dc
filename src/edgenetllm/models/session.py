"""Inference of many episodes side by side: KV cache and the return-to-go that is left."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgenetllm.errors import NotFinite
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.models.stored import values_hash
from edgenetllm.tasks.task import Array, Observation, Ragged


def to_tensors(observation: Observation, device: torch.device) -> dict[str, Tensor]:
    """(episodes, ...) arrays -> (episodes, 1, ...) tensors; floating point becomes float32, Ragged `x` `x` and `x_count`."""
    arrays: dict[str, Array] = {}
    for name, value in observation.items():
        if isinstance(value, Ragged):
            arrays[name], arrays[f"{name}_count"] = value.values, value.count
        else:
            arrays[name] = value
    tensors = {}
    for name, value in arrays.items():
        tensor = torch.from_numpy(np.ascontiguousarray(value)).to(device)
        tensors[name] = (tensor.float() if tensor.is_floating_point() else tensor)[:, None]
    return tensors


class Session:
    """A policy of one task that plays: `start`, then `act` and `observe` in turn. Greedy, unless a sampling seed is given.

    Per decision only the tokens that are new are computed: the action just taken, the return-to-go that is left, the state.
    Independent decisions begin with an empty cache each. `return_to_go` is None in a task that is not conditioned.
    """

    def __init__(self, policy: PolicyNetwork, target_return: float, name: str, sample_seed: int | None = None) -> None:
        self.policy, self.networks = policy, policy.networks()
        self.name = name
        self.target_return = target_return
        self.sample_seed = sample_seed

    def identity(self) -> str:
        """A hash of all weights, the return-to-go, and the seed of sampled decisions."""
        weights = values_hash(self.policy.state_dict())
        return f"Session({weights}, {self.target_return}, sample_seed={self.sample_seed})"

    def start(self, episodes: int) -> None:
        self.device = self.networks.norm.weight.device
        self.start_decoder(episodes)
        self.episodes = episodes
        conditioned = self.networks.conditioned
        self.return_to_go = np.full(episodes, self.target_return, np.float64) if conditioned else None
        self.step = 0
        self.before: tuple[Tensor, Mapping[str, Tensor]] | None = None  # the last action, and what it was chosen on
        self.generator = None
        if self.sample_seed is not None:
            self.generator = torch.Generator(self.device).manual_seed(self.sample_seed)

    def start_decoder(self, episodes: int) -> None:
        """Forget what the decoder has seen."""
        self.cache = self.policy.new_cache()

    def extend(self, tokens: Tensor) -> Tensor:
        """Append tokens (episodes, n, width); hidden state of the last one, (episodes, 1, width)."""
        return self.policy.extend(tokens, self.cache)

    @torch.inference_mode()
    def hidden(self, observation: Observation) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Hidden state (episodes, 1, width) of this decision, and the embedded observation; advances the cache."""
        embedded = self.networks.encoder.embed(to_tensors(observation, self.device))
        left = np.zeros(self.episodes) if self.return_to_go is None else self.return_to_go
        return_to_go = torch.from_numpy(left).to(self.device, torch.float32)[:, None]
        if self.networks.independent and self.step:
            self.start_decoder(self.episodes)
        tokens = self.networks.step_tokens(embedded, return_to_go, self.step).flatten(1, 2)
        if self.before is not None:
            before = self.networks.action_tokens(*self.before, self.step - 1).flatten(1, 2)
            tokens = torch.cat([before, tokens], dim=1)
        return self.extend(tokens), embedded

    @torch.inference_mode()
    def act(self, observation: Observation) -> Array:
        hidden, embedded = self.hidden(observation)
        if not hidden.isfinite().all():
            raise NotFinite(f"the hidden state of decision {self.step} is not finite: the policy cannot decide")
        action = self.networks.head.decide(hidden, embedded, self.generator)
        self.before = None if self.networks.independent else (action, embedded)
        self.step += 1
        return action[:, 0].cpu().numpy()

    def took(self, action: Array) -> None:
        """Put the action that was really taken, (episodes, ...), in the place of the one just decided."""
        if self.networks.independent:
            return
        assert self.before is not None
        decided, embedded = self.before
        self.before = (torch.from_numpy(np.asarray(action)).to(decided)[:, None], embedded)

    def decide(self, observation: Observation) -> Array:
        """The same as `act`, under the name that every engine's session has."""
        return self.act(observation)

    def targets(self, observation: Observation) -> npt.NDArray[np.float32] | None:
        return None

    def observe(self, reward: npt.NDArray[np.float64]) -> None:
        """Subtract the reward, (episodes,), from the return-to-go, unless that is relative to a reference's return."""
        if self.return_to_go is not None and not self.networks.relative_return:
            self.return_to_go = self.return_to_go - reward
