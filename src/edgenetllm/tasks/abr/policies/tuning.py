"""robustMPC's two safety constants, tuned on validation traces."""

from __future__ import annotations

import itertools

import numpy as np

from edgenetllm.tasks.abr.policies.mpc import Mpc
from edgenetllm.tasks.task import Array, Environment, Policy

SCALES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def tune(environment: Environment, seeds: Array, template: Mpc) -> tuple[float, float]:
    """(bandwidth_scale, error_weight) of the highest mean reward over the episodes of `seeds`, from a grid of 30."""
    scores = {}
    for scale, weight in itertools.product(SCALES, WEIGHTS):
        policy = Mpc("tuning", template.videos, template.qoe, scale, weight)
        scores[scale, weight] = mean_reward(environment, seeds, policy)
    return max(scores, key=lambda pair: scores[pair])


def mean_reward(environment: Environment, seeds: Array, policy: Policy) -> float:
    """Per decision, over whole episodes."""
    observation, rewards, done = environment.reset(seeds), [], np.zeros(len(seeds), bool)
    policy.start(len(seeds))
    while not done.all():
        observation, reward, done = environment.step(policy.act(observation))
        rewards.append(reward)
    return float(np.mean(rewards))
