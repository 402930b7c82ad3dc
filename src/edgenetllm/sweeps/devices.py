"""Training on several devices inside a sweep: a job starts its own ranks, whatever launched it."""

from __future__ import annotations

from typing import Any

from edgenetllm.errors import UserError


def refuse_a_task_per_device(settings: dict[str, Any], launcher: Any) -> None:
    """Raises UserError where the launcher would start one job several times, once for each device.

    That is how scripts that start their ranks by repeating the command line (`sys.argv`, `-m` included) are run under SLURM.
    Here the ranks are children of the job (stages/ranks.py), so that one task is right for any number of devices.
    """
    tasks = launcher.get("tasks_per_node", 1)
    if isinstance(tasks, int) and tasks > 1:
        devices = settings["trainer"]["devices"] or tasks
        raise UserError(
            f"hydra.launcher.tasks_per_node={tasks}: a job starts its own ranks; type hydra.launcher.tasks_per_node=1 "
            f"hydra.launcher.gpus_per_node={devices} trainer.devices={devices}"
        )
