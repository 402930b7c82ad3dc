"""Objects added from YAML or the command line: named `_target_` nodes in the groups `callbacks` and `logger`, and arguments
of the Trainer. They are checked by their signatures before anything is built."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException

from edgenetllm.errors import UserError

HYDRA_KEYS = ("_target_", "_args_", "_convert_", "_partial_", "_recursive_")  # keys of a node that are no arguments
BUILDING = (ImportError, TypeError, ValueError, RuntimeError, MisconfigurationException, InstantiationException)


def unknown_key(key: str, known: Collection[str]) -> str:
    """The sentence for a mistyped key, with the nearest of the known ones."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"{key} is not a key of the configuration" + (f"; did you mean {near[0]}?" if near else "")


def added(section: Mapping[str, Any] | None) -> dict[str, Any]:
    """The nodes that were added to a section, next to its own options; null is the same as not there."""
    return {name: node for name, node in (section or {}).items() if node is not None}


def node_problems(
    group: str, nodes: Mapping[str, Any], known: Collection[str], base: type, filled: Collection[str] = ()
) -> list[str]:
    """A sentence for every named node that no `base` can be built from.

    `known` are the group's own options, `filled` the arguments that are given when the object is built.
    """
    problems = []
    for name, node in nodes.items():
        path = f"{group}.{name}"
        if not isinstance(node, Mapping):
            mistyped = unknown_key(path, [f"{group}.{key}" for key in known])
            problems.append(f"{mistyped}; what is added is a class: +{path}._target_=package.module.Class")
            continue
        if "_target_" not in node:
            problems.append(f"{path} is no option of {group}, and has no class: +{path}._target_=package.module.Class")
            continue
        problems += target_problems(path, node, base, filled)
    return problems


def target_problems(path: str, node: Mapping[str, Any], base: type | None, filled: Collection[str] = ()) -> list[str]:
    """A sentence for everything that is wrong with a `_target_` node, also with nodes inside of it."""
    target = node["_target_"]
    try:
        target_object = locate(target)
    except ImportError as error:
        return [f"{path}._target_={target}: {error}"]
    if base is not None and isinstance(target_object, type) and not issubclass(target_object, base):
        return [f"{path}._target_={target} is no {base.__module__.partition('.')[0]} {base.__name__}"]
    if not callable(target_object):
        return [f"{path}._target_={target} is no class"]
    return argument_problems(path, target_object, node, filled)


def argument_problems(path: str, function: Any, node: Mapping[str, Any], filled: Collection[str]) -> list[str]:
    """A sentence for every argument that `function` does not take, and for every one that it needs and does not get."""
    given = [key for key in node if key not in HYDRA_KEYS]
    problems = [one for key in given for one in _inner(f"{path}.{key}", node[key])]
    accepted = arguments_of(function)
    if not accepted.open:
        known = [f"{path}.{name}" for name in accepted.names if name not in filled]
        leave = f"{node['_target_']} does not take it; leave it away: ~{path}"
        problems += [
            f"{unknown_key(f'{path}.{key}', known)} ({leave}.{key})" for key in given if key not in accepted.names
        ]
    if "_args_" not in node:
        missing = [name for name in accepted.required if name not in given and name not in filled]
        problems += [f"{path}.{name} is missing: {node['_target_']} needs it (+{path}.{name}=...)" for name in missing]
    return problems


class Arguments(NamedTuple):
    """The arguments that a class or function takes by name; `open` to any other name."""

    names: list[str]
    required: list[str]
    open: bool


def arguments_of(function: Any) -> Arguments:
    """The arguments by the signature; open, with no names, where there is none."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return Arguments([], [], True)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = [p.name for p in named if p.default is p.empty]
    return Arguments([p.name for p in named], required, any(p.kind == p.VAR_KEYWORD for p in parameters))


def _inner(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield from target_problems(path, value, None)
            return
        for key, inner in value.items():
            yield from _inner(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _inner(f"{path}[{number}]", inner)


def locate(target: Any) -> Any:
    """The object of a dotted name. Raises ImportError that says what is not there, with the nearest name that is."""
    if not isinstance(target, str) or not all(target.split(".")) or "." not in target:
        raise ImportError("give the dotted name of a class, package.module.Class")
    module, _, name = target.rpartition(".")
    try:
        owner = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ImportError(f"{module} cannot be imported ({error})") from error
        if "." not in module:
            raise ImportError(f"there is no package {module} on PYTHONPATH") from None
        owner = locate(module)  # a class inside of a class
    except Exception as error:  # whatever the module does when it is imported
        raise ImportError(f"{module} cannot be imported ({type(error).__name__}: {error})") from error
    if not hasattr(owner, name):
        near = difflib.get_close_matches(name, dir(owner), n=1, cutoff=0.6)
        raise ImportError(f"{module} has no {name}" + (f"; did you mean {module}.{near[0]}?" if near else ""))
    return getattr(owner, name)


def targets_in(node: Any) -> Iterator[str]:
    """Every `_target_` in a node."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from targets_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets_in(value)


def build(path: str, node: Mapping[str, Any], base: type, **filled: Any) -> Any:
    """The object of a `_target_` node; `filled` are arguments besides those of the node.

    Raises UserError, naming `path`, where it cannot be built or is no `base`.
    """
    try:
        made = instantiate({"_convert_": "all", **node}, _partial_=True)(**filled)
    except BUILDING as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        raise UserError(f"{path}: {node['_target_']} cannot be built ({type(cause).__name__}: {cause})") from error
    if not isinstance(made, base):
        raise UserError(
            f"{path}._target_={node['_target_']} gives a {type(made).__name__}, which is no {base.__name__}"
        )
    return made


def factory(path: str, node: Mapping[str, Any], base: type, **filled: Any) -> Callable[..., Any]:
    """A function that builds the object of a `_target_` node, as soon as it is given the other arguments.

    Of `filled`, it gets those that its class takes and its node does not have. Raises UserError like `build`.
    """
    names = arguments_of(locate(node["_target_"])).names
    given = {key: value for key, value in filled.items() if key in names and key not in node}

    def make(argument: Any) -> Any:
        first = names[0] if names else "optimizer"
        return build(path, node, base, **{first: argument}, **given)

    return make
