"""Sequence layout and the cached session: both must compute the same function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import ARCHITECTURES, make_policy, make_task

from edgenetllm.experience.rollout import play
from edgenetllm.models.session import Session


@pytest.mark.parametrize("tokens", ["fused", "per_feature"])
def test_cached_and_uncached_logits_agree(architecture, tokens):
    task = make_task(tokens)
    policy = make_policy(task, architecture)
    logits: list[torch.Tensor] = []
    session = Session(policy, 40.0, "test")
    original = policy.head.decide

    def decide(hidden, observation, generator=None):
        logits.append(policy.head.logits(hidden, observation))
        return original(hidden, observation, generator)

    policy.head.decide = decide  # type: ignore[method-assign]
    episodes = play(task.environment("val"), task.seeds("val"), session, keep_observations=True)
    observation = {k: torch.from_numpy(np.asarray(v)).float() for k, v in episodes.observation.items()}
    wanted = torch.from_numpy(episodes.return_to_go).float()
    with torch.inference_mode():
        hidden = policy.hidden(observation, wanted, torch.from_numpy(episodes.action))
        whole = policy.head.logits(hidden, observation)
    assert torch.cat(logits, 1).shape == whole.shape == (6, 47, 6)
    torch.testing.assert_close(torch.cat(logits, 1), whole, atol=2e-5, rtol=1e-4)


def test_a_decision_does_not_see_its_own_action_or_the_future(task):
    policy = make_policy(task, ARCHITECTURES["llama"])
    torch.manual_seed(1)
    names = ("last_quality", "buffer_s", "throughput_mbps", "delay_s", "chunks_left")
    observation = {name: torch.rand(1, 5) for name in names} | {"next_sizes_mb": torch.rand(1, 5, 6)}
    wanted, action = torch.rand(1, 5), torch.tensor([[0, 1, 2, 3, 4]])
    before = policy.hidden(observation, wanted, action)
    changed = policy.hidden(observation, wanted, torch.tensor([[0, 1, 5, 3, 4]]))
    torch.testing.assert_close(before[:, :3], changed[:, :3])
    assert not torch.allclose(before[:, 3:], changed[:, 3:])


def test_return_to_go_shrinks_by_what_was_earned(task):
    session = Session(make_policy(task, ARCHITECTURES["llama"]), 30.0, "test")
    episodes = play(task.environment("val"), task.seeds("val"), session)
    left = 30.0 - np.cumsum(episodes.reward, axis=1)
    np.testing.assert_allclose(episodes.return_to_go[:, 1:], left[:, :-1])


def test_greedy_is_deterministic_and_sampling_follows_its_seed(task):
    policy = make_policy(task, ARCHITECTURES["llama"])

    def actions(seed: int | None) -> np.ndarray:
        return play(task.environment("val"), task.seeds("val"), Session(policy, 30.0, "test", seed)).action

    np.testing.assert_array_equal(actions(None), actions(None))
    np.testing.assert_array_equal(actions(1), actions(1))
    assert (actions(1) != actions(2)).any()
