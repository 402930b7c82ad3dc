"""Damaged and hostile folders of runs: every command answers with one sentence, or goes on with what is whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from robustness.contained import campaign, check
from robustness.damages import READ_BY, WITH_RUN, cut, text
from robustness.file_cases import checkpoint_attempt, parquet_attempt
from robustness.pool_cases import refused as refused_in
from robustness.run_cases import damage_attempt, json_attempt, yaml_attempt
from test_config import settings
from typed import ABR, outcome, runs

from edgenetllm.compare.__main__ import main as compare
from edgenetllm.models.stored import seal_checkpoint
from edgenetllm.run import Run
from edgenetllm.sweeps.folder import add_jobs, open_sweep, same_sweeps
from edgenetllm.sweeps.job import run_job
from edgenetllm.sweeps.search import Options, open_study
from edgenetllm.sweeps.summary import print_summary

CASES = int(os.environ.get("ROBUSTNESS_CASES", "20000"))
KINDS = {"json": json_attempt, "yaml": yaml_attempt, "checkpoint": checkpoint_attempt, "parquet": parquet_attempt}
QUICK = {"json": 300, "yaml": 40, "checkpoint": 150, "parquet": 300}
# The ordinary suite reads every damaged run in this process, and starts these few commands.
FEW = (
    ("evaluate", "a checkpoint with code"),
    ("prune", "results cut off"),
    ("specialise", "no task"),
)
LONG = [pytest.mark.slow, pytest.mark.robustness]
TRIED = [
    pytest.param(stage, name, marks=[] if (stage, name) in FEW else LONG)
    for stage, names in READ_BY.items()
    for name in names
]


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of a finished run, with its cache next to it."""
    folder = tmp_path / "logs/train/run"
    shutil.copytree(runs(trained, "train")[0], folder, ignore=shutil.ignore_patterns("wandb"))
    (tmp_path / "cache").mkdir()
    shutil.copytree(trained / "cache/pools", tmp_path / "cache/pools")
    return folder


def refused(words: list[str], folder: Path, sentence: str) -> None:
    """The command ends with exit code 2 and one line of error, in which `sentence` stands; no code was run."""
    code, output = outcome(words, folder)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2, output
    assert len(errors) == 1, output
    assert sentence in errors[0], output
    assert output.splitlines()[-1] == errors[0]
    assert len(errors[0]) < 1500
    assert "Traceback" not in output
    assert "\x1b" not in output
    assert not list(folder.rglob("opened"))


def words_of(stage: str, folder: Path, *more: str) -> list[str]:
    paths = [f"paths.log_dir={folder}/logs", f"paths.cache_dir={folder}/cache"]
    return [f"{stage}.py", "logger=csv", "callbacks.progress_bar=false", *more, *paths]


@pytest.mark.parametrize("kind", KINDS)
def test_altered_files_are_read_or_refused(trained, kind):
    """A few hundred of the cases; the long test has all."""
    run = runs(trained, "train")[0]
    check(campaign(f"run folders, {kind}", range(QUICK[kind]), KINDS[kind](run), allowed=[run]))


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("kind", KINDS)
def test_many_altered_files_are_read_or_refused(trained, kind):
    """ROBUSTNESS_CASES of each kind, from ROBUSTNESS_FIRST on."""
    first, run = int(os.environ.get("ROBUSTNESS_FIRST", "0")), runs(trained, "train")[0]
    check(campaign(f"run folders, {kind}", range(first, first + CASES), KINDS[kind](run), allowed=[run]))


def test_every_damage_is_refused_with_its_sentence(trained):
    """In one process, by the functions that a command with run= calls."""
    tally = campaign("damaged runs", range(len(WITH_RUN)), damage_attempt(runs(trained, "train")[0]), allowed=[trained])
    check(tally)
    assert tally.ends == {"refused": len(WITH_RUN)}


@pytest.mark.parametrize(("stage", "name"), TRIED)
def test_a_command_refuses_a_damaged_run_with_a_sentence(run, tmp_path, stage, name):
    damage, sentence = WITH_RUN[name]
    damage(run)
    more = ["data=norway"] if stage == "specialise" else []
    refused(words_of(stage, tmp_path, f"run={run}", *more), tmp_path, sentence)


def interrupted(run: Path) -> None:
    state = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**state, "status": "interrupted"}))
    (run / "adaptation.json").unlink()


def test_one_damaged_state_stops_no_other_run(run, tmp_path):
    interrupted(run)
    others = {"cut": '{"stage": "tr', "list": "[]", "status": '{"status": 3}', "deep": "[" * 5000}
    for name, state in others.items():
        (tmp_path / "logs/train" / name).mkdir()
        (tmp_path / "logs/train" / name / "run.json").write_text(state)
    code, output = outcome(words_of("train", tmp_path, *ABR, "resume=true", "dry_run=true"), tmp_path)
    assert code == 0, output
    for name in others:
        assert (
            len(
                [
                    line
                    for line in output.splitlines()
                    if line.startswith("warning: left out:") and f"train/{name}/run.json" in line
                ]
            )
            == 1
        )


