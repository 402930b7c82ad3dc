"""Commands as a user types them, each in a process of its own, forked from one that has imported everything once.

Importing torch, lightning and peft takes ten seconds of a core, more than most of these commands take with a tiny model.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from small import ROOT

TINY = ["experiment=debug", "callbacks.progress_bar=false", "trainer.threads=1"]
ABR = [*TINY, "data.val=6", "data.test=20"]  # what most of the time goes into is playing


def surroundings() -> dict[str, str]:
    """A shell of its own: with the WANDB_SERVICE of this process, a killed run would live on in our W&B service."""
    ours = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {**ours, "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}


def command(script: str, folder: Path, *overrides: str) -> list[str]:
    """For a process that imports everything itself."""
    paths = [f"paths.log_dir={folder}/logs", f"paths.cache_dir={folder}/cache"]
    return [sys.executable, str(ROOT / script), *overrides, *paths]


def call(script: str, folder: Path, *overrides: str, ok: bool = True) -> str:
    """The output of `python <script> <overrides>` in `folder`; it must succeed, or with `ok=False` must not."""
    code, output = outcome(command(script, folder, *overrides)[1:], folder)
    assert (code == 0) == ok, output
    return output


def outcome(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Exit code and output of `python <words>` in `folder`; the first word is a script of the project."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as printed:
        server.stdin.write(
            json.dumps([[str(ROOT / words[0]), *words[1:]], str(folder), surroundings(), printed.name]) + "\n"
        )
        server.stdin.flush()
        code = int(server.stdout.readline())
        return code, printed.read()


def runs(folder: Path, stage: str) -> list[Path]:
    return sorted((folder / "logs" / stage).glob("*"))


@functools.cache
def _server() -> subprocess.Popen[str]:
    """It ends with this process, when its input does."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, __file__], env=surroundings(), text=True, **pipes)


def _serve() -> None:
    """A child for every line of the input, whose exit code is printed."""
    for stage in ("train", "prune", "evaluate", "specialise"):
        importlib.import_module(f"edgenetllm.stages.{stage}")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(*json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(words: list[str], folder: str, environment: dict[str, str], printed: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with open(os.devnull) as nothing, open(printed, "w") as output:
        for standard, file in enumerate((nothing, output, output)):
            os.dup2(file.fileno(), standard)
    sys.argv, sys.path[0] = words, str(ROOT)
    sys.path[1:1] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
