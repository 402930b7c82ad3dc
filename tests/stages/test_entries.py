"""No file of the stages is a hub: what a run needs of one more than once is computed once, and handed on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from small import ROOT
from typed import ABR, command, surroundings

MOST = 5  # calls into one file in a whole run
# Runs a program and writes, for each file of the stages, how often another file of this package called into it (which the
# functions that it hands out, anonymous ones, are not).
COUNTING = """
import collections, json, runpy, sys
from pathlib import Path

source, counts, starts = Path(sys.argv[2]), collections.Counter(), {}
stages = str(source / "edgenetllm" / "stages")

def count(frame, event, _):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(stages) or code.co_name in ("<lambda>", "<module>"):
        return
    if frame.f_lasti != starts.setdefault(code, frame.f_lasti):
        return  # a generator goes on
    caller = frame.f_back
    while caller is not None and not caller.f_code.co_filename.startswith(str(source)):
        caller = caller.f_back
    if caller is not None and caller.f_code.co_filename != code.co_filename:
        counts[Path(code.co_filename).name] += 1

out, program, sys.argv = sys.argv[1], sys.argv[3], sys.argv[3:]
sys.setprofile(count)
runpy.run_path(program, run_name="__main__")
sys.setprofile(None)
Path(out).write_text(json.dumps(counts))
"""


@pytest.mark.slow
def test_a_run_enters_no_file_of_the_stages_more_than_five_times(tmp_path):
    typed = command("train.py", tmp_path, *ABR, "logger=csv", "evaluation.plots=false", "evaluation.bounds=true")[1:]
    counting = [sys.executable, "-c", COUNTING, str(tmp_path / "counts.json"), str(ROOT / "src"), *typed]
    done = subprocess.run(counting, cwd=tmp_path, env=surroundings(), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert {"train.py", "adaptation.py", "identity.py"} <= counts.keys()
    assert {name: number for name, number in counts.items() if number > MOST} == {}
