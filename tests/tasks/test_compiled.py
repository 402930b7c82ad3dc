"""Compiled code is kept under the hash of all files that it is compiled from."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
from small import ROOT

from edgenetllm.code_identity import imported_by

TASKS = ROOT / "src" / "edgenetllm" / "tasks"
COMPILED = sorted(path for path in TASKS.rglob("*.py") if "\n@njit" in path.read_text())


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)


@pytest.mark.parametrize("path", COMPILED, ids=module_of)
def test_every_compiled_module_is_hashed_with_those_that_it_calls(path):
    name = module_of(path)
    called = {
        other for other in COMPILED if module_of(other) in set(imported_by(ast.parse(path.read_text()), name, False))
    }
    assert called | {path} <= set(importlib.import_module(name).njit.files)


def test_a_function_is_cached_in_the_folder_of_the_hash():
    from edgenetllm.tasks.cjs.compiled import njit
    from edgenetllm.tasks.cjs.simulator.events import decide

    assert len(COMPILED) >= 10
    assert decide._cache.cache_path.startswith(njit.cache)
