"""The arguments and bases of a class that a dotted name stands for, read in its source: nothing is imported.

Lightning takes seconds to import, and an argument that its Trainer does not have is refused in less than one. Whatever the
source does not say for certain (compiled code, names that are made while a module runs, decorated classes) is None here, and
`nodes.py` imports the class instead.
"""

from __future__ import annotations

import ast
import functools
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from pathlib import Path
from typing import Annotated, Any

from edgenetllm.option_types import NUMBER

MOST_STEPS = 20  # from a name to the module that defines it
WRAPPERS = ("_defaults_from_env_vars",)  # decorators of `__init__` that keep its arguments: of Lightning's Trainer
PLAIN = {
    "int": Annotated[int, NUMBER],
    "float": Annotated[float, NUMBER],
    "str": str,
    "bool": bool,
    "dict": dict,
    "None": None,
    "Path": Path,
}
CONTAINERS = {"list": list, "List": list, "dict": dict, "Dict": dict, "tuple": tuple, "Tuple": tuple}


@dataclass(frozen=True)
class Arguments:
    """The arguments that a class or function takes by name; `open` to any other name.

    `types` has the types of those whose annotation names plain ones only.
    """

    names: list[str]
    required: list[str]
    open: bool
    types: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Described:
    """A class or function: its arguments, and those of each of its bases, itself first; `name` is where it is defined."""

    name: str
    arguments: Arguments
    bases: dict[
        str, Arguments
    ]  # of a class: name where it is defined -> its own arguments, in the order of inheritance
    is_class: bool = True

    @property
    def all_names(self) -> list[str]:
        """The arguments of the class, and of its bases for as long as each passes more arguments on."""
        names: list[str] = []
        for arguments in self.bases.values():
            names += [name for name in arguments.names if name not in names]
            if not arguments.open:
                break
        return names


class NotThere(Exception):
    """A name that the source of its module certainly does not bind; `near` are those that it does."""

    def __init__(self, module: str, name: str, near: list[str]) -> None:
        super().__init__(f"{module} has no {name}")
        self.module, self.name, self.near = module, name, near


def read_described(target: str) -> Described | None:
    """The class or function of a dotted name, by its source; None where only an import can tell.

    Raises NotThere for a name that is certainly not in its module.
    """
    module, _, name = target.rpartition(".")
    found = _defined(module, name) if module else None
    if found is None:
        return None
    place, node = found
    if isinstance(node, ast.ClassDef):
        bases = _bases(place, node)
        return None if bases is None else Described(f"{place}.{node.name}", next(iter(bases.values())), bases)
    if node.decorator_list:
        return None
    return Described(f"{place}.{node.name}", _arguments(node, is_method=False), {}, is_class=False)


# The module of a name.
@dataclass(frozen=True)
class _Module:
    """The names that the top level of a module binds: classes and functions, and names that come from elsewhere."""

    name: str
    nodes: dict[str, ast.ClassDef | ast.FunctionDef]
    imports: dict[str, tuple[str, str]]  # name -> module and the name in it, "" for the module itself
    stars: list[str]  # modules all of whose names are imported
    others: frozenset[str]  # bound in a way that says nothing of what they are; `__getattr__` where any name can be

    @property
    def is_complete(self) -> bool:
        """True where no other name can be bound than those that are listed."""
        return not self.stars and "__getattr__" not in {*self.others, *self.nodes, *self.imports}


@functools.cache
def _module(name: str) -> _Module | None:
    """The source of a module, found as an import would find it; None where there is none that can be read."""
    locations: Any = None
    spec = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:end]), locations)
        if spec is None:
            return None
        locations = spec.submodule_search_locations
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    return _read_module(name, locations is not None, tree)


def _read_module(name: str, is_package: bool, tree: ast.Module) -> _Module:
    nodes: dict[str, ast.ClassDef | ast.FunctionDef] = {}
    imports: dict[str, tuple[str, str]] = {}
    stars: list[str] = []
    others: set[str] = set()
    package = name if is_package else name.rpartition(".")[0]
    for statement in _top_level(tree):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            if statement.name in nodes:  # two of one name, in the branches of an `if`: only an import can choose
                others.add(statement.name)
            nodes[statement.name] = statement
        elif isinstance(statement, ast.ImportFrom):
            written = "." * statement.level + (statement.module or "")
            source = resolve_name(written, package) if statement.level else written
            imports |= {one.asname or one.name: (source, one.name) for one in statement.names if one.name != "*"}
            stars += [source for one in statement.names if one.name == "*"]
        elif isinstance(statement, ast.Import):
            imports |= {one.asname: (one.name, "") for one in statement.names if one.asname}
            imports |= {
                top: (top, "") for one in statement.names if (top := one.name.partition(".")[0]) and not one.asname
            }
        else:
            names = [one for one in ast.walk(statement) if isinstance(one, ast.Name)]
            others |= {one.id for one in names if not isinstance(one.ctx, ast.Load)}
            others |= {"__getattr__"} & {one.id for one in names} | {
                "__getattr__" for one in names if one.id in ("globals", "vars")
            }
    return _Module(name, nodes, imports, stars, frozenset(others))


