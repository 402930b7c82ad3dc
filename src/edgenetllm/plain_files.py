"""JSON and YAML of a run or of a user, read as plain values within bounds: whatever is in the file, no code and no surprise.

A reader's own mistake and a file made on purpose are refused alike: unreadable bytes, a value or a name twice, NaN and
infinity, whole numbers beyond 64 bits, nesting without end, and in YAML anchors, aliases and tags, by which a few lines can
stand for billions of values.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ValidationError

from edgenetllm.errors import UserError

LARGEST_JSON = 8 * 2**20  # bytes
LARGEST_YAML = 256 * 2**10
DEEPEST = 32  # values within values
LONGEST_SCALAR = 4096  # characters of a YAML value without quotes
WHOLE = 2**63  # whole numbers lie between -WHOLE and WHOLE

# As OmegaConf reads numbers, which takes 1e-3 for one.
FLOAT = re.compile(
    r"([-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\.[\d_]+([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(inf|Inf|INF))|\.(nan|NaN|NAN))$"
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader with the numbers of OmegaConf, without dates, and with each key once."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise yaml.YAMLError("a key occurs twice")
        return mapping


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


def read_bytes(path: Path, largest: int) -> bytes:
    """The bytes of a regular file. Raises UserError for one that is absent, none, or larger than `largest` bytes."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UserError(f"{path}: {reason}") from None
    if len(data) > largest:
        raise UserError(f"{path}: larger than the {largest / 2**20:g} MiB that such a file has at most")
    return data


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """The values in a JSON file. Raises UserError, naming the file, for what is none, and beyond the bounds."""
    return parse_json(read_bytes(path, largest), str(path))


def read_document(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    """The values in a JSON file that `model` describes. Raises UserError as `read_json`, and for values that it refuses."""
    values = read_json(path)
    check_document(values, model, path)
    return dict(values)


def check_document(values: Any, model: type[BaseModel], path: Path) -> None:
    """Raises UserError, naming the file that they come from, where `model` does not accept the values."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path} is damaged: {first_mistake(error)}") from None


def parse_json(data: bytes, where: str) -> Any:
    """The values in the bytes of a JSON file. Raises UserError as `read_json`; `where` is named in it."""
    try:
        values = json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        check_bounds(values)
    except RecursionError:
        raise UserError(f"{where}: nested deeper than {DEEPEST} values") from None
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {_reason(error)}") from None
    return values


def read_yaml(path: Path, largest: int = LARGEST_YAML) -> Any:
    """The values in a YAML file, interpolations as they are written. Raises UserError as `read_json`."""
    data = read_bytes(path, largest)
    try:
        text = data.decode("utf-8")
        check_yaml(text)
        values = yaml.load(text, Loader=_Loader)
        check_bounds(values, finite=False)
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:  # TypeError: a list as a key
        raise UserError(f"{path}: not a plain YAML file: {_reason(error)}") from None
    return values


def check_yaml(text: str) -> None:
    """Raises ValueError or YAMLError unless a text is one YAML document without anchors, aliases, tags and deep nesting."""
    depth = documents = 0
    for event in _events(text):
        where = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"{where} has an anchor or an alias (& or *): write the value out")
        if isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent) and event.tag is not None:
            raise ValueError(f"{where} has a tag (!): write a plain value")
        if isinstance(event, yaml.ScalarEvent) and not event.style and len(event.value) > LONGEST_SCALAR:
            raise ValueError(f"{where} has a value of {len(event.value):,} characters without quotes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > DEEPEST:
            raise ValueError(f"{where} is nested deeper than {DEEPEST} values")
        if documents > 1:
            raise ValueError(f"{where} begins a second document")


def check_bounds(values: Any, finite: bool = True) -> None:
    """Raises ValueError for deep nesting, whole numbers beyond 64 bits, halves of characters and, if `finite`, infinity."""
    level = [values]
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, str):
                if not value.isascii() and any("\ud800" <= one <= "\udfff" for one in value):
                    raise ValueError("a text has half of a character (a surrogate)")
            elif isinstance(value, int):
                if not -WHOLE < value < WHOLE:
                    raise ValueError("a whole number has more than 64 bits")
            elif isinstance(value, float) and finite and not abs(value) < float("inf"):
                raise ValueError("a number is infinite, or none")
        if not inner:
            return
        level = inner
    raise ValueError(f"nested deeper than {DEEPEST} values")


def first_mistake(error: ValidationError) -> str:
    """`status: input should be ...`: the place and the reason of the first mistake in a document."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(f"{part!s:.60}" for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _events(text: str) -> Iterator[Any]:
    yield from yaml.parse(text, Loader=_Loader)


def _reason(error: Exception) -> str:
    """One line of an error; PyYAML's own have the problem and its place."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    where = "" if mark is None else f", line {mark.line + 1}"
    return f"{problem}{where}" if problem else f"{str(error).partition(';')[0]:.200}"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
