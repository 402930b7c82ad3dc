"""Earlier names in a saved configuration: classes that moved, options and presets that are called otherwise now."""

from __future__ import annotations

from typing import Any

ABR = "edgenetllm.tasks.abr."
CJS = "edgenetllm.tasks.cjs."
MOVED = {
    f"{ABR}datasets.": f"{ABR}data.datasets.",
    f"{ABR}improvement.Improvement": f"{ABR}expert.counterfactual.CounterfactualSearch",
    f"{CJS}datasets.": f"{CJS}data.datasets.",
    f"{CJS}improvement.Improvement": f"{CJS}expert.evolution.Evolution",
}


def current(saved: dict[str, Any]) -> dict[str, Any]:
    """The same configuration under the present names."""
    renamed: dict[str, Any] = _targets(saved)
    experience = renamed.get("experience")
    if isinstance(experience, dict) and "improvement" in experience:
        experience["expert"] = experience.pop("improvement")
        experience["name"] = _renamed(experience.get("name"), "iterated", "expert")
        experience["shares"] = _policies(experience.get("shares"))
    engine = renamed.get("engine")
    if isinstance(engine, dict) and engine.get("name") == "torch":
        engine.setdefault("_target_", "edgenetllm.edge.engines.torch.TorchEngine")
    return renamed


def current_choices(saved: dict[str, Any]) -> dict[str, Any]:
    """The same choices of config groups under the present names."""
    return {group: _renamed(option, "iterated", "expert") if group == "experience" else option
            for group, option in saved.items()}  # fmt: skip


def _targets(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _target(value) if key == "_target_" else _targets(value) for key, value in node.items()}
    return [_targets(value) for value in node] if isinstance(node, list) else node


def _policies(entries: Any) -> Any:
    """The entries of the pool, or those of each task, with the policy `improved` under its present name."""
    if isinstance(entries, list):
        return [_policies(entry) for entry in entries]
    if not isinstance(entries, dict):
        return entries
    if "policy" in entries:
        return {**entries, "policy": _renamed(entries["policy"], "improved", "expert")}
    return {task_name: _policies(own) for task_name, own in entries.items()}


def _target(target: Any) -> Any:
    for old, new in MOVED.items():
        if isinstance(target, str) and target.startswith(old):
            return new + target.removeprefix(old)
    return target


def _renamed(value: Any, old: str, new: str) -> Any:
    return new if value == old else value
