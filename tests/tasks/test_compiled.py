"""Compiled code is kept under the hash of all files that it is compiled from."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgenetllm.tasks import abr, cjs


@pytest.mark.parametrize("task", [abr, cjs], ids=["abr", "cjs"])
def test_every_compiled_module_is_in_the_hash(task):
    folder = Path(task.__file__).parent
    compiled = {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.py")
        if "@njit" in path.read_text()
    }
    assert compiled <= set(task.COMPILED)
