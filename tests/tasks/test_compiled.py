"""Compiled code is kept under the hash of all files that it is compiled from."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
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


@pytest.mark.parametrize("damage", ["truncated", "garbage", "unwritable"])
def test_a_damaged_or_unwritable_cache_is_no_error(damage, tmp_path):
    code = (
        "import numpy as np; from edgenetllm.tasks.common.layers import linear; "
        "print(linear(np.ones((1, 3), np.float32), np.ones((3, 2), np.float32), np.ones(2, np.float32)).tolist())"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": "/dev/null/home" if damage == "unwritable" else str(tmp_path)}

    def run() -> str:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert run() == "[[4.0, 4.0]]\n"
    for path in tmp_path.rglob("*.nbc" if damage == "truncated" else "*.nbi"):
        path.write_bytes(path.read_bytes()[:50] if damage == "truncated" else b"garbage")
    assert run() == "[[4.0, 4.0]]\n"
    if damage != "unwritable":
        assert list(tmp_path.rglob("*.nbc"))
