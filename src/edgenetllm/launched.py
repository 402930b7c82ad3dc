"""A run that torchrun or srun started once for each rank of its fit: the place of this process among them.

Nothing here imports torch: a command that is refused answers at once.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgenetllm.errors import UserError
from edgenetllm.installation import command_of, program_of

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NODELIST")
INTERACTIVE = ("bash", "interactive")  # names of steps that are shells, whose commands are no ranks; as in Lightning
FIRST_PORT = 15_000
PORTS = 17_000  # from the first one on, all below those that systems give out themselves


@dataclass(frozen=True)
class Launch:
    """`ranks` processes on `nodes` machines run the same command; this one is `rank`, and `local_rank` of its machine.

    Rank zero is reached at `address` and `port`. `threads` are those that the launcher gave to each rank, None where it
    gave none.
    """

    launcher: Literal["torchrun", "srun"]
    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    nodes: int
    address: str
    port: int
    threads: int | None

    @property
    def variables(self) -> dict[str, str]:
        """The environment that torch and Lightning read, as torchrun sets it."""
        values = (self.rank, self.ranks, self.local_rank, self.local_ranks, self.address, self.port)
        return {**dict(zip(TORCHRUN, map(str, values), strict=True)), "GROUP_RANK": str(self.rank // self.local_ranks)}


def launched(environment: Mapping[str, str] | None = None) -> Launch | None:
    """The place of this process, by its environment variables; None where it was started by itself.

    Raises UserError for a launcher whose ranks would not find each other, and for a different number of ranks on each node.
    """
    values = os.environ if environment is None else environment
    launch = None
    if _several(values, "WORLD_SIZE") or "TORCHELASTIC_RUN_ID" in values:
        launch = _by_torchrun(values)
    elif _several(values, "SLURM_STEP_NUM_TASKS") and values.get("SLURM_JOB_NAME") not in INTERACTIVE:
        launch = _by_srun(values)
    elif _several(values, "OMPI_COMM_WORLD_SIZE"):
        raise UserError("mpirun started this command several times: start it by torchrun or srun instead")
    if launch is not None and launch.local_ranks * launch.nodes != launch.ranks:
        raise UserError(
            f"{launch.launcher} started {launch.ranks} ranks on {launch.nodes} nodes: start the same number on each"
        )
    return launch


def place_settings(launch: Launch | None, stage: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The resolved configuration with the devices that were started, where it names none.

    Raises UserError, with what to type, where it does not fit to what was started, and for several nodes of which nobody
    started the ranks.
    """
    trainer = settings["trainer"]
    nodes = trainer.get("num_nodes", 1)
    if launch is None:
        if stage == "train" and nodes != 1 and not settings["dry_run"]:
            raise UserError(*_how_to_start(nodes, trainer))
        return settings
    # Several ranks fit the stage and the strategy.
    started = f"{launch.launcher} started {launch.ranks} ranks"
    if launch.ranks > 1 and stage != "train":
        raise UserError(f"{started}, and {program_of(stage)} is one process: type {command_of(stage)} ... without it")
    if launch.ranks > 1 and trainer.get("strategy", "auto") == "auto":
        raise UserError(
            f"{started}, and trainer={trainer.get('name')} fits as one process: type trainer=ddp or trainer=fsdp "
            "(without GPUs with trainer.accelerator=cpu)"
        )
    # Typed numbers of nodes and devices are those that were started; null takes what was started.
    if stage == "train" and nodes != launch.nodes:
        raise UserError(
            f"trainer.num_nodes={nodes}: {started}, {launch.local_ranks} on each node ({launch.nodes} of them): type "
            f"trainer.num_nodes={launch.nodes}, or start more"
        )
    devices = trainer.get("devices", 1)
    if devices is None:
        return {**settings, "trainer": {**trainer, "devices": launch.local_ranks}}
    if stage == "train" and devices != launch.local_ranks:
        raise UserError(
            f"trainer.devices={devices}: {started}, {launch.local_ranks} on each node; type "
            f"trainer.devices={launch.local_ranks}, or leave it at null"
        )
    return settings


def _by_torchrun(values: Mapping[str, str]) -> Launch:
    rank, ranks, local_rank, local_ranks, address, port = _read(values, TORCHRUN, "RANK and WORLD_SIZE", "torchrun")
    return Launch(
        "torchrun",
        int(rank),
        int(ranks),
        int(local_rank),
        int(local_ranks),
        int(values.get("GROUP_WORLD_SIZE") or max(1, int(ranks) // int(local_ranks))),
        address,
        int(port),
        _count(values, "OMP_NUM_THREADS"),
    )


def _by_srun(values: Mapping[str, str]) -> Launch:
    """The place by srun: rank zero is on the first node of the step, at a port that differs between steps of other jobs."""
    rank, ranks, local_rank, nodes, names = _read(values, SRUN, "SLURM_STEP_NUM_TASKS", "srun")
    address = values.get("MASTER_ADDR")
    if address is None:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        address = SLURMEnvironment.resolve_root_node_address(names)
    own_port = FIRST_PORT + (int(values.get("SLURM_JOB_ID", 0)) + int(values.get("SLURM_STEP_ID", 0))) % PORTS
    return Launch(
        "srun",
        int(rank),
        int(ranks),
        int(local_rank),
        max(1, int(ranks) // int(nodes)),
        int(nodes),
        address,
        int(values.get("MASTER_PORT", own_port)),
        _count(values, "OMP_NUM_THREADS") or _count(values, "SLURM_CPUS_PER_TASK"),
    )


def _read(values: Mapping[str, str], names: tuple[str, ...], variables: str, launcher: str) -> list[str]:
    missing = [name for name in names if not values.get(name)]
    if missing:
        raise UserError(
            f"the environment has {variables}, as {launcher} sets them, but not {', '.join(missing)}: start the ranks by "
            f"{launcher}, or unset these variables"
        )
    return [values[name] for name in names]


def _several(values: Mapping[str, str], name: str) -> bool:
    return (_count(values, name) or 1) > 1


def _count(values: Mapping[str, str], name: str) -> int | None:
    """The positive number in a variable; None where it is not set, or is none."""
    text = values.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _how_to_start(nodes: Any, trainer: Mapping[str, Any]) -> list[str]:
    each = trainer.get("devices") or "DEVICES"
    program = shlex.quote(program_of("train").removeprefix("python "))
    return [
        f"trainer.num_nodes={nodes}: the ranks of several nodes are started by torchrun, on every node, or by srun:",
        f"  torchrun --nnodes {nodes} --nproc-per-node {each} --rdzv-backend c10d --rdzv-endpoint HOST:29500 {program} ...",
        f"  srun --kill-on-bad-exit=1 --nodes {nodes} --ntasks-per-node {each} python {program} ...",
    ]
