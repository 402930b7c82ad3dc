"""Several devices for a job, and a sweep: who starts the ranks, and what does not go together.

The first process of a fit starts the others itself (stages/ranks.py), with any launcher. What does not work is a command that
is started once for each rank by somebody else: with `-m` every one of them would run the whole sweep.
"""

from __future__ import annotations

import os
from typing import Any

from edgenetllm.errors import UserError

STARTED_BY = {"LOCAL_RANK": "torchrun or Lightning", "OMPI_COMM_WORLD_RANK": "mpirun"}


def refuse_to_start_in_ranks() -> None:
    """Raises UserError when this process is one of several that were started with the same command line."""
    launchers = [who for name, who in STARTED_BY.items() if name in os.environ]
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in os.environ:
        launchers.append("srun")
    if launchers:
        raise UserError(
            f"-m was started once for each rank (by {launchers[0]}), and each would run the whole sweep. Start it once: with "
            "trainer=ddp (or fsdp) trainer.devices=n each job starts its own ranks; with launcher=slurm each job is a job of "
            "SLURM, and hydra.launcher.gpus_per_node=n gives it the devices"
        )


def check_devices(settings: dict[str, Any], launcher: Any) -> None:
    """Raises UserError for a launcher that would run a job more than once, or show it fewer devices than it wants.

    So for jobs on several nodes, whose ranks nobody would start.
    """
    if (nodes := settings["trainer"].get("num_nodes", 1)) != 1:
        raise UserError(
            f"trainer.num_nodes={nodes}: a job of a sweep fits on one node: leave it at 1, or start each such run "
            "by torchrun or srun, without -m"
        )
    tasks = int(launcher.get("tasks_per_node") or 1) * int(launcher.get("nodes") or 1)
    if tasks > 1:
        raise UserError(
            f"hydra.launcher starts each job {tasks} times (tasks_per_node, nodes), but a job starts its ranks itself: leave "
            "both at 1 and give it the devices with hydra.launcher.gpus_per_node=n trainer=ddp trainer.devices=n"
        )
    several = settings["trainer"].get("strategy", "auto") != "auto" or (settings["trainer"].get("devices") or 1) > 1
    if several and settings["launcher"]["gpus"] > 0:
        raise UserError(
            f"launcher.gpus={settings['launcher']['gpus']} gives each job one GPU, and trainer={settings['trainer']['name']} "
            "wants several: type launcher=basic for jobs one after another, each with all GPUs"
        )
