"""Earlier names of the classes that a saved configuration may hold: a run from before they moved is read as ever."""

from __future__ import annotations

from typing import Any

MOVED = {
    "edgenetllm.tasks.abr.datasets.": "edgenetllm.tasks.abr.data.datasets.",
    "edgenetllm.tasks.abr.improvement.": "edgenetllm.tasks.abr.expert.improvement.",
    "edgenetllm.tasks.cjs.datasets.": "edgenetllm.tasks.cjs.data.datasets.",
    "edgenetllm.tasks.cjs.improvement.": "edgenetllm.tasks.cjs.expert.improvement.",
}


def current(node: Any) -> Any:
    """The same containers with every `_target_` under its present name."""
    if isinstance(node, dict):
        return {key: _renamed(value) if key == "_target_" else current(value) for key, value in node.items()}
    return [current(value) for value in node] if isinstance(node, list) else node


def _renamed(target: Any) -> Any:
    if isinstance(target, str):
        for old, new in MOVED.items():
            if target.startswith(old):
                return new + target.removeprefix(old)
    return target
