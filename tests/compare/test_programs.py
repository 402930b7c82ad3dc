"""The reporting programs on consoles that are not the usual one: nobody reads, ASCII only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from compare.study_runs import Runs

PROGRAMS = ["edgenetllm.compare", "edgenetllm.compare.seeds", "edgenetllm.compare.retention",
            "edgenetllm.tracking.workspace"]  # fmt: skip


def run(*words: object, **how: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **how)  # type: ignore[call-overload]


def run_unread(*words: object) -> subprocess.CompletedProcess[str]:
    """A pipe whose reader has gone before anything is printed: what may happen to `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return run(*words, stdout=writing)
    finally:
        os.close(writing)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_help_that_nobody_reads_ends_quietly(program):
    done = run_unread(program, "--help")
    assert (done.stderr, done.returncode) == ("", 128 + signal.SIGPIPE)


def test_a_table_that_nobody_reads_ends_quietly(tmp_path):
    done = run_unread("edgenetllm.compare.seeds", Runs(tmp_path).write(0.9))
    assert (done.stderr, done.returncode) == ("", 128 + signal.SIGPIPE)


def test_words_that_are_not_understood_are_an_error_also_where_nobody_reads():
    done = run_unread("edgenetllm.compare.seeds", "--against")
    assert done.returncode == 2
    assert "expected at least one argument" in done.stderr


@pytest.mark.slow
def test_a_terminal_without_unicode_shows_the_table_and_the_files(tmp_path):
    folder = Runs(tmp_path / "läufe").write(0.9)
    ascii_only = {"env": {**os.environ, "PYTHONIOENCODING": "ascii"}, "stdout": subprocess.PIPE}
    table = run("edgenetllm.compare.seeds", folder, **ascii_only)
    assert (table.stderr, table.returncode) == ("", 0)
    assert "| sparse" in table.stdout
    drawn = run("edgenetllm.compare.retention", folder.parent, "--out", folder.parent / "studie", **ascii_only)
    assert drawn.returncode == 0, drawn.stderr
    assert "l?ufe/studie.png" in drawn.stdout
    page = run("edgenetllm.compare", folder.parent, **ascii_only)
    assert page.returncode == 0, page.stderr
    assert "l?ufe/comparison.html: 1 run compared" in page.stdout
    assert Path(tmp_path / "läufe" / "comparison.html").is_file()
    absent = run("edgenetllm.compare.seeds", tmp_path / "ü", **ascii_only)
    assert (absent.returncode, absent.stdout) == (1, "")
    assert absent.stderr.startswith("error: ")