RESUMED = {
    "a state cut off": (text("run.json", '{"stage": "tr'), "run.json: not JSON"),
    "a state that is a list": (text("run.json", "[]"), "run.json is damaged"),
    "a state of another kind": (text("run.json", '{"status": "done"}'), "run.json is damaged: status"),
    "a checkpoint cut off": (cut("checkpoints/last.ckpt"), "last.ckpt"),
    "a checkpoint of text": (text("checkpoints/last.ckpt", "x"), "last.ckpt"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "a state cut off" else LONG) for name in RESUMED]
)
def test_a_damaged_run_is_not_gone_on_with(run, tmp_path, name):
    interrupted(run)
    damage, sentence = RESUMED[name]
    damage(run)
    refused(words_of("train", tmp_path, *ABR, f"resume={run}"), tmp_path, sentence)


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("entry", ["loops", "callbacks", "optimizer_states", "lr_schedulers", "epoch", "state_dict"])
def test_a_checkpoint_without_its_progress_is_not_gone_on_with(run, tmp_path, entry):
    interrupted(run)
    last = run / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    del content[entry]
    torch.save(content, last)
    refused(words_of("train", tmp_path, *ABR, f"resume={run}"), tmp_path, "last.ckpt")


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize(
    "forge",
    [
        lambda content: content["loops"].pop("fit_loop"),
        lambda content: content["loops"]["fit_loop"].update({"epoch_progress": 3}),
        lambda content: content.update(callbacks=dict.fromkeys(content["callbacks"], 3)),
        lambda content: content["optimizer_states"][0].pop("param_groups"),
        lambda content: content["optimizer_states"].clear(),
        lambda content: content["lr_schedulers"][0].update(lr_lambdas=3),
        lambda content: content.update({"pytorch-lightning_version": "none"}),
    ],
)
def test_a_forged_checkpoint_is_not_gone_on_with(run, tmp_path, forge):
    """Sealed again, so that only Lightning finds it out."""
    interrupted(run)
    last = run / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    forge(content)
    seal_checkpoint(content)
    torch.save(content, last)
    refused(words_of("train", tmp_path, *ABR, f"resume={run}"), tmp_path, "last.ckpt")


def test_damaged_sweeps_and_jobs_are_set_aside(tmp_path, capsys):
    words = ["seed=1,2"]
    good = open_sweep(tmp_path / "good", "train", words)
    add_jobs(good, {"one": ["seed=1"], "two": ["seed=2"]})
    for name, state in (("one", '{"status": "finished", "done": true, "objective": 1.5}'), ("two", '{"status": NaN}')):
        (good / name).mkdir()
        (good / name / "run.json").write_text(state)
    for name, facts in (
        ("cut", '{"stage'),
        ("jobs", '{"stage": "train", "identity": "0", "arguments": [], "jobs": {"../x": []}}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").write_text(facts)
    assert list(same_sweeps("train", words, tmp_path)) == [good]
    assert capsys.readouterr().err.count("warning: left out: ") == 2
    assert [name for name, _ in print_summary(good)] == ["two"]
    output = " ".join(capsys.readouterr().out.split())
    assert "two seed=2 unreadable" in output
    assert f"two: {good}/two/run.json: not JSON: NaN is no JSON number; delete the folder of the job" in output
    run = Run(good / "two", "train", settings("experiment=debug"), {})
    assert run_job(run, lambda: 1.0) is None  # which does not end the sweep
    assert "two: failed: UserError" in capsys.readouterr().err


def test_a_damaged_study_is_named(tmp_path):
    pytest.importorskip("optuna")
    options = Options({}, 1, "auto", None, {"_target_": "optuna.samplers.RandomSampler"}, None, 0)
    open_study(str(tmp_path / "study.log"), "maximize", options)
    # A last line without its end is one that a killed process was writing: it is dropped.
    for damage in (b"x\n", b'{"op_code": 99}\n', b"[1]\n"):
        (tmp_path / "study.log").write_bytes(damage)
        message = refused_in(lambda: open_study(str(tmp_path / "study.log"), "maximize", options))
        assert "study.log is not a readable study" in message


COMPARED = {
    "results cut off": ("results.json", None, "results.json: not JSON"),
    "results of a list": ("results.json", "[]", "results.json: results of schema None"),
    "results nested without end": ("results.json", "[" * 100_000, "results.json: nested deeper"),
    "metrics cut off": ("metrics.parquet", None, "metrics.parquet: not a readable parquet file"),
    "metrics of text": ("metrics.parquet", "x" * 100, "metrics.parquet: not a readable parquet file"),
    "no metrics": ("metrics.parquet", "", "metrics.parquet: not a readable parquet file"),
    "a replay cut off": ("replay.parquet", None, "replay.parquet: not a readable parquet file"),
    "a replay of text": ("replay.parquet", "PAR1", "replay.parquet: not a readable parquet file"),
}


@pytest.mark.parametrize("name", COMPARED)
def test_tables_of_damaged_files_are_refused(run, capsys, name):
    file, content, sentence = COMPARED[name]
    path = run / "abr" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content.encode())
    assert compare([str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_the_page_leaves_damaged_runs_out_and_says_why(run, tmp_path, capsys):
    for name, content in (("a", "{"), ("b", "[]"), ("c\x1b[2J<b>", '{"schema": 1}')):
        (tmp_path / "logs/train" / name).mkdir()
        (tmp_path / "logs/train" / name / "results.json").write_text(content)
    assert compare([str(tmp_path / "logs")]) == 0
    assert "1 run compared, 3 left out" in capsys.readouterr().out
    page = (tmp_path / "logs/comparison.html").read_text()
    assert "<b>" not in page.partition('<section id="left-out">')[2]
    assert "\x1b" not in page
