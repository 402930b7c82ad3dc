"""Objects added from YAML or the command line: named `_target_` nodes in the groups `callbacks` and `logger`, and arguments
of the Trainer. They are checked by their signatures before anything is built."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import import_module
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pydantic import TypeAdapter, ValidationError

from edgenetllm.errors import UserError
from edgenetllm.option_schema import in_words
from edgenetllm.signatures import Arguments, Described, NotThere, read_described

HYDRA_KEYS = ("_target_", "_args_", "_convert_", "_partial_", "_recursive_")  # keys of a node that are no arguments
BUILDING = (
    ImportError,
    TypeError,
    ValueError,
    RuntimeError,
    LookupError,
    AttributeError,
    OSError,
    InstantiationException,
)


def unknown_key(key: str, known: Collection[str]) -> str:
    """The sentence for a mistyped key, with the nearest of the known ones."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"{key} is not a key of the configuration" + (f"; did you mean {near[0]}?" if near else "")


def added(section: Mapping[str, Any] | None) -> dict[str, Any]:
    """The nodes that were added to a section, next to its own options; null is the same as not there."""
    return {name: node for name, node in (section or {}).items() if node is not None}


def node_problems(
    group: str, nodes: Mapping[str, Any], known: Collection[str], base: str, filled: Collection[str] = ()
) -> list[str]:
    """A sentence for every named node that no `base` (the dotted name of its definition) can be built from.

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


def target_problems(path: str, node: Mapping[str, Any], base: str | None, filled: Collection[str] = ()) -> list[str]:
    """A sentence for everything that is wrong with a `_target_` node, also with nodes inside of it."""
    target = node["_target_"]
    try:
        described = describe(target)
    except ImportError as error:
        return [f"{path}._target_={target}: {error}"]
    if described is None:
        return [f"{path}._target_={target} is no class"]
    if base is not None and described.is_class and base not in described.bases:
        return [f"{path}._target_={target} is no {base.partition('.')[0]} {base.rpartition('.')[2]}"]
    return argument_problems(path, described.arguments, node, filled)


def argument_problems(
    path: str, accepted: Arguments, node: Mapping[str, Any], filled: Collection[str] = ()
) -> list[str]:
    """A sentence for every argument that is not accepted, for every value that its type does not allow, and for every
    argument that is needed and not given."""
    given = [key for key in node if key not in HYDRA_KEYS]
    problems = [one for key in given for one in _inner(f"{path}.{key}", node[key])]
    if not accepted.open:
        known = [f"{path}.{name}" for name in accepted.names if name not in filled]
        leave = f"{node['_target_']} does not take it; leave it away: ~{path}"
        problems += [
            f"{unknown_key(f'{path}.{key}', known)} ({leave}.{key})" for key in given if key not in accepted.names
        ]
    problems += [
        problem
        for key in given
        if key in accepted.types and (problem := _type_problem(f"{path}.{key}", accepted.types[key], node[key]))
    ]
    if "_args_" not in node:
        missing = [name for name in accepted.required if name not in given and name not in filled]
        problems += [f"{path}.{name} is missing: {node['_target_']} needs it (+{path}.{name}=...)" for name in missing]
    return problems


def _type_problem(path: str, kind: Any, value: Any) -> str | None:
    """The sentence on a value that the annotation of its argument does not allow; None where it does."""
    if isinstance(value, Mapping) and "_target_" in value:  # what it builds is seen when it is built
        return None
    adapter = TypeAdapter(kind)
    try:
        adapter.validate_python(value)
    except ValidationError:
        return f"{path}={value!r}: give {in_words(adapter.json_schema())}"
    return None


def describe(target: Any) -> Described | None:
    """The class or function of a dotted name: by its source where that says all, else by importing it.

    None for what is neither. Raises ImportError that says what is not there, with the nearest name that is.
    """
    _check_dotted(target)
    try:
        if (described := read_described(target)) is not None:
            return described
    except NotThere as error:
        raise ImportError(f"{error}{_did_you_mean(error.module, error.name, error.near)}") from None
    target_object = locate(target)
    if not callable(target_object):
        return None
    if not isinstance(target_object, type):
        return Described(target, arguments_of(target_object), {}, is_class=False)
    bases = {f"{one.__module__}.{one.__qualname__}": arguments_of(one) for one in target_object.__mro__[:-1]}
    return Described(target, arguments_of(target_object), bases)


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
    _check_dotted(target)
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
        raise ImportError(f"{module} has no {name}{_did_you_mean(module, name, dir(owner))}")
    return getattr(owner, name)


def _check_dotted(target: Any) -> None:
    if not isinstance(target, str) or "." not in target or not all(part.isidentifier() for part in target.split(".")):
        raise ImportError("give the dotted name of a class, package.module.Class")


def _did_you_mean(module: str, name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {module}.{near[0]}?" if near else ""


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
    from lightning.fabric.utilities.exceptions import MisconfigurationException  # Lightning takes seconds

    try:
        made = instantiate({"_convert_": "all", **node}, _partial_=True)(**filled)
    except (*BUILDING, MisconfigurationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        reason = f"{type(cause).__name__}: {cause}"
        raise UserError(f"{path}: {node['_target_']} cannot be built ({reason})") from error
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
