"""Sessions of the player next to the simulator, whose clock is real here: all time that passes moves the trace's clock."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.task import Policy

Floats = npt.NDArray[np.float64]
COMPARED = ("delay_s", "buffer_s", "rebuffer_s", "reward")


def simulate(
    environment: AbrEnvironment, episode: int, actions: npt.NDArray[np.int64], waited_s: Floats, lag_s: Floats
) -> dict[str, Floats]:
    """The simulator's record, name -> (decisions,), of an episode played by known actions (decisions,).

    Each chunk is asked for the seconds `waited_s` after the one before it has arrived; the buffer is that of `lag_s` seconds
    after its own arrival, when the player was asked for it. Both (decisions,).
    """
    environment.reset(np.array([episode]))
    rows, passed = [], 0.0
    for action, waited, lag in zip(actions, waited_s, lag_s, strict=True):
        environment.wait(np.array([max(waited - passed, 0.0)]))
        _, reward, _ = environment.step(np.array([action]))
        record = environment.record()
        environment.wait(np.array([lag]))
        rows.append({**record, "reward": reward, "buffer_s": environment.observe()["buffer_s"]})
        passed = lag
    return {name: np.array([float(row[name][0]) for row in rows]) for name in (*COMPARED, "clock_s")}


def predict(environment: AbrEnvironment, episodes: npt.NDArray[np.int64], policy: Policy, wait_s: float) -> Floats:
    """The mean reward of each episode, (episodes,), of a policy whose decisions take `wait_s` seconds."""
    observation = environment.reset(episodes)
    policy.start(len(episodes))
    rewards = []
    for _ in range(environment.chunks - 1):
        action = policy.act(observation)
        environment.wait(np.full(len(episodes), wait_s))
        observation, reward, _ = environment.step(action)
        if hasattr(policy, "observe"):
            policy.observe(reward)
        rewards.append(reward)
    return np.mean(rewards, 0)


def differences(played: Mapping[str, Floats], simulated: Mapping[str, Floats]) -> dict[str, Floats]:
    """The player minus the simulator of each decision, `<name>_minus_simulator` -> (decisions,)."""
    return {f"{name}_minus_simulator": played[name] - simulated[name] for name in COMPARED}
