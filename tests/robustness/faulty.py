"""Commands in processes of their own that die, or whose disk fails, at a chosen point; see faults.c.

They are forked from a server that has imported everything once, as in `typed.py`.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("faults.c")
LONGEST_S = 300.0  # of a command
SERVE = "edgenetllm.edge.serve"
STAGES = ("train", "prune", "evaluate", "specialise")


@dataclass(frozen=True)
class Fault:
    """`kind`, one of those in faults.c, from event number `at` on, or at that one only; `after_s` kills at a time instead."""

    kind: str = "none"
    at: int = 0
    once: bool = False
    after_s: float | None = None

    def __str__(self) -> str:
        if self.after_s is not None:
            return f"killed after {self.after_s:.2f} s"
        return f"{self.kind} {'at' if self.once else 'from'} event {self.at}"


UNHARMED = Fault()


@dataclass
class Ended:
    """The end of a command: its exit code (minus the signal that killed it), its output, and the events it had."""

    code: int
    output: str
    events: int
    unflushed: set[tuple[int, int]] = field(default_factory=set)  # device and inode

    @property
    def last_line(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else ""


class Started:
    """A command that runs in `folder`, on whose disk the fault happens."""

    def __init__(self, words: list[str], folder: Path, fault: Fault = UNHARMED) -> None:
        self.fault, self.began = fault, time.monotonic()
        self.code: int | None = None
        self.place = Path(tempfile.mkdtemp(prefix="faulty-"))
        self.output, self.counter = self.place / "output.txt", self.place / "events"
        self.counter.write_bytes(bytes(8))
        self.output.touch()
        environment = {
            **os.environ,
            "WANDB_MODE": "disabled",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "FAULT_ROOT": str(folder.resolve()),
            "FAULT_STATE": str(self.counter),
            "FAULT_KIND": fault.kind,
            "FAULT_AT": str(fault.at),
            **({"FAULT_ONCE": "1"} if fault.once else {}),
        }
        for name in ("WANDB_SERVICE", "COLUMNS"):
            environment.pop(name, None)
        self.pid = int(_ask({"words": words, "folder": str(folder), "env": environment, "output": str(self.output)}))

    def wait(self) -> Ended:
        """Wait until it has ended, or has lived as long as its fault says."""
        deadline = self.began + (LONGEST_S if self.fault.after_s is None else self.fault.after_s)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                deadline += LONGEST_S
            time.sleep(0.02)
        return self._ended(code)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.code is None:
            self.code = json.loads(_ask({"wait": self.pid}))
        return self.code

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, how)

    def _ended(self, code: int) -> Ended:
        unflushed = self.place / "events.unflushed"
        lines = unflushed.read_text().splitlines() if unflushed.exists() else []
        ended = Ended(
            code,
            self.output.read_text(errors="replace"),
            int.from_bytes(self.counter.read_bytes(), sys.byteorder),
            {(int(line.split()[0]), int(line.split()[1])) for line in lines},
        )
        shutil.rmtree(self.place)
        return ended


def run(words: list[str], folder: Path, fault: Fault = UNHARMED) -> Ended:
    """Run `words` (a script of the checkout, or SERVE, with its arguments) in `folder`, with this fault of its disk."""
    return Started(words, folder, fault).wait()


@functools.cache
def library() -> Path:
    """faults.c, compiled. Skips the test where there is no compiler, or another system than Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("faults of a disk need Linux and a C compiler")
    target = Path(tempfile.mkdtemp(prefix="faults-")) / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", target, SOURCE, "-ldl"], check=True)
    return target


@functools.cache
def _server() -> subprocess.Popen[str]:
    """It ends with this process, when its input does."""
    environment = {**os.environ, "LD_PRELOAD": str(library()), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, __file__], env=environment, text=True, **pipes)


def _ask(order: dict[str, Any]) -> str:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(order) + "\n")
    server.stdin.flush()
    return server.stdout.readline()


def _serve() -> None:
    """Answer orders, a line each: start a command (its process id), wait for it (its exit code; null while it runs)."""
    for stage in STAGES:
        importlib.import_module(f"edgenetllm.stages.{stage}")
    importlib.import_module("edgenetllm.edge.agent.service")
    _warm_up()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            ended, status = os.waitpid(order["wait"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None), flush=True)
            continue
        gc.collect()
        gc.freeze()  # else every child copies all of it
        child = os.fork()
        if child == 0:
            _become(**order)
            return
        print(child, flush=True)


def _warm_up() -> None:
    """Read the sources of this package once for all commands: their hashes take most of the time of such a small run."""
    code = importlib.import_module("edgenetllm.code_identity")
    imported_by = code.imported_by
    imports = functools.cache(lambda tree, name, package: tuple(imported_by(tree, name, package)))
    code.imported_by, code._tree, code._fingerprint = (
        imports,
        functools.cache(code._tree),
        functools.cache(code._fingerprint),
    )
    code.code_identity(*(f"edgenetllm.stages.{stage}" for stage in STAGES), "edgenetllm.tasks.abr.task")


def _become(words: list[str], folder: str, env: dict[str, str], output: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    with open(os.devnull) as nothing, open(output, "w") as written:
        for standard, file in enumerate((nothing, written, written)):
            os.dup2(file.fileno(), standard)
    ctypes.CDLL(None).faults_arm()
    program = words[0]
    if program == SERVE:
        sys.argv = words
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [str(ROOT / program), *words[1:]], str(ROOT)
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
