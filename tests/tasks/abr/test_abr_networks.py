"""Encoder and head: shapes, scales, gradients, and the loss by hand."""

import numpy as np
import pytest
import torch

from edgenetllm.experience.rollout import play
from edgenetllm.tasks.abr.networks.encoder import FusedEncoder, PerFeatureEncoder, plain_features, raw_features
from edgenetllm.tasks.abr.policies.baselines import Bba
from edgenetllm.tasks.abr.simulator.qoe import LEVELS
from edgenetllm.tasks.common.heads import ChoiceHead

WIDTH = 16


@pytest.fixture
def observation(environment):
    """(12, 47, ...) as a data loader gives it."""
    episodes = play(environment, np.arange(12), Bba(), keep_observations=True)
    columns = {name: torch.as_tensor(value) for name, value in episodes.observation.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in columns.items()}


@pytest.mark.parametrize("features", ["raw", "plain"])
@pytest.mark.parametrize(("make", "tokens"), [(FusedEncoder, 1), (PerFeatureEncoder, 6)])
def test_encoder(observation, make, tokens, features):
    encoder = make(WIDTH, features)
    state = encoder.state(observation)
    assert encoder.tokens_per_step == tokens
    assert state.shape == (12, 47, tokens, WIDTH)
    assert encoder.action(torch.zeros(12, 47, dtype=torch.long), observation).shape == (12, 47, WIDTH)
    state.sum().backward()
    assert all(p.grad is not None for name, p in encoder.named_parameters() if not name.startswith("actions"))


@pytest.mark.parametrize("make", [FusedEncoder, PerFeatureEncoder])
def test_a_step_is_encoded_alone(observation, make):
    """A session encodes step by step, training whole episodes: both must see the same tokens."""
    encoder = make(WIDTH)
    whole = encoder.state(observation)
    single = encoder.state({name: value[:, 10:11] for name, value in observation.items()})
    torch.testing.assert_close(single, whole[:, 10:11])


def test_features_are_about_unit_size(observation):
    for name, value in raw_features(observation).items():
        assert value.shape[:2] == (12, 47)
        assert torch.isfinite(value).all()
        assert value.abs().max() < 6, name


def test_plain_features_are_linear_in_what_is_observed(observation):
    """Twice the numbers, twice the features: no logarithm; the bitrate is a number, too."""
    numbers = {name: value for name, value in observation.items() if name != "last_quality"}
    once = plain_features(observation)
    twice = plain_features(
        {**{name: 2 * value for name, value in numbers.items()}, "last_quality": observation["last_quality"]}
    )
    for name in set(once) - {"bitrate"}:
        torch.testing.assert_close(twice[name], 2 * once[name])
        assert once[name].abs().max() < 20, name
    bitrates = plain_features({**observation, "last_quality": torch.full((12, 47), 5)})["bitrate"]
    assert bitrates.shape == (12, 47, 1)
    assert (bitrates == 1).all()


def test_loss_of_hard_and_soft_targets():
    torch.manual_seed(0)
    head = ChoiceHead(WIDTH, LEVELS)
    hidden, action = torch.randn(2, 5, WIDTH), torch.randint(6, (2, 5))
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    log_p = head.linear(hidden).log_softmax(-1)
    target = torch.randn(2, 5, 6).softmax(-1)
    hard = -log_p.gather(-1, action[..., None])[..., 0][mask].mean()
    soft = -(target * log_p).sum(-1)[mask].mean()
    torch.testing.assert_close(head.loss(hidden, {}, action, None, mask), hard)
    torch.testing.assert_close(head.loss(hidden, {}, action, target, mask), soft)
    spoilt = hidden.clone()
    spoilt[1, 2:] = 1e3  # padding
    torch.testing.assert_close(head.loss(spoilt, {}, action, target, mask), soft)


def test_decisions_are_greedy_or_sampled():
    torch.manual_seed(0)
    head = ChoiceHead(WIDTH, LEVELS)
    hidden = torch.randn(1, 1, WIDTH).expand(4000, 1, WIDTH)
    greedy = head.decide(hidden, {})
    assert greedy.shape == (4000, 1)
    assert (greedy == head.logits(hidden, {}).argmax(-1)).all()
    drawn = head.decide(hidden, {}, torch.Generator().manual_seed(1))
    assert (drawn == head.decide(hidden, {}, torch.Generator().manual_seed(1))).all()
    share = torch.bincount(drawn.flatten(), minlength=6) / 4000
    torch.testing.assert_close(share, head.logits(hidden, {})[0, 0].softmax(-1), atol=0.03, rtol=0)
