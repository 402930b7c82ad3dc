"""The command line as a user meets it: what answers at once, what is suggested, what leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from small import ROOT
from test_config import settings
from typed import ABR, call, runs, surroundings

from edgenetllm.commands import going_on, shell, value_of, word
from edgenetllm.composition import CONF
from edgenetllm.disk import explain_disk
from edgenetllm.errors import UserError
from edgenetllm.explain import explain
from edgenetllm.progress import tqdm
from edgenetllm.run import Run

HEAVY = ("torch", "transformers", "lightning", "numba", "peft", "pandas", "wandb", "matplotlib")


def typed(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python train.py <words>` in a process that has imported nothing yet."""
    command = [sys.executable, str(ROOT / "train.py"), *words]
    env = {**surroundings(), **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [["--help"], ["data.settng=small"], ["model=smolm2"], ["--cfg", "job"]])
def test_what_needs_no_model_imports_none(tmp_path, words):
    code = (
        "import runpy, sys, atexit\n"
        f"atexit.register(lambda: print([name for name in {HEAVY} if name in sys.modules]))\n"
        f"sys.argv = ['train.py', *{words}]\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=surroundings(), capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout[-500:] + done.stderr
    assert done.returncode == (2 if "=" in words[0] else 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_help_and_a_typo_answer_within_two_seconds(tmp_path):
    for words in (["--help"], ["sparsty=0.5"]):
        typed(tmp_path, *words)
        began = time.perf_counter()
        typed(tmp_path, *words)
        assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=cjs", "data=tpch", "data.settng=small"], "Did you mean 'data.setting'?"),
        (["data.settng=small"], "'data.settng' is not a key"),
        (["-m", "task=abr,cjs", "data=fcc,tpch", "data.settng=small"], "Did you mean 'data.setting'?"),
        (["-m", "task=cjs,cjs", "data=tpch,synthetic_dags", "data.exectors=3"], "Did you mean 'data.executors'?"),
        (["model=smolm2"], "model=smolm2: there is no such option. Did you mean smollm2? There are gpt2,"),
        (["data@data.abr=nroway", "task=abr+cjs"], "Did you mean norway?"),
        (["mdel=tiny"], "Did you mean 'model'?"),
        (["experiment=debgu"], "experiment=debgu: there is no such option. Did you mean debug?"),
        (["-m", "sweep=retentoin"], "Did you mean retention?"),
        (["-m", "experiment=debug,debgu"], "Did you mean debug?"),
        (["paths.log_dir=/x [1]"], shlex.quote("paths.log_dir='/x [1]'")),
        (["model.path=/a b=c"], shlex.quote("model.path='/a b=c'")),
        (["model.path=a,b"], shlex.quote("model.path='a,b'")),
        (["sparsity"], "an override is key=value"),
        (["-m", "placement=cloud,split", "placement.loss=0.1"], "in a sweep over these, type ++placement.loss=..."),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_what_to_type(tmp_path, words, message):
    done = typed(tmp_path, *words)
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    assert not list(tmp_path.iterdir())


OWN = ["--config-dir", str(ROOT / "examples" / "congestion" / "conf")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*OWN, "task=congestoin"], "Did you mean congestion? There are abr, abr+cjs, cjs, congestion, forecast, vp;"),
        ([*OWN, "task=congestion", "task.stps=3"], "Did you mean 'task.steps'?"),
        ([f"--config-dir={OWN[1]}", "-m", "task=abr,congestion", "task.stps=3"], "Did you mean 'task.steps'?"),
        ([*OWN, "pruning=power_wanda", "pruning.method.pwer=1"], "Did you mean 'pruning.method.power'?"),
        (["task=congestion"], "options of your own lie in the folder that --config-dir names"),
    ],
)  # fmt: skip
def test_options_of_config_dir_are_known_as_well(tmp_path, words, message):
    done = typed(tmp_path, *words)
    assert message in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


