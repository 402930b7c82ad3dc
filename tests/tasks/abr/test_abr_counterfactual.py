"""A small policy that tries the alternatives: the alternatives are real, and it gets better."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgenetllm.experience.rollout import play
from edgenetllm.tasks.abr.expert.counterfactual import CounterfactualSearch, action_values, search, visited
from edgenetllm.tasks.abr.expert.mlp_policy import EnsemblePolicy, MlpPolicy
from edgenetllm.tasks.abr.policies.tuning import mean_reward
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment


def test_clones_in_one_environment_go_on_as_they_would_have(training):
    """Copies taken at different chunks, some of them twice, against the environments that they were taken from."""
    rng = np.random.default_rng(0)
    training.reset(np.arange(5))
    taken, expected = [], []
    for number in range(4):
        taken.append(training.clone(np.array([number, number, 4])))
        training.step(training.sample(rng))
    together = AbrEnvironment.together(taken)
    actions = rng.integers(0, 6, (3, 12))
    for part, start in zip(taken, range(0, 12, 3), strict=True):
        rewards = [part.clone().step(actions[0, start : start + 3])[1]]
        for row in actions:
            rewards.append(part.step(row[start : start + 3])[1])
        np.testing.assert_array_equal(rewards[0], rewards[1])  # stepping a clone leaves its origin alone
        expected.append(rewards[1:])
    observed = [together.step(row)[1] for row in actions]
    np.testing.assert_array_equal(np.array(observed), np.concatenate(expected, axis=1))


def test_action_values_are_what_playing_on_earns(training):
    torch.manual_seed(0)
    policy = MlpPolicy(hidden=8)
    states = visited(training, policy, 2, 0.5, np.random.default_rng(1))
    values = action_values(states, policy, 5)
    assert values.shape == (2 * 47, 6)
    for state, action in [(3, 0), (50, 5), (93, 2)]:
        alone = states.clone(np.array([state]))
        observation, total, _ = alone.step(np.array([action]))
        for _ in range(4):
            observation, reward, _ = alone.step(policy.act(observation))
            total = total + reward
        assert values[state, action] == pytest.approx(float(total[0]), abs=1e-12)


@pytest.mark.slow
def test_it_beats_the_teacher_that_it_was_cloned_from(task):
    """From BBA, which looks at the buffer alone: the simulator must teach what it cannot see."""
    teacher = task.baselines()["bba"]

    class Certain:
        name = "certain"

        def start(self, episodes):
            teacher.start(episodes)

        def act(self, observation):
            return teacher.act(observation)

        def targets(self, observation):
            return np.eye(6, dtype=np.float32)[teacher.act(observation)]

    def score(policy) -> float:
        return float(play(task.environment("val"), task.seeds("val"), policy).reward.mean())

    options = CounterfactualSearch(members=1, clone_episodes=50, clone_epochs=8, iterations=30, episodes=16, horizon=10)
    policy, curve = search(lambda: task.environment("train"), score, Certain(), options, seed=0, progress=False)
    assert score(policy) == max(row["validation"] for row in curve)
    assert score(policy) > score(teacher) + 0.05
    again, _ = search(lambda: task.environment("train"), score, Certain(), options, seed=0, progress=False)
    assert again.identity() == policy.identity()


def test_an_interrupted_search_goes_on_to_the_same_policy(task, tmp_path):
    small = {"clone_episodes": 10, "clone_epochs": 1, "iterations": 4, "episodes": 4, "horizon": 3, "validate_every": 2}
    options = CounterfactualSearch(members=2, **small)
    whole, curve = options.search(task, 3, tmp_path / "whole", progress=False)
    assert [(row["member"], row["iteration"]) for row in curve] == [
        *((m, i) for m in (0, 1) for i in (0, 2, 4)),
        (2, 4),
    ]
    assert (np.diff([row["steps"] for row in curve]) >= 0).all()
    assert (np.diff([row["seconds"] for row in curve]) >= 0).all()
    assert options.search(task, 3, tmp_path / "whole", progress=False)[0].identity() == whole.identity()  # at once
    calls = []

    def stop(policy) -> float:
        calls.append(policy)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return mean_reward(task.environment("val"), task.seeds("val"), policy)

    arguments = (task.teacher(), options, 3, False, tmp_path / "part-0")
    with pytest.raises(KeyboardInterrupt):
        search(lambda: task.environment("train"), stop, *arguments)
    resumed, again = options.search(task, 3, tmp_path / "part", progress=False)
    known = [{**row, "seconds": 0} for row in curve]
    assert [{**row, "seconds": 0} for row in again] == known
    assert resumed.identity() == whole.identity()
    assert options.load(whole.state_dict()).identity() == whole.identity()


def test_together_they_say_the_mean_of_what_each_says(training):
    torch.manual_seed(1)
    members = [MlpPolicy(hidden=8) for _ in range(3)]
    observation = training.reset(np.arange(7))
    together = EnsemblePolicy(members)
    expected = np.mean([member.targets(observation) for member in members], axis=0)
    np.testing.assert_allclose(together.targets(observation), expected, rtol=1e-6)
    np.testing.assert_array_equal(together.act(observation), expected.argmax(1))
