"""The version of the code that a stored result depends on: a hash of the modules that its classes import.

Comments, docstrings and layout do not count. A class of any package is followed through the imports inside its own
top-level package, wherever that lies, and to modules that lie next to it outside of site-packages; what installed packages
do is known by their versions.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from edgenetllm.errors import UserError

DATA = (".json", ".safetensors", ".npz", ".npy", ".csv")  # files that modules of a package read: weights, tables
INSTALLED = ("site-packages", "dist-packages")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_identity(*roots: type | str, alone: Sequence[str] = ()) -> str:
    """Hash of the code behind these classes and modules (dotted names); see `modules_of` for what belongs to it.

    Modules named in `alone` count without what they import. Raises UserError for a class whose source cannot be read.
    """
    return _code_identity(tuple(dict.fromkeys(_module_name(root) for root in roots)), tuple(alone))


@functools.cache
def _code_identity(roots: tuple[str, ...], alone: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    modules = modules_of(*roots)
    for name in alone:
        path = _file(name)
        if path is None:
            raise FileNotFoundError(name)
        modules[name] = path
    for name, path in sorted(modules.items()):
        digest.update(f"{name}\0{_fingerprint(path)}\n".encode())
    for path in _data_files(modules):
        digest.update(f"{path.parent.name}/{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def modules_of(*roots: type | str) -> dict[str, Path]:
    """Name -> file of the roots' modules and of all that these import, directly or not, from the roots' own top-level
    packages (or from modules in the same folder as these): at the top of a module or inside a function, but not only for
    type checkers.
    """
    waiting = [_module_name(root) for root in roots]
    own = {_top(name) for name in waiting}
    folders = {folder for name in own if (folder := _folder(name)) is not None and folder.name not in INSTALLED}
    modules: dict[str, Path] = {}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or not (_top(name) in own or _folder(_top(name)) in folders):
            continue
        seen.add(name)
        waiting += _parents(name)
        path = _file(name)
        if path is None:
            continue
        modules[name] = path
        if path.suffix == ".py":
            is_package = path.name == "__init__.py"
            waiting += imported_by(_tree(path), name, is_package)
    return modules


def imported_by(tree: ast.Module, name: str, is_package: bool) -> Iterator[str]:
    """Dotted names that the module `name` imports; of `from a import b` both `a` and `a.b`, which may be a module.

    A call of `import_module` with a text counts too.
    """
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".") if is_package else name.split(".")[:-1]
                above = above[: len(above) - (node.level - 1)]
                base = ".".join([*above, base]).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield other
                yield from _executed(other)
            continue
        yield node
        yield from _executed(node)


def _module_name(root: type | str) -> str:
    if isinstance(root, str):
        return root
    if _file(root.__module__) is None:
        raise UserError(
            f"{root.__module__}.{root.__qualname__} has no source file, so that results could not be distinguished from "
            "those of another version of it: put the class into a module"
        )
    return root.__module__


def _top(name: str) -> str:
    return name.partition(".")[0]


@functools.cache
def _folder(top: str) -> Path | None:
    """The folder of a top-level module or package: an entry of sys.path."""
    if top in sys.stdlib_module_names:
        return None
    path = _file(top)
    if path is None:
        return None
    return (path.parent.parent if path.name == "__init__.py" else path.parent).resolve()


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _file(name: str) -> Path | None:
    """The file of a module; None for a name that is no module (but an attribute of one), or for a namespace."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return Path(file) if file else None
    try:
        spec: ModuleSpec | None = find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _fingerprint(path: Path) -> str:
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()  # a compiled module
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and _is_docstring(node.body[0] if node.body else None):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_docstring(statement: ast.stmt | None) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _data_files(modules: dict[str, Path]) -> list[Path]:
    """Files that lie in the folders of the packages that the modules belong to, and may be read by them."""
    folders = {path.parent for path in modules.values() if (path.parent / "__init__.py").is_file()}
    return sorted(path for folder in folders for path in folder.iterdir() if path.suffix in DATA and path.is_file())