def test_help_shows_the_options_of_config_dir(tmp_path):
    shown = typed(tmp_path, *OWN, "--help").stdout
    assert "task: abr, abr+cjs, cjs, congestion" in shown
    assert "power_wanda" in shown


def test_a_printed_command_names_config_dir_again(monkeypatch):
    for words in (["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own"]):
        monkeypatch.setattr(sys, "argv", ["train.py", *words, "seed=2"])
        assert shell(["seed=2"]) == "python train.py --config-dir own seed=2"
        assert shell([*words, "seed=2"]) == shlex.join(["python", "train.py", *words, "seed=2"])
    monkeypatch.setattr(sys, "argv", ["train.py", "-c", "job"])
    assert shell(["seed=2"]) == "python train.py seed=2"


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"]])
def test_an_output_that_nobody_reads_ends_quietly(tmp_path, words):
    command = f"{shlex.join([sys.executable, str(ROOT / 'train.py'), *words])} | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=surroundings(), capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_shell_completion_knows_the_keys(tmp_path):
    asked = {"COMP_LINE": "python train.py data.", "COMP_POINT": "20"}
    done = typed(tmp_path, "-sc", "query=bash", **asked)
    assert "data.train=" in done.stdout


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_value_is_read_back(value):
    assert value_of(word("resume", value)) == value


