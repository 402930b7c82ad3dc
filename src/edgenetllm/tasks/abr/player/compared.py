"""A session of the player next to the simulator, which plays the same chunks in the player's own qualities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment

Columns = Mapping[str, npt.NDArray[np.float64]]  # of one session: name -> (decisions,)
COMPARED = ("delay_s", "buffer_s", "rebuffer_s", "reward")


def simulate(
    environment: AbrEnvironment, episode: int, actions: npt.NDArray[np.int64], waited_s: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[np.float64]]:
    """The simulator's record, name -> (decisions,), of an episode played by known actions (decisions,).

    Before each of them pass the seconds `waited_s` that the decision took, in an environment that knows of such time.
    """
    environment.reset(np.array([episode]))
    rows = []
    for action, waited in zip(actions, waited_s, strict=True):
        if hasattr(environment, "wait"):
            environment.wait(np.array([waited]))
        _, reward, _ = environment.step(np.array([action]))
        rows.append({**environment.record(), "reward": reward})
    return {name: np.array([float(row[name][0]) for row in rows]) for name in (*COMPARED, "clock_s")}


def differences(played: Columns, simulated: Columns) -> dict[str, npt.NDArray[np.float64]]:
    """The player minus the simulator of each decision, `<name>_minus_simulator` -> (decisions,)."""
    return {f"{name}_minus_simulator": played[name] - simulated[name] for name in COMPARED}
