"""The policy that a specialisation begins with: from a bundle, with its own encoder and head or with new ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lightning as L

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.engine import load_backbone, load_policy, load_whole_policy
from edgenetllm.errors import UserError
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.tasks.task import Task

SCRATCH = "type specialise.scratch=true to begin with a new encoder and head on its backbone"


def tasks_of(bundle: Path) -> list[str]:
    """The names of the tasks that a bundle plays."""
    return read_bundle(bundle, lazily=True).manifest.task.split("+")


def start_policy(bundle: Path, tasks: Mapping[str, Task], scratch: bool, seed: int) -> PolicyNetwork:
    """The policy of these tasks on the backbone of a bundle, in float32.

    Its encoders and heads are those of the bundle, or with `scratch` new ones, a function of the seed. Raises UserError for
    a bundle that is damaged, and for one that does not play these tasks or whose encoder or head have other shapes, unless
    it is to begin from scratch.
    """
    if scratch:
        decoder, rms = load_backbone(bundle)
        L.seed_everything(seed, verbose=False)
        return build_policy(decoder, tasks, rms).eval()
    known = tasks_of(bundle)
    unknown = [name for name in tasks if name not in known]
    if unknown:
        raise UserError(f"{bundle} plays {' and '.join(known)}, not {unknown[0]}: {SCRATCH}")
    if len(tasks) > 1 and set(tasks) != set(known):
        raise UserError(f"{bundle} plays {' and '.join(known)}: specialise one of these tasks, or all of them")
    try:
        if len(tasks) > 1:
            return load_whole_policy(bundle, tasks)
        return load_policy(bundle, next(iter(tasks.values())))[0]
    except UserError as error:
        if "does not fit" not in str(error):
            raise
        raise UserError(
            f"{error}: encoder or head have other shapes on this data (another number of bitrates or executors, another "
            f"layout of tokens); {SCRATCH}"
        ) from None


def plays(bundle: Path, task: Task) -> bool:
    """True where a bundle has an encoder and a head for this task as it is configured."""
    if task.name not in tasks_of(bundle):
        return False
    try:
        start_policy(bundle, {task.name: task}, scratch=False, seed=0)
    except UserError:
        return False
    return True
