"""A run of several tasks, seen as one run for each: what the settings of each of them are.

Such a run (task=abr+cjs) has, under `task` and `data`, a node for each task. Anywhere else a value may differ by task: a
mapping from the names of all tasks to values stands for it.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any, TypeVar

from edgenetllm.errors import UserError

Value = TypeVar("Value")


def part_names(settings: dict[str, Any]) -> list[str]:
    """The tasks of a run of several, in order; empty for a run of one."""
    task = settings["task"]
    if not isinstance(task, dict) or "_target_" in task:
        return []
    return [name for name, node in task.items() if isinstance(node, dict) and "_target_" in node]


def part_settings(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of a run of this task alone. Raises UserError when there is no data set for it."""
    names = part_names(settings)
    data = settings["data"].get(name)
    if not isinstance(data, dict):
        each = " ".join(f"data@data.{one}=..." for one in names)
        raise UserError(
            f"data={settings['data'].get('name')} is not for task={settings['task'].get('name')}, which needs a data set "
            f"for each task: type data={'+'.join('...' for _ in names)} (such as fcc+tpch), or {each}"
        )
    own = {"task": settings["task"][name], "data": data}
    return {group: own[group] if group in own else _of(node, name, set(names)) for group, node in settings.items()}


def _of(node: Any, name: str, names: Set[str]) -> Any:
    """`node` with every mapping by task replaced by its value for the task `name`."""
    if isinstance(node, dict):
        return _of(node[name], name, names) if set(node) == names else {k: _of(v, name, names) for k, v in node.items()}
    return [_of(value, name, names) for value in node] if isinstance(node, list) else node


def value_of(value: Value | dict[str, Value], name: str) -> Value:
    """What is one value in a run of one task, and a value for each task in a run of several."""
    return value[name] if isinstance(value, dict) else value


def by_key(facts: dict[str, dict[str, Value]]) -> dict[str, dict[str, Value]]:
    """Facts of each task (task -> key -> value) as facts whose values differ by task (key -> task -> value)."""
    keys = next(iter(facts.values()))
    return {key: {name: own[key] for name, own in facts.items()} for key in keys}
