"""Training on several devices inside a sweep: which launchers can, and what to type instead."""

from __future__ import annotations

from typing import Any

from edgenetllm.errors import UserError


def refuse_script_launched_ranks(settings: dict[str, Any], launcher: Any) -> None:
    """Raises UserError when a job would need ranks that Lightning starts by running this command again.

    With trainer.devices > 1 Lightning starts the other ranks by repeating the command line (`sys.argv`): with `-m` each of
    them would start the whole sweep, and a worker of joblib or Ray has another command line altogether. Where SLURM starts
    one task for each device, Lightning starts nothing and every task runs the same job.
    """
    devices = settings["trainer"].get("devices", 1)
    if not isinstance(devices, int) or devices <= 1:
        return
    if str(launcher.get("_target_", "")).endswith("SlurmLauncher"):
        tasks = launcher.get("tasks_per_node", 1)
        if tasks == devices:
            return
        raise UserError(
            f"trainer.devices={devices} under launcher=slurm needs a task for each device: add "
            f"hydra.launcher.tasks_per_node={devices} hydra.launcher.gpus_per_node={devices}"
        )
    raise UserError(
        f"trainer.devices={devices} with -m: Lightning would start the other ranks by running this command again, sweep and "
        f"all. Type launcher=slurm hydra.launcher.tasks_per_node={devices} hydra.launcher.gpus_per_node={devices}, where "
        "SLURM starts the ranks, or run the jobs one by one without -m"
    )
