"""Checks of the classes and arguments in sections that take more than their own options, before any of them is built."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgenetllm.nodes import HYDRA_KEYS, added, node_problems, target_problems
from edgenetllm.sections import Callbacks, Logger, Module, Training
from edgenetllm.trainer_options import trainer_problems

# What each kind of node has to be a subclass of, by the name of its definition: nothing is imported to check it.
CALLBACK = "lightning.pytorch.callbacks.callback.Callback"
LOGGER = "lightning.pytorch.loggers.logger.Logger"
OPTIMIZER = "torch.optim.optimizer.Optimizer"
SCHEDULER = "torch.optim.lr_scheduler.LRScheduler"
MODULE = "edgenetllm.models.module.AdaptationModule"
# Arguments that a run gives to each of its callbacks.
CALLBACK_ARGUMENTS = {
    "best": ("folder", "monitor", "mode"),
    "last": ("folder",),
    "early_stopping": ("monitor", "mode", "patience"),
    "progress_bar": (),
    "pruning": ("method", "pruning", "sparsity", "seed", "progress", "monitor", "text"),
    "export": (
        "folder", "values", "mask", "group", "compensate", "compression", "target_returns", "adapter", "parent"
    ),
}  # fmt: skip
GIVEN_FROM = {
    "best": "the task's first metric",
    "last": "paths.log_dir",
    "early_stopping": "the task's first metric",
    "pruning": "pruning=..., sparsity=..., seed=...",
    "export": "export=..., pruning.lora=...",
}
# Callbacks that cannot be left out, and why.
REQUIRED_CALLBACKS = {
    "best": "it is the checkpoint that is pruned",
    "last": "resume=true goes on from it",
    "pruning": "type sparsity=0 for a dense bundle",
    "export": "the bundle is what is evaluated",
}
# Arguments that a run gives to its LightningModule.
MODULE_ARGUMENTS = (
    "policy", "tasks", "backbone", "target_returns", "task_weights", "adapter_lr", "task_lr", "weight_decay",
    "warmup_steps", "total_steps",
)  # fmt: skip


def open_section_problems(settings: dict[str, Any]) -> list[str]:
    """Sentences on what is wrong with nodes and arguments that were added to groups which take more than their own."""
    problems = [*_module_problems(settings), *_callback_problems(settings)]
    for group, schema, base, filled in (
        ("callbacks", Callbacks, CALLBACK, ()),
        ("logger", Logger, LOGGER, ("save_dir",)),
    ):
        known = [name for name in schema.model_fields if name != "name"]
        nodes = {key: node for key, node in added(settings.get(group)).items() if key not in schema.model_fields}
        problems += node_problems(group, nodes, known, base, filled)
    if isinstance(node := added(settings.get("specialise")).get("module"), dict):
        if "_target_" in node:
            problems += target_problems("specialise.module", node, MODULE, MODULE_ARGUMENTS)
        else:
            problems.append("specialise.module has no class: +specialise.module._target_=package.module.Class")
    own = [name for name in Training.model_fields if name != "target"]
    return problems + trainer_problems(added(settings.get("trainer")), own)


def _callback_problems(settings: dict[str, Any]) -> list[str]:
    """Sentences on what is wrong with the callbacks that every run has."""
    section = settings.get("callbacks") or {}
    nodes = {key: node for key, node in added(section).items() if key in CALLBACK_ARGUMENTS}
    left_out = [key for key in REQUIRED_CALLBACKS if key in section and key not in nodes]
    problems = [f"callbacks.{key} cannot be left out: {REQUIRED_CALLBACKS[key]}" for key in left_out]
    for key, node in nodes.items():
        if isinstance(node, bool):  # progress_bar
            continue
        known = list(CALLBACK_ARGUMENTS)
        problems += node_problems("callbacks", {key: node}, known, CALLBACK, CALLBACK_ARGUMENTS[key])
        problems += _given_twice(key, node)
    if section.get("patience") is not None and "early_stopping" in section and "early_stopping" not in nodes:
        problems.append(f"callbacks.patience={section['patience']} needs callbacks.early_stopping")
    return problems


def _given_twice(key: str, node: Any) -> list[str]:
    """Sentences on arguments of a callback that the run gives to it from other options."""
    names = [name for name in node if name not in HYDRA_KEYS] if isinstance(node, dict) else []
    given = set(CALLBACK_ARGUMENTS[key]) - {"patience"}
    if key == "pruning" and names:
        from edgenetllm.pruning.options import Pruning  # imports torch: only where an argument is typed

        given |= {field.name for field in dataclasses.fields(Pruning)}
    typed = [name for name in names if name in given]
    return [f"callbacks.{key}.{name} is given by the run, from other options ({GIVEN_FROM[key]})" for name in typed]


def _module_problems(settings: dict[str, Any]) -> list[str]:
    """Sentences on what is wrong with the LightningModule, the optimizer and the scheduler."""
    module = added(settings.get("module"))
    extra = {key: value for key, value in module.items() if key not in ("name", "optimizer", "scheduler")}
    target = Module.model_fields["target"].default
    problems = target_problems("module", {"_target_": target, **extra}, MODULE, MODULE_ARGUMENTS)
    for name, base, filled in (
        ("optimizer", OPTIMIZER, ("params",)),
        ("scheduler", SCHEDULER, ("optimizer", "total_steps")),
    ):
        node = (settings.get("module") or {}).get(name)
        if isinstance(node, dict) and "_target_" not in node:
            problems.append(f"module.{name} has no class: +module.{name}._target_=package.module.Class")
        elif isinstance(node, dict):
            problems += target_problems(f"module.{name}", node, base, filled)
    return problems
