"""The influence of an option, written down at the option itself; identities of stored results are derived from it.

An option influences everything, the experience pool included, unless the class that owns it says less:

    tokens: Annotated[str, Affects("adaptation")]   # how the pool is read, not what is in it
    test: Annotated[int, Affects("evaluation")]     # only what is replayed
    workers: Annotated[int, Affects("nothing")]     # how fast
    device: Annotated[str, Affects("adaptation", again=True)]  # but each later stage may have another
    force: Annotated[bool, OfCommand()]             # of one command, never of the run that it starts from

The mark is read from fields of pydantic models, from dataclasses, and from the annotated arguments of any other class, so
that a class in another package says it in the same way. An option whose mark cannot be read counts as one that matters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Stage = Literal["pool", "adaptation", "pruning", "evaluation", "nothing"]
STAGES: tuple[Stage, ...] = ("pool", "adaptation", "pruning", "evaluation", "nothing")  # each influences what follows


@dataclass(frozen=True)
class Affects:
    """The first stage whose result an option can change; `again`: each later stage reads it for itself too."""

    stage: Stage
    again: bool = field(default=False, kw_only=True)


ANY = Affects("pool")  # an option without a mark


@dataclass(frozen=True)
class OfCommand(Affects):
    """The option belongs to each command: a stage that starts from a run does not take it from there."""

    stage: Stage = field(default="nothing", kw_only=True)


@dataclass(frozen=True)
class Location(OfCommand):
    """The option says where something lies, and follows `paths.data_dir` or `paths.cache_dir` of each command."""

    of: Literal["data_dir", "cache_dir"]


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
    return {key: value for key, value, mark in _options(settings, schema, "", ANY) if mark.stage in reach}


def shaping(settings: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """Dotted key -> value of the options that shape an adaptation or its pool, and that no later stage reads for itself."""
    reach = STAGES[: STAGES.index("adaptation") + 1]
    options = _options(settings, schema, "", ANY)
    return {key: value for key, value, mark in options if mark.stage in reach and not mark.again}


def of_later_stages(settings: Mapping[str, Any], schema: type) -> list[str]:
    """Dotted keys of the options that a stage after the adaptation reads for itself."""
    later_ones = ("pruning", "evaluation")
    return [key for key, _, mark in _options(settings, schema, "", ANY) if mark.again or mark.stage in later_ones]


def of_command(settings: Mapping[str, Any], schema: type) -> list[str]:
    """Dotted keys of the options, or whole groups, that belong to each command."""
    return [key for key, _, mark in _options(settings, schema, "", ANY) if isinstance(mark, OfCommand)]


def _options(
    node: Mapping[str, Any], owner: type | None, prefix: str, above: Affects
) -> Iterator[tuple[str, Any, Affects]]:
    """Dotted key, value and mark of every option in `node`, whose class is `owner`; a group of a command is one option."""
    marks, groups = (marks_of(owner), groups_of(owner)) if owner is not None else ({}, {})
    for key, value in node.items():
        mark = marks.get(key, ANY)
        if not isinstance(mark, OfCommand):
            mark = Affects(later(above.stage, mark.stage), again=above.again or mark.again)
        if isinstance(value, Mapping) and value and not isinstance(mark, OfCommand):
            group = groups.get(key)
            described = hasattr(group, "model_fields")
            yield from _options(value, group if described else target_class(value) or group, f"{prefix}{key}.", mark)
        else:
            yield f"{prefix}{key}", value, mark


def keys_of(stage: Stage, schema: type) -> list[str]:
    """Dotted keys of the plain options and groups of `schema` whose mark is `stage`."""
    groups = groups_of(schema)
    names = [name for name, mark in marks_of(schema).items() if mark.stage == stage]
    inner = [f"{name}.{key}" for name, group in groups.items() if name not in names for key in keys_of(stage, group)]
    return [*names, *inner]


def locations_in(settings: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key of every option that is a Location -> the key of `paths` that it follows."""
    locations: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            marks = marks_of(owner) if (owner := target_class(value)) is not None else {}
            locations |= {f"{key}.{name}": mark.of for name, mark in marks.items() if isinstance(mark, Location)}
            locations |= {f"{key}.{inner}": of for inner, of in locations_in(value).items()}
    return locations


def target_class(node: Mapping[str, Any]) -> type | None:
    """The class that a node's `_target_` names; None without one, or where it names a function."""
    target = node.get("_target_")
    if not isinstance(target, str):
        return None
    module, _, name = target.rpartition(".")
    try:
        target_object = getattr(import_module(module), name, None)
    except (ImportError, ValueError):  # the configuration is refused for it elsewhere, with what to type
        return None
    return target_object if isinstance(target_object, type) else None


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