NAMES = [
    "a b",
    "a=b",
    "/x [1]",
    "a,b",
    'it\'s "so"',
    "$HOME ${HOME} `ls`",
    "ümläut",
    r"back\slash",
    "~x",
    "(a) {b:c} # ;",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_command_is_read_back_by_a_shell_and_by_hydra(monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    command = going_on(["-m", "sparsity=0.5", "resume=true", "dry_run=true", "-x"], Path(name))
    spoken = f"{shlex.quote(sys.executable)} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' {command}"
    done = subprocess.run(["bash", "-c", spoken], capture_output=True, text=True, check=True)
    words = json.loads(done.stdout)
    assert words == ["python", "train.py", "-m", words[3], "sparsity=0.5", "-x"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("config", [words[3]]).resume == str(Path(name))


def test_a_terminal_without_unicode_shows_what_it_can():
    code = "from edgenetllm import console; console.prepare(); print('QoE ↑ – 40 %')"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "QoE ? ? 40 %\n"


def test_a_home_that_cannot_be_written_to_costs_a_note():
    code = (
        "from edgenetllm.caches import cache_folder as f; a = f(); (a / 'numba').mkdir(parents=True); print(a == f())"
    )
    env = {**os.environ, "XDG_CACHE_HOME": "/dev/null/home"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert done.stderr.startswith(
        "note: /dev/null/home/edgenetllm cannot be used (Not a directory); caches are kept in "
    )
    assert len(done.stderr.splitlines()) == 1
    assert not Path(done.stderr.split("kept in ")[1].removesuffix(" for this run\n")).exists()


def test_a_folder_that_cannot_be_written_to_ends_in_one_sentence(tmp_path):
    (tmp_path / "logs").touch()
    output = call("train.py", tmp_path, *ABR, ok=False)
    assert output.splitlines()[-1].startswith(f"error: paths.log_dir='{tmp_path}/logs'")
    assert "paths.log_dir=" in output.splitlines()[-1]
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "words", [["dry_run=true"], ["sparsity=1.5"], ["pruning.calibration=text"], ["-m", "dry_run=true"]]
)
def test_what_does_not_begin_leaves_no_folder(tmp_path, words):
    call("train.py", tmp_path, *words, *ABR, ok="dry_run=true" in words)
    assert not (tmp_path / "logs").exists()


def test_a_resumption_that_is_refused_leaves_the_run_as_it_was(tmp_path):
    run = tmp_path / "logs" / "train" / "mine"
    run.mkdir(parents=True)
    state = {"stage": "train", "config_hash": "0", "status": "interrupted", "id": "a", "sweep": None}
    (run / "run.json").write_text(json.dumps(state))
    assert "another configuration" in call("train.py", tmp_path, *ABR, f"resume={run}", ok=False)
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "config.yaml").write_text(yaml.safe_dump(settings(*ABR)))
    (parent / "choices.yaml").write_text("{}")
    assert "is a run of train.py" in call("evaluate.py", tmp_path, f"run={parent}", f"resume={run}", ok=False)
    assert [path.name for path in run.iterdir()] == ["run.json"]
    assert json.loads((run / "run.json").read_text()) == state


def test_runs_that_begin_in_the_same_second_have_a_folder_each(tmp_path):
    first, second = (Run(tmp_path / "now", "train", {"task": {}}, {}, is_new=True) for _ in range(2))
    first.claim()
    second.claim()
    assert first.folder == tmp_path / "now"
    assert second.folder != first.folder
    assert second.folder.is_dir()
    resumed = Run(tmp_path / "now", "train", {"task": {}}, {})
    resumed.claim()
    assert resumed.folder == first.folder


@pytest.mark.slow
def test_a_disk_that_is_full_ends_in_one_sentence_and_the_state_is_right(tmp_path):
    """No file may have more than 100 KiB, and a pool or a checkpoint has more."""
    words = [*ABR, "experience.workers=1", f"paths.log_dir={tmp_path}/logs", f"paths.cache_dir={tmp_path}/cache"]
    command = shlex.join([sys.executable, str(ROOT / "train.py"), *words])
    limited = ["bash", "-c", f"ulimit -f 100; exec {command}"]
    done = subprocess.run(limited, cwd=tmp_path, env=surroundings(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "go on with resume=" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    (run,) = runs(tmp_path, "train")
    assert json.loads((run / "run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[enforce fail at inline_container.cc:672]"),
     RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")],
)  # fmt: skip
def test_libraries_say_in_many_ways_that_a_disk_is_full(error):
    wrapped = ValueError("while saving")
    wrapped.__cause__ = error
    assert "make room, then type the command again" in str(explain_disk(wrapped))
    assert explain_disk(ValueError("no")) is None
    assert explain(UserError("no"), []) == "error: no"


def test_the_state_of_a_run_is_written_where_nothing_else_has_room(tmp_path, monkeypatch):
    run = Run(tmp_path, "train", {"task": {}, "a": 1}, {})
    run.note(status="running")

    def full(path: Path, obj: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("edgenetllm.run.write_json", full)
    run.finish("failed")
    assert run.state()["status"] == "failed"


def test_a_log_holds_what_matters_and_nothing_else(tmp_path):
    output = call("train.py", tmp_path, *ABR, "callbacks.progress_bar=true", "evaluation.plots=false")
    for noise in ("GPU", "TPU", "Tip", "pytree", "max_epochs", "logging interval", "\r", " 0%|"):
        assert noise not in output
    assert "fit: epoch 2 of 2, step 16 of 16, train/loss=" in output
    assert output.count("replay test: 100%") == output.count("edge test: 100%") == 1


class File:
    """The file that a bar writes to, which is no terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_without_a_terminal_a_bar_is_a_line_now_and_then(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("edgenetllm.progress.time.monotonic", lambda: clock[0])
    file = File()
    for _ in tqdm(range(100), "playing", file=file, mininterval=0):
        clock[0] += 1
    lines = file.text.splitlines()
    assert [line.split("|")[0] for line in lines] == [
        "playing:  30%",
        "playing:  60%",
        "playing:  90%",
        "playing: 100%",
    ]
    assert "\r" not in file.text
    assert file.text.endswith("\n")
    short = File()
    list(tqdm(range(3), "short", file=short))
    assert len(short.text.splitlines()) == 1
    silent = File()
    list(tqdm(range(3), file=silent, disable=True))
    assert silent.text == ""
