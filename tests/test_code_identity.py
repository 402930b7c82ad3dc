"""Stored results depend on the code that their classes import, wherever it lies, and on nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgenetllm.code_identity import code_identity, modules_of
from edgenetllm.errors import UserError

PACKAGE = {
    "mylab/__init__.py": "",
    "mylab/helpers.py": (
        '"""Helpers."""\n\nSPEED = 3  # metres a second\n\n\ndef double(x):\n    """Twice."""\n    return 2 * x\n'
    ),
    "mylab/unused.py": "OTHER = 1\n",
    "mylab/hints.py": "class Hint:\n    pass\n",
    "mylab/later.py": "LATER = 1\n",
    "mylab/byname.py": "BY_NAME = 1\n",
    "mylab/tasks/__init__.py": "",
    "mylab/tasks/table.json": "[1, 2]\n",
    "mylab/tasks/task.py": (
        "from typing import TYPE_CHECKING\nimport importlib\n"
        "from ..helpers import SPEED\nimport beside_it\n"
        "if TYPE_CHECKING:\n    from mylab.hints import Hint\n\n\n"
        "class MyTask:\n    def play(self):\n        from mylab.later import LATER\n"
        "        return importlib.import_module('mylab.byname'), SPEED + LATER\n"
    ),
    "beside_it.py": "CONSTANT = 5\n",
}


def write(folder: Path, **changes: str) -> Path:
    for name, text in {**PACKAGE, **changes}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def identity(folder: Path) -> str:
    """In a process of its own, as modules are read once."""
    lines = ["from mylab.tasks.task import MyTask", "from edgenetllm.code_identity import code_identity"]
    program = [sys.executable, "-c", "\n".join([*lines, "print(code_identity(MyTask))"])]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> str:
    return identity(write(tmp_path_factory.mktemp("before")))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("mylab/helpers.py", PACKAGE["mylab/helpers.py"].replace("SPEED = 3", "SPEED = 4")),
        ("mylab/helpers.py", PACKAGE["mylab/helpers.py"].replace("2 * x", "3 * x")),
        ("mylab/later.py", "LATER = 2\n"),
        ("mylab/byname.py", "BY_NAME = 2\n"),
        ("beside_it.py", "CONSTANT = 6\n"),
        ("mylab/tasks/table.json", "[1, 3]\n"),
        ("mylab/__init__.py", "import os\n"),
    ],
)
def test_a_change_of_what_is_imported_is_another_identity(tmp_path, before, file, text):
    assert identity(write(tmp_path, **{file: text})) != before


def test_comments_docstrings_layout_and_what_is_not_imported_do_not_count(tmp_path, before):
    helpers = (
        PACKAGE["mylab/helpers.py"].replace("# metres a second", "# m/s").replace("Twice.", "Two times.\n\n    Always.")
    )
    changes = {
        "mylab/helpers.py": helpers.replace("Helpers.", "What helps."),
        "mylab/unused.py": "OTHER = 2\n",
        "mylab/hints.py": "class Hint:\n    other = 1\n",
    }
    assert identity(write(tmp_path, **changes)) == before


def test_a_class_without_a_source_is_refused():
    homeless = type("Homeless", (), {"__module__": "nowhere_at_all"})
    with pytest.raises(UserError, match=r"nowhere_at_all\.Homeless has no source file"):
        code_identity(homeless)


def test_one_task_is_not_known_by_the_code_of_another():
    own = set(modules_of("edgenetllm.tasks.abr.task"))
    assert {
        "edgenetllm.tasks.abr.simulator.core",
        "edgenetllm.tasks.abr.data.readers",
        "edgenetllm.tasks.randomness",
    } <= own
    assert not any(name.startswith("edgenetllm.tasks.cjs") for name in own)
    above = ("edgenetllm.report", "edgenetllm.compare", "edgenetllm.tracking", "edgenetllm.stages")
    assert not any(name.startswith(above) for name in own)
    other = set(modules_of("edgenetllm.tasks.cjs.task"))
    assert not any(name.startswith("edgenetllm.tasks.abr") for name in other)
