"""Differences between a checkout and an installed package: where `conf/` lies, how the commands and extras are typed."""

from __future__ import annotations

import shlex
import sys
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
IS_CHECKOUT = not (PACKAGE / "conf").is_dir()  # setup.py puts it into a wheel
CONF = PACKAGE.parents[1] / "conf" if IS_CHECKOUT else PACKAGE / "conf"
PROGRAM = "edgenetllm-"  # a console script's name is this and a stage's


def program_of(stage: str) -> str:
    """The name of a stage's program: `prune.py`, or `edgenetllm-prune` where a console script started this process."""
    return f"{PROGRAM}{stage}" if Path(sys.argv[0]).name.startswith(PROGRAM) else f"{stage}.py"


def command_of(stage: str) -> str:
    """The beginning of a stage's command line: `python prune.py`, or `edgenetllm-prune`."""
    program = program_of(stage)
    return f"python {program}" if program.endswith(".py") else program


def install_command(extra: str) -> str:
    """The command that installs the optional dependencies of `extra` (a key of pyproject.toml)."""
    if IS_CHECKOUT:
        return f"pip install -e '.[{extra}]'"
    mark = f'extra == "{extra}"'
    needed = [line for line in metadata.requires("edgenetllm") or [] if mark in line.replace("'", '"')]
    return shlex.join(["pip", "install", *(line.partition(";")[0].strip() for line in needed)])
