"""Forms of earlier versions in which checkpoints, bundles and runs of one task have no name of the task.

What is by task now was, in a run of one task, the value alone, and its tensors had no prefix; of several tasks the tensors
had the prefix `parts.<task>.`. Readers of stored files translate here; nothing else knows the earlier forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")
# Tensors that a policy of one task had at its top.
TASK_TENSORS = ("encoder.", "head.", "return_to_go.", "time.", "norm.")


def by_task(value: Any, task_names: Iterable[str]) -> Any:
    """Task -> value; a value alone is that of the only task there is. Anything else is returned as it is."""
    names = list(task_names)
    return value if isinstance(value, Mapping) or len(names) != 1 else {names[0]: value}


def current_names(tensors: Mapping[str, Value], task_names: Iterable[str], prefix: str = "") -> dict[str, Value]:
    """The same values under the present names of the tensors, or of layers, of a policy of these tasks.

    `prefix` stands before each of the policy's own names, such as `policy.` in a checkpoint.
    """
    names = list(task_names)

    def current(name: str) -> str:
        own = name.removeprefix(prefix)
        if own.startswith("parts."):
            return f"{prefix}tasks.{own.removeprefix('parts.')}"
        return f"{prefix}tasks.{names[0]}.{own}" if len(names) == 1 and own.startswith(TASK_TENSORS) else name

    return {current(name): value for name, value in tensors.items()}
