"""The configuration that a run saved, and files of options of a user: plain YAML, with the groups that a run has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgenetllm.errors import UserError
from edgenetllm.moved import current
from edgenetllm.plain_files import read_yaml
from edgenetllm.run import CONFIG_FILE
from edgenetllm.trust import check_saved

NEEDED_GROUPS = (  # that every version saves
    "task", "data", "model", "adapter", "experience", "pruning", "recovery", "engine", "trainer", "evaluation", "budget",
)  # fmt: skip


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file of a run, its interpolations left as they are. Raises UserError when it is damaged."""
    content = read_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} is not a configuration: it has no names of options")
    return content


def read_saved(folder: Path, composed: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a run saved.

    Raises UserError for one that has not the groups of `composed`, the configuration of this call, and for one that names
    anything to build that this call does not trust.
    """
    trusted = composed["trust"]
    if not isinstance(trusted, list) or not all(isinstance(name, str) for name in trusted):
        raise UserError(f"trust={trusted}: give packages, such as trust=[mylab]")
    saved: dict[str, Any] = current(read_config(folder / CONFIG_FILE))
    shared = [key for key in composed if key in saved]
    other = [key for key in shared if isinstance(composed[key], dict) != isinstance(saved[key], dict)]
    wrong = [f"{key} is {saved[key]!r:.60}" for key in other]
    wrong += [f"{key} is missing" for key in NEEDED_GROUPS if key not in saved]
    if wrong:
        raise UserError(f"{folder / CONFIG_FILE}: {wrong[0]}: it is not the configuration of a run")
    check_saved(saved, trusted, str(folder / CONFIG_FILE))
    return saved


def check_own_options(folder: Path) -> None:
    """Raises UserError for a file of options in the folder that `--config-dir` names that is no plain YAML, which Hydra would
    expand whatever it stands for."""
    for path in sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}*.yaml")):
        read_yaml(path)


def varied_by(sweep: Path) -> set[str]:
    """The keys that the file of an option of the group `sweep` varies. Raises UserError for a damaged one."""
    node: Any = read_yaml(sweep)
    for name in ("hydra", "sweeper", "params"):
        node = node.get(name) if isinstance(node, dict) else None
    return {str(key) for key in node} if isinstance(node, dict) else set()
