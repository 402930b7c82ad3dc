"""The settings of each task of a run, as those of a run of that task alone.

A run of several tasks (task=abr+cjs) has, under `task` and `data`, a node for each task. Anywhere else a value may differ by
task: a mapping from the names of all tasks to values stands for it. A run of one task has the node itself.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from edgenetllm.errors import UserError


def task_names(settings: dict[str, Any]) -> list[str]:
    """The tasks of a run, in order."""
    several = named_tasks(settings["task"])
    return several or [str(settings["task"]["name"])]


def named_tasks(node: Any) -> list[str]:
    """The names of the `_target_` nodes of several tasks, or of their data, below a group; none of the node of one."""
    if not isinstance(node, dict) or "_target_" in node:
        return []
    return [name for name, inner in node.items() if isinstance(inner, dict) and "_target_" in inner]


def task_settings(settings: dict[str, Any], task_name: str) -> dict[str, Any]:
    """The settings of a run of this task alone. Raises UserError when there is no data set for it."""
    names = named_tasks(settings["task"])
    if not names:
        return settings
    data = settings["data"].get(task_name)
    if not isinstance(data, dict):
        each = " ".join(f"data@data.{one}=..." for one in names)
        raise UserError(
            f"data={settings['data'].get('name')} is not for task={settings['task'].get('name')}, which needs a data set "
            f"for each task: type data={'+'.join('...' for _ in names)} (such as fcc+tpch), or {each}"
        )
    own = {"task": settings["task"][task_name], "data": data}
    return {group: own[group] if group in own else _of(node, task_name, set(names)) for group, node in settings.items()}


def _of(node: Any, name: str, names: Set[str]) -> Any:
    """`node` with every mapping by task replaced by its value for the task `name`."""
    if isinstance(node, dict):
        return _of(node[name], name, names) if set(node) == names else {k: _of(v, name, names) for k, v in node.items()}
    return [_of(value, name, names) for value in node] if isinstance(node, list) else node
