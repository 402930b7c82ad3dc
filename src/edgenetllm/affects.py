"""The influence of an option, written down at the option itself; identities of stored results are derived from it.

An option influences everything, the experience pool included, unless the class that owns it says less:

    tokens: Annotated[str, Affects("adaptation")]   # how the pool is read, not what is in it
    test: Annotated[int, Affects("evaluation")]     # only what is replayed
    data_dir: Annotated[Path, Affects("nothing")]   # where something lies

The mark is read from fields of pydantic models, from dataclasses, and from the annotated arguments of any other class, so
that a class in another package says it in the same way. An option whose mark cannot be read counts as one that matters.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Stage = Literal["pool", "adaptation", "pruning", "evaluation", "nothing"]
STAGES: tuple[Stage, ...] = ("pool", "adaptation", "pruning", "evaluation", "nothing")  # each influences what follows


@dataclass(frozen=True)
class Affects:
    """The first stage whose result an option can change."""

    stage: Stage


@dataclass(frozen=True)
class Location(Affects):
    """The option says where something lies, and follows `paths.data_dir` or `paths.cache_dir` of each command."""

    of: Literal["data_dir", "cache_dir"]
    stage: Stage = field(default="nothing", kw_only=True)


def later(one: Stage, other: Stage) -> Stage:
    """The stage of the two that comes later: an option influences no more than the group that it lies in."""
    return max(one, other, key=STAGES.index)


def options_for(stage: Stage, settings: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """Dotted key, as it is typed -> value, of the resolved `settings` that can change the result of `stage`.

    `schema` is the class whose annotations describe the top level. A group whose options it describes itself, as a pydantic
    model, is described by that, any other node with a `_target_` by the class of this name; lists are values. An empty group
    is a value too.
    """
    reach = STAGES[: STAGES.index(stage) + 1]
    found: dict[str, Any] = {}

    def walk(node: Mapping[str, Any], owner: type | None, prefix: str, above: Stage) -> None:
        marks, groups = (marks_of(owner), groups_of(owner)) if owner is not None else ({}, {})
        for key, value in node.items():
            at = later(above, marks[key].stage if key in marks else "pool")
            if at not in reach:
                continue
            if isinstance(value, Mapping) and value:
                group = groups.get(key)
                described = hasattr(group, "model_fields")
                walk(value, group if described else target_class(value) or group, f"{prefix}{key}.", at)
            else:
                found[f"{prefix}{key}"] = value

    walk(settings, schema, "", "pool")
    return found


def keys_of(stage: Stage, schema: type) -> list[str]:
    """Dotted keys of the plain options and groups of `schema` whose mark is `stage`."""
    groups = groups_of(schema)
    found = [name for name, mark in marks_of(schema).items() if mark.stage == stage]
    inner = [f"{name}.{key}" for name, group in groups.items() if name not in found for key in keys_of(stage, group)]
    return [*found, *inner]


def locations_in(settings: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key of every option that is a Location -> the key of `paths` that it follows."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            marks = marks_of(owner) if (owner := target_class(value)) is not None else {}
            found |= {f"{key}.{name}": mark.of for name, mark in marks.items() if isinstance(mark, Location)}
            found |= {f"{key}.{inner}": of for inner, of in locations_in(value).items()}
    return found


def target_class(node: Mapping[str, Any]) -> type | None:
    """The class that a node's `_target_` names; None without one, or where it names a function."""
    target = node.get("_target_")
    if not isinstance(target, str):
        return None
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except (ImportError, ValueError):  # the configuration is refused for it elsewhere, with what to type
        return None
    return found if isinstance(found, type) else None


@functools.cache
def marks_of(owner: type) -> dict[str, Affects]:
    """Option -> mark, of the options of a class that carry one."""
    marks: dict[str, Affects] = {}
    for fields in (getattr(owner, "model_fields", {}), getattr(owner, "__pydantic_fields__", {})):
        for name, option in fields.items():
            marks.update((name, mark) for mark in option.metadata if isinstance(mark, Affects))
    for name, hint in _hints(owner).items():
        if get_origin(hint) is Annotated:
            marks.update((name, mark) for mark in get_args(hint)[1:] if isinstance(mark, Affects))
    return marks


@functools.cache
def groups_of(owner: type) -> dict[str, type]:
    """Option -> class, of the options of a pydantic model that are models themselves."""
    fields = getattr(owner, "model_fields", {})
    return {name: option.annotation for name, option in fields.items() if isinstance(option.annotation, type)}


def _hints(owner: type) -> dict[str, Any]:
    """Annotations of the fields and of the arguments; none where their names cannot be resolved."""
    hints: dict[str, Any] = {}
    for annotated in (owner, owner.__init__):  # type: ignore[misc]
        try:
            hints |= get_type_hints(annotated, include_extras=True)
        except (NameError, TypeError):
            continue
    return hints
