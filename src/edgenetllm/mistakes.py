"""Sentences on values that an option does not accept: one for each option, with the override as it is typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from edgenetllm.nodes import unknown_key
from edgenetllm.option_schema import fields_of, in_words, names_in, schema_at

SHOWN = 120  # characters of a value in a sentence
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
Place = tuple[str | int, ...]


def explain_mistakes(error: ValidationError, prefix: str, schema: Any, given: Any, above: Place = ()) -> list[str]:
    """A sentence for each option of `schema` that was `given` wrongly; `prefix` is what is typed before its name.

    Where only one option was validated, `above` is its place and `given` its value.
    """
    mistakes: dict[Place, list[Any]] = {}
    for mistake in error.errors():
        mistakes.setdefault(_typed_place(mistake, given), []).append(mistake)
    mistakes = _first_causes(mistakes)
    return [
        _sentence(prefix, schema, (*above, *place), _value(given, place), found) for place, found in mistakes.items()
    ]


def _first_causes(mistakes: dict[Place, list[Any]]) -> dict[Place, list[Any]]:
    """The mistakes without those that follow from others: of a list whose entry is wrong, and of what is missing next to an
    unknown key."""
    inner = {place[:end] for place in mistakes for end in range(len(place))}
    unknown = {place[:-1] for place, found in mistakes.items() if {one["type"] for one in found} & set(UNKNOWN)}
    return {
        place: found
        for place, found in mistakes.items()
        if place not in inner and not (_is_missing(found[0]) and place[:-1] in unknown)
    }


def shown(value: object) -> str:
    """A value as a sentence has it."""
    return cut(repr(value))


def cut(text: str) -> str:
    """A text of one line, without its end where it is long."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def _typed_place(mistake: Any, given: Any) -> Place:
    """The keys that lead to a mistake, without the names that pydantic gives to the branches of a union."""
    place: list[str | int] = []
    for key in mistake["loc"]:
        if (isinstance(given, Mapping) and key in given) or (
            isinstance(given, Sequence) and not isinstance(given, str) and isinstance(key, int) and key < len(given)
        ):
            given = given[key]
        elif not _is_missing(mistake) or key != mistake["loc"][-1]:
            continue
        place.append(key)
    return tuple(place)


def _is_missing(mistake: Any) -> bool:
    """True for an option that is not there; an entry that a list lacks is a mistake of the list."""
    return mistake["type"] in MISSING and isinstance(mistake["loc"][-1], str)


def _sentence(prefix: str, schema: Any, place: Place, value: Any, mistakes: Sequence[Any]) -> str:
    path, kinds = prefix + ".".join(map(str, place)), {mistake["type"] for mistake in mistakes}
    first = mistakes[0]
    if kinds & set(UNKNOWN):
        above = prefix + "".join(f"{key}." for key in place[:-1])
        return unknown_key(path, [above + name for name in _names(schema, place[:-1])])
    if _is_missing(first):
        return f"{path} is missing from the configuration"
    if kinds == {"value_error"}:  # a validator of our own has said it
        return f"{path}={shown(value)}: {first['msg'].removeprefix('Value error, ')}"
    accepted = schema_at(schema, place)
    if accepted is not None:
        return f"{path}={shown(value)}: give {in_words(accepted)}"
    if kinds == {"is_instance_of"} and not isinstance(value, Mapping):
        return (
            f"{path}={shown(value)}: this is built from a class, which {path}._target_ names: a {first['ctx']['class']}"
        )
    return f"{path}={shown(value)}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _value(given: Any, place: Place) -> Any:
    """The value that was given at `place`; None where it is missing."""
    for key in place:
        is_there = key in given if isinstance(given, Mapping) else True
        given = given[key] if is_there else None
    return given


def _names(schema: Any, place: Place) -> list[str]:
    """The options at `place`."""
    if not place:
        return list(fields_of(schema))
    inner = schema_at(schema, place)
    return [] if inner is None else names_in(inner)
