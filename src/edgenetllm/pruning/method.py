"""The frame of a pruning method around its pure function: a name, what it needs to know, and its options."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from edgenetllm.errors import UserError
from edgenetllm.pruning.masks import Pattern

Statistic = Literal["sum_of_squares", "gram"]  # of the inputs of a layer, over the calibration tokens
NO_DEFAULT = object()


def option_values(options: object) -> dict[str, Any]:
    """The options of a method or recovery as plain values: its dataclass fields, or what `__init__` takes.

    Raises UserError for a plain class that keeps an argument of `__init__` under no attribute of that name, and for a value
    that cannot be written down.
    """
    return {name: _plain(options, name, _value(options, name)) for name in _defaults(options)}


def non_default_options(options: object, *names: str) -> list[str]:
    """`name=value` of the options (of all, or of `names`) that do not have their default. Raises UserError as above."""
    defaults = _defaults(options)
    values = {name: _value(options, name) for name in names or defaults}
    return [
        f"{name}={value}"
        for name, value in values.items()
        if defaults[name] is NO_DEFAULT or _plain(options, name, value) != _plain(options, name, defaults[name])
    ]


def _defaults(options: object) -> dict[str, Any]:
    """Name -> default of everything that an object of this class can be made with."""
    kind = type(options)
    if hasattr(kind, "__pydantic_fields__"):
        fields: Mapping[str, Any] = kind.__pydantic_fields__
        return {
            name: NO_DEFAULT if field.is_required() else field.get_default(call_default_factory=True)
            for name, field in fields.items()
            if field.init is not False
        }
    if dataclasses.is_dataclass(kind):
        return {field.name: _field_default(field) for field in dataclasses.fields(kind) if field.init}
    if kind.__init__ is object.__init__:
        return {}
    parameters = list(inspect.signature(kind).parameters.values())
    if any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters):
        raise UserError(
            f"{kind.__qualname__}.__init__ takes *args or **kwargs: name its options one by one, or make it a dataclass, so "
            "that results and tables can tell them"
        )
    return {one.name: NO_DEFAULT if one.default is one.empty else one.default for one in parameters}


def _field_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return NO_DEFAULT if field.default_factory is dataclasses.MISSING else field.default_factory()


def _value(options: object, name: str) -> Any:
    try:
        return getattr(options, name)
    except AttributeError:
        kind = type(options).__qualname__
        raise UserError(
            f"{kind}.__init__ takes {name}, but its objects have no attribute of that name: write self.{name} = {name}, or "
            f"make {kind} a dataclass, so that results and tables can tell its options"
        ) from None


def _plain(options: object, name: str, value: Any) -> Any:
    """`value` as JSON can hold it. Raises UserError for what has no plain form."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Enum):
        return _plain(options, name, value.value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(options, name, one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(options, name, one) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__qualname__, **option_values(value)}
    if inspect.isroutine(value) or isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    raise UserError(
        f"{type(options).__qualname__}.{name} is a {type(value).__qualname__}, which results cannot write down: give an "
        "option a number, a text, a list, a dataclass or a named function"
    )


class Method:
    """A pruning criterion with its options; the function behind it stands in the same file."""

    name: ClassVar[str]
    statistic: ClassVar[Statistic | None]  # what it needs to know of a layer's inputs

    @property
    def label(self) -> str:
        """The name, with the options that make another curve of it."""
        return " ".join([self.name, *non_default_options(self)])

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        """A pruned copy of `weight` (out, in); `statistic` is there if `self.statistic` asks for one."""
        raise NotImplementedError
