"""Names that a saved configuration may hold: the folder behind `run=` may be somebody else's, and no code of theirs may run.

Before anything is built from it, every `_target_` of a saved configuration has to be a class of this package that a config
group needs, one of the kinds of Lightning's or torch's classes that its group takes (callbacks, loggers, profilers,
optimizers, schedulers), or lie in a package that this command trusts (`trust=[mylab]`); what the folder itself says of trust
does not count.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from edgenetllm.errors import UserError

# Modules with the classes that config groups build: tasks and their data, experts, backbones, adapters, the LightningModule
# and its callbacks, pruning, recovery, export, engines, placements.
MODELS = tuple(
    f"edgenetllm.models.{name}."
    for name in ("backbone", "hub", "wheel", "adapters", "module", "schedule", "checkpoint", "patience", "progress")
)
EDGE = ("edgenetllm.edge.callback.", "edgenetllm.edge.engines.", "edgenetllm.placement.placements.")
ROOMS = ("edgenetllm.tasks.", *MODELS, "edgenetllm.pruning.", *EDGE, "edgenetllm.specialisation.module.")
# Group -> classes of Lightning and torch that it takes: the module that they come from, and what they are a subclass of.
FAMILIES = {
    "callbacks": (("lightning.pytorch.callbacks.", "Callback"),),
    "logger": (("lightning.pytorch.loggers.", "Logger"),),
    "trainer": (("lightning.pytorch.profilers.", "Profiler"),),
    "module": (
        ("torch.optim.lr_scheduler.", "LRScheduler"),
        ("torch.optim.", "Optimizer"),
    ),
}
TRAINERS = ("lightning.Trainer", "lightning.pytorch.Trainer")
PLACES = re.compile(r"dir|path|url|uri|host|location|settings|config", re.IGNORECASE)  # where a logger writes or sends
PRUNERS = ("optuna.pruners.",)  # that stop the trials of a search
GROUP = re.compile(r"[a-z][a-z0-9_]*(/[a-z][a-z0-9_]*)*(@[A-Za-z0-9_.+]+)?")
OPTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")


def check_saved(saved: Any, trusted: Sequence[str], source: str) -> None:
    """Raises UserError, naming `source`, for a `_target_` that is not trusted, and for an interpolation: a saved
    configuration is resolved, and one that reads the environment of another user is not one of ours."""
    for path, value in _leaves(saved, ""):
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{source}: {path} holds an interpolation ({value[:60]!r}), which a saved configuration has not"
            )
    for path, target in _targets(saved, ""):
        if not _is_of_a_family(path, target):
            check_target(target, trusted, f"{source}: {path}")
    if "lightning" not in trusted:
        _check_places(saved, source)


def _is_of_a_family(path: str, target: Any) -> bool:
    """True where `target` is one of the classes that the group of `path` may take from other packages."""
    if path == "trainer._target_" and target in TRAINERS:
        return True
    for room, base in FAMILIES.get(path.partition(".")[0], ()):
        if not isinstance(target, str) or not re.fullmatch(rf"{re.escape(room)}[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", target):
            continue
        target_class, family = _locate(target), _locate(f"{room}{base}")
        if (
            inspect.isclass(target_class)
            and f"{target_class.__module__}.".startswith(room)
            and issubclass(target_class, family)
        ):
            return True
    return False


def _check_places(saved: Any, source: str) -> None:
    """Raises UserError for a logger of Lightning's that would write outside of the run's folder, or send somewhere."""
    loggers = saved.get("logger") if isinstance(saved, Mapping) else None
    for name, node in loggers.items() if isinstance(loggers, Mapping) else ():
        if not isinstance(node, Mapping) or not _is_of_a_family(f"logger.{name}", node.get("_target_")):
            continue
        for path, value in _leaves(node, f"logger.{name}"):
            option = path.removeprefix(f"logger.{name}.")
            if option == "_target_":
                continue
            if PLACES.search(option) or (isinstance(value, str) and re.search(r"[/\\~]|\.\.", value)):
                raise UserError(
                    f"{source}: {path}={value!r} may say where a logger writes, or what it sends to; if this run is "
                    "your own, type trust=[lightning]"
                )


def check_target(target: Any, trusted: Sequence[str], where: str, rooms: Sequence[str] = ROOMS) -> None:
    """Raises UserError unless `target` is the dotted name of a class in one of the `rooms`, or of what a trusted package
    itself defines."""
    if isinstance(target, str) and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target):
        own = any(target.startswith(room) for room in rooms)
        packages = [name for name in trusted if target.startswith(f"{name}.")]
        if own or packages:
            target_object = _locate(target)
            home = f"{getattr(target_object, '__module__', '')}."
            if own and inspect.isclass(target_object) and any(home.startswith(room) for room in rooms):
                return
            if callable(target_object) and any(home.startswith(f"{name}.") for name in packages):
                return
    package = str(target).partition(".")[0]
    hint = f"if you trust that package, type trust=[{package}]" if package.isidentifier() else "the folder was altered"
    raise UserError(
        f"{where}={target!r} is no class that a configuration of this project builds, and was not built; {hint}"
    )


def check_pruner(node: Any, trusted: Sequence[str], source: str) -> None:
    """Raises UserError unless every `_target_` of a stored pruner is one of Optuna's, or trusted."""
    for path, target in _targets(node, ""):
        check_target(target, trusted, f"{source}.{path}", PRUNERS)


def check_saved_choices(choices: Mapping[Any, Any], source: str) -> None:
    """Raises UserError unless every entry is a config group and a name of an option, as they are put on a command line."""
    for group, option in choices.items():
        options = option if isinstance(option, list) else [option]
        names = all(one is None or (isinstance(one, str) and OPTION.fullmatch(one)) for one in options)
        if not (isinstance(group, str) and GROUP.fullmatch(group) and names) or "hydra" in group:
            raise UserError(f"{source}: {group!r}: {option!r} is no choice of a config group; the folder was altered")


def _locate(target: str) -> Any:
    """The object of a dotted name, by the longest part of it that is a module; None where there is none."""
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:end])
        try:
            if find_spec(name) is None:
                continue
            located: Any = import_module(name)
        except (ImportError, ValueError):
            continue
        for attribute in parts[end:]:
            located = inspect.getattr_static(located, attribute, None)
        return located
    return None


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{path}.{key}".lstrip("."), key
            yield from _leaves(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{path}[{number}]")
    else:
        yield path, node


def _targets(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    for where, value in _containers(node, path):
        if "_target_" in value:
            yield f"{where}._target_".lstrip("."), value["_target_"]


def _containers(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        yield path, node
        for key, value in node.items():
            yield from _containers(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _containers(value, f"{path}[{number}]")
