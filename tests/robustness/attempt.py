"""Run a command with a wrong override, in this process or in one of its own, and say in what the answer falls short."""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from robustness.wrong_overrides import Wrong
from small import ROOT
from typed import surroundings

from edgenetllm.cli import main

ACCEPTED = 99  # exit code of a stage that was begun
LIMIT_S = 3.0  # of a process, from its start to its end


@dataclass(frozen=True)
class Answer:
    """The end of a command: exit code, the lines of stderr, seconds of a core, and what it left in its folder.

    The seconds are those of a core, as other work may share the machine; alone, a command that is refused takes as long.
    """

    code: object
    lines: list[str]
    seconds: float
    left: list[str]


def in_this_process(wrong: Wrong, folder: Path) -> Answer:
    """The command as `main` runs it, with a stage that ends at once with ACCEPTED. `folder` is where it is typed."""
    output, began = io.StringIO(), time.process_time()
    argv, here = sys.argv, Path.cwd()
    GlobalHydra.instance().clear()
    sys.argv = [f"{wrong.stage}.py", *wrong.words]
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(output):
            main(wrong.stage, _begin)
        code: object = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException as error:
        code = f"{type(error).__name__} in {traceback.extract_tb(error.__traceback__)[-1].name}: {error}"[:300]
    finally:
        sys.argv = argv
        os.chdir(here)
        GlobalHydra.instance().clear()
    return Answer(code, output.getvalue().splitlines(), time.process_time() - began, _left(folder))


def in_a_process(wrong: Wrong, folder: Path) -> Answer:
    """The command as a user types it, in `folder`."""
    began = _of_children()
    command = [sys.executable, str(ROOT / f"{wrong.stage}.py"), *wrong.words]
    done = subprocess.run(
        command, cwd=folder, env=surroundings(), capture_output=True, text=True, timeout=120, check=False
    )
    return Answer(done.returncode, done.stderr.splitlines(), _of_children() - began, _left(folder))


def problem(wrong: Wrong, answer: Answer) -> str | None:
    """In what an answer is not one sentence that names the key, with exit code 2 and nothing left; None where it is."""
    if answer.code == ACCEPTED or answer.code == 0:
        return "accepted"
    if answer.code != 2 or any(line.startswith("Traceback") for line in answer.lines):
        return f"exit code {answer.code}"
    if len(answer.lines) != 1:
        return f"{len(answer.lines)} lines"
    if not answer.lines[0].startswith("error: "):
        return "no sentence"
    if not re.search(rf"(?<![\w.]){re.escape(wrong.key)}(?!\w)", answer.lines[0]):
        return "the key is not named"
    return f"left {answer.left}" if answer.left else None


def _of_children() -> float:
    """Seconds of a core that all processes started from here have taken, of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _begin(config: object, run: object) -> float | None:
    raise SystemExit(ACCEPTED)


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