def _top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module, those in its `if`, `try` and `with` included."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        statement = waiting.pop(0)
        if isinstance(statement, ast.If | ast.Try | ast.With):
            blocks = [getattr(statement, name, []) for name in ("body", "orelse", "finalbody")]
            blocks += [handler.body for handler in getattr(statement, "handlers", [])]
            waiting = [*(inner for block in blocks for inner in block), *waiting]
        else:
            yield statement


def _defined(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """The module that defines what `name` of a module is, and its definition; None where that is not certain."""
    for _ in range(MOST_STEPS):
        source = _module(module)
        if source is None or name in source.others:
            return None
        if name in source.nodes:
            return module, source.nodes[name]
        if name not in source.imports:
            if source.is_complete and _module(f"{module}.{name}") is None:
                raise NotThere(module, name, [*source.nodes, *source.imports])
            return next((found for star in source.stars if (found := _defined_or_open(star, name)) is not None), None)
        module, name = source.imports[name]
    return None


def _defined_or_open(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    try:
        return _defined(module, name)
    except NotThere:
        return None


# A class.
def _bases(place: str, node: ast.ClassDef) -> dict[str, Arguments] | None:
    """Where the class and each of its bases are defined -> their arguments; None where one of them cannot be read."""
    if node.decorator_list or node.keywords:
        return None
    inherited: dict[str, Arguments] = {}
    for base in node.bases:
        known = _bases_of_name(place, base)
        if known is None:
            return None
        inherited |= {name: arguments for name, arguments in known.items() if name not in inherited}
    makers = [one for one in node.body if _binds(one, "__new__") or _binds(one, "__init__")]
    if not makers:
        arguments = next(iter(inherited.values()), Arguments([], [], False))
    elif len(makers) == 1 and isinstance(makers[0], ast.FunctionDef) and _keeps_arguments(makers[0]):
        arguments = _arguments(makers[0], is_method=True)
    else:
        return None
    return {f"{place}.{node.name}": arguments, **inherited}


def _keeps_arguments(function: ast.FunctionDef) -> bool:
    return all(isinstance(one, ast.Name) and one.id in WRAPPERS for one in function.decorator_list)


def _binds(statement: ast.stmt, name: str) -> bool:
    """True where a statement of a class gives the class this attribute."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.name == name
    return any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(statement)) or any(
        isinstance(one, ast.FunctionDef) and one.name == name for one in ast.walk(statement)
    )


def _bases_of_name(place: str, base: ast.expr) -> dict[str, Arguments] | None:
    """The same of a base as it is written in the module `place`."""
    if isinstance(base, ast.Subscript):  # Generic[T]
        base = base.value
    dotted = ast.unparse(base)
    if not all(part.isidentifier() for part in dotted.split(".")):
        return None
    if dotted in ("object", "ABC", "abc.ABC", "Generic", "Protocol"):
        return {}
    first, _, rest = dotted.partition(".")
    module, name = place, first
    if rest:  # of a module that is imported here under the name `first`
        source = _module(place)
        if source is None or first not in source.imports:
            return None
        inside, _, name = rest.rpartition(".")
        module = ".".join(part for part in (*source.imports[first], inside) if part)
    defined_in, node = _defined_or_open(module, name) or ("", None)
    return _bases(defined_in, node) if isinstance(node, ast.ClassDef) else None


# The arguments of a function.
def _arguments(node: ast.FunctionDef, is_method: bool) -> Arguments:
    positional = [*node.args.posonlyargs, *node.args.args][1 if is_method else 0 :]
    without = len(positional) - len(node.args.defaults)
    defaults = [None] * max(0, without) + node.args.defaults[-len(positional) or None :]
    pairs = [*zip(positional, defaults, strict=True), *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    types = {one.arg: _type(one.annotation, default) for one, default in pairs}
    return Arguments(
        [one.arg for one, _ in pairs],
        [one.arg for one, default in pairs if default is None],
        node.args.kwarg is not None,
        {name: kind for name, kind in types.items() if kind is not Any},
    )


def _type(annotation: ast.expr | None, default: ast.expr | None) -> Any:
    """The type that an annotation stands for; Any where it is missing or names anything but plain types."""
    if annotation is None:
        return Any
    kind = _plain(annotation)
    is_optional = isinstance(default, ast.Constant) and default.value is None
    return typing.Optional[kind] if is_optional and kind is not Any else kind  # noqa: UP045  of a value


def _plain(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return (
            None
            if node.value is None
            else Any
            if not isinstance(node.value, str)
            else _plain(ast.parse(node.value, mode="eval").body)
        )
    if isinstance(node, ast.Name):
        return PLAIN.get(node.id, CONTAINERS.get(node.id, Any))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([_plain(node.left), _plain(node.right)])
    if not isinstance(node, ast.Subscript):
        return Any
    name = ast.unparse(node.value).rpartition(".")[2]
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return typing.Literal[tuple(one.value for one in inner if isinstance(one, ast.Constant))]
    if name in ("Optional", "Union"):
        return _union([*map(_plain, inner), *([None] if name == "Optional" else [])])
    return CONTAINERS.get(name, Any)


def _union(kinds: list[Any]) -> Any:
    return Any if Any in kinds else typing.Union[tuple(kinds)]  # noqa: UP007  of values
