"""Targets that are learnt from a decision: certain of an action, or as probable as its score says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgenetllm.experience.datamodule import EpisodeDataset
from edgenetllm.experience.pool import SCHEMA, read_pool, write_pool
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.cjs.columns import SCHEDULABLE
from edgenetllm.tasks.cjs.expert.evolution import WideRule
from edgenetllm.tasks.cjs.networks.head import PointerHead
from edgenetllm.tasks.cjs.networks.targets import intended_action, top_choices
from edgenetllm.tasks.cjs.policies.targets import LENGTH, TOP_CHOICES, one_hot_target, softmax_target
from edgenetllm.tasks.cjs.policies.wide_rule import WIDE_WEIGHTS


def test_probabilities_are_those_of_the_scores():
    scores = np.array([[0.0, 0.4, -np.inf, -np.inf], [-np.inf] * 4, [3.0, 2.9, 2.8, 0.0]])
    actions = np.array([[1, 5], [-1, 0], [0, 2]])
    target = softmax_target(actions, scores, 0.2)
    assert target.shape == (3, LENGTH)
    np.testing.assert_array_equal(target[:, :2], actions)
    for row in (0, 2):
        expected = np.exp(scores[row] / 0.2) / np.exp(scores[row] / 0.2).sum()
        assert dict(zip(target[row, 2::2], target[row, 3::2], strict=True))[1] == pytest.approx(expected[1], rel=1e-6)
        assert target[row, 3::2].sum() == pytest.approx(1)
        assert target[row, 2] == expected.argmax()
    np.testing.assert_array_equal(target[1], one_hot_target(actions)[1])


def test_of_many_stages_the_likeliest_share_it_all():
    scores = np.random.default_rng(0).normal(size=(1, 30))
    target = softmax_target(np.array([[scores.argmax(), 1]]), scores, 1.0)
    np.testing.assert_array_equal(target[0, 2::2], np.argsort(-scores[0])[:TOP_CHOICES])
    assert target[0, 3::2].sum() == pytest.approx(1)


def test_a_rules_probabilities_peak_at_what_it_does(cjs_task):
    rng = np.random.default_rng(1)
    start = cjs_task.teacher().weights
    rule = WideRule(start + 0.3 * rng.normal(size=len(WIDE_WEIGHTS)))
    environment = cjs_task.environment("train")
    observation, done, shared = environment.reset(np.arange(5)), np.zeros(5, bool), 0
    while not done.all():
        action = rule.act(observation)
        target = rule.targets(observation)
        several = observation["stages"].values[..., SCHEDULABLE].sum(1) > 1
        np.testing.assert_array_equal(target[~done, 2], action[~done, 0])
        np.testing.assert_array_equal(target[:, :2], action)
        shared += int((target[several & ~done, 3] < 1).sum())
        assert (target[~several & ~done, 3] == 1).all()
        observation, _, done = environment.step(action)
    assert shared > 50


def test_what_is_not_in_the_list_is_not_in_the_target():
    """A batch may have no longer list than this one's, where place 2 does not exist."""
    target = softmax_target(np.array([[1, 5]]), np.array([[0.0, 0.4, -np.inf]]), 0.2)
    assert target[0, 2::2].tolist() == [1, 0] + [0] * (TOP_CHOICES - 2)
    assert (target[0, 3::2] > 0).tolist() == [True, True] + [False] * (TOP_CHOICES - 2)


def test_the_loss_is_the_cross_entropy_with_them(cjs_task, tmp_path):
    """Through the pool: against probabilities laid out stage by stage, next to steps that have none."""
    rule = WideRule(cjs_task.teacher().weights, temperature=1.0)
    played = play(cjs_task.environment("train"), np.arange(3), rule, keep_observations=True)
    write_pool(tmp_path / "pool", [played], {"schema": SCHEMA, "task": "cjs"}, cjs_task.reference_returns(np.arange(3)))
    pool = read_pool(tmp_path / "pool")
    pool.target[:, ::3] = 0  # as where a policy that says nothing has played
    batch = EpisodeDataset(pool, cjs_task.segment)[[0, 2]]
    encoder, head = cjs_task.encoder(16), cjs_task.head(16)
    assert isinstance(head, PointerHead)
    embedded = encoder.embed(batch["observation"])
    hidden = encoder.state(embedded)[:, :, 0]
    action, target, mask = batch["action"], batch["target"], batch["valid"]
    logits, index, probability = head.logits(hidden, embedded), *top_choices(action, target)
    of_stage, steps = 0.0, 0
    for b, t in mask.nonzero().tolist():
        wanted = torch.zeros(logits.shape[-1])
        for k in range(TOP_CHOICES):
            wanted[1 + index[b, t, k]] += probability[b, t, k]
        assert wanted.sum() == pytest.approx(1)
        of_stage += torch.nn.functional.cross_entropy(logits[b, t], wanted).item()
        steps += 1
    known = intended_action(action, target)
    counted = head.executor_logits(hidden, embedded, known[..., 0])[mask]
    label = torch.minimum(known[..., 1][mask], (counted > -1e8).sum(-1)) - 1
    of_executors = torch.nn.functional.cross_entropy(counted, label).item()
    assert head.loss(hidden, embedded, action, target, mask).item() == pytest.approx(
        of_stage / steps + of_executors, rel=1e-4
    )
