"""Grids: their jobs, what is done again and what not, and that no job touches another."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console
from small import ROOT
from sweeps.commands import figures, jobs, run, sweeps
from typed import surroundings

from edgenetllm.commands import word
from edgenetllm.errors import UserError
from edgenetllm.sweeps.devices import check_devices
from edgenetllm.sweeps.folder import identity, open_sweep, read_sweep
from edgenetllm.sweeps.grid import combinations
from edgenetllm.sweeps.isolation import isolated
from edgenetllm.sweeps.summary import print_summary

BAD = "pruning.calibration=text"  # the tiny model has no tokenizer: said when the job runs, not when it is composed

GRID = ["sparsity=0.3", "seed=1,2", "pruning.calibration=pool,text", "pruning.windows=4"]


def test_a_grid_is_every_combination_and_what_is_typed_replaces_the_preset():
    assert combinations(["seed=1,2", "task=abr"], {"sparsity": "0,0.4", "seed": 7}) == [
        ["sparsity=0", "seed=1", "task=abr"],
        ["sparsity=0", "seed=2", "task=abr"],
        ["sparsity=0.4", "seed=1", "task=abr"],
        ["sparsity=0.4", "seed=2", "task=abr"],
    ]
    assert combinations(["evaluation.targets=[0.5,0.9]", "seed=range(1,4)"], {}) == [
        ["evaluation.targets=[0.5,0.9]", f"seed={seed}"] for seed in (1, 2, 3)
    ]
    with pytest.raises(UserError, match="sweep=search"):
        combinations(["trainer.task_lr=interval(0,1)"], {})


def test_a_command_is_the_same_whatever_changes_no_result():
    first = identity("train", ["seed=1,2", "sparsity=0,0.4"])
    assert first == identity(
        "train", ["sparsity=0,0.4", "seed=1,2", "launcher=slurm", "logger=csv", "trainer.threads=4"]
    )
    assert first != identity("train", ["sparsity=0,0.4", "seed=1,2,3"])
    assert first != identity("prune", ["sparsity=0,0.4", "seed=1,2"])


def test_sweeps_that_begin_in_the_same_second_have_a_folder_each(tmp_path):
    first = open_sweep(tmp_path / "now", "train", ["seed=1,2"])
    second = open_sweep(tmp_path / "now", "train", ["seed=3,4"])
    assert first != second
    assert read_sweep(first)["arguments"] == ["seed=1,2"]
    assert read_sweep(second)["arguments"] == ["seed=3,4"]


@pytest.mark.parametrize("terminal", [False, True])
def test_names_of_jobs_are_not_broken(tmp_path, terminal):
    names = ["abr-a_model_with_a_long_name-some_data-s0.4-wanda-seed1_12345678", "abr-short"]
    facts = {
        "stage": "train",
        "identity": "0",
        "arguments": [],
        "jobs": {name: [f"seed={number}", "sparsity=0.4"] for number, name in enumerate(names)},
    }
    (tmp_path / "sweep.json").write_text(json.dumps(facts))
    output = io.StringIO()
    print_summary(tmp_path, Console(file=output, width=60, force_terminal=terminal, color_system=None))
    for number, name in enumerate(names):
        assert f"{name} " in output.getvalue()
        assert terminal or re.search(rf"{name} +seed={number} +not started", output.getvalue())


@pytest.mark.slow
def test_the_command_that_is_printed_for_a_failed_job_can_be_pasted(tmp_path, monkeypatch, capsys):
    """The sweep lies in a folder with a difficult name."""
    logs = tmp_path / "it's a=b [1], ü $HOME {x} (y)"
    assert run(monkeypatch, tmp_path, "train", "-m", "logger=csv", BAD, word("paths.log_dir", logs)) == 1
    printed = [line.strip() for line in capsys.readouterr().err.splitlines() if line.startswith("  python ")]
    assert len(printed) == 1
    pasted = f"cd {shlex.quote(str(tmp_path))}; {printed[0]} dry_run=true"
    pasted = pasted.replace("python train.py", f"{sys.executable} {ROOT / 'train.py'}", 1)
    done = subprocess.run(["bash", "-c", pasted], env=surroundings(), capture_output=True, text=True, check=False)
    assert "has no tokenizer" in done.stderr, (
        done.stderr
    )  # the job's own failure again: it was found, and read as it was
    (sweep,) = (logs / "multirun").iterdir()
    assert len(list(sweep.glob("*/run.json"))) == 1


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """Four jobs with W&B, of which the second and the fourth fail."""
    folder = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, folder, "train", "-m", "logger=wandb", *GRID) == 1
    return folder


def test_one_failure_stops_nothing_and_is_reported_at_the_end(swept, capsys):
    found = jobs(sweeps(swept)[0])
    assert {words: job["status"] for words, job in found.items()} == {
        "seed=1 pruning.calibration=pool": "finished",
        f"seed=1 {BAD}": "failed",
        "seed=2 pruning.calibration=pool": "finished",
        f"seed=2 {BAD}": "failed",
    }
    failed = found[f"seed=1 {BAD}"]
    assert "model=tiny has no tokenizer" in failed["error"]
    assert "Traceback" in (failed["folder"] / "error.txt").read_text()


def test_the_same_job_alone_and_third_in_a_sweep_gives_the_same_figures(swept, monkeypatch):
    """In the sweep it came after a finished and a failed one, in the same process."""
    third = jobs(sweeps(swept)[0])["seed=2 pruning.calibration=pool"]
    alone = ["logger=csv", "sparsity=0.3", "seed=2", "pruning.calibration=pool", "pruning.windows=4"]
    assert run(monkeypatch, swept, "train", *alone, cache="another") == 0
    job = next((swept / "logs" / "train").glob("*"))
    assert (job / "checkpoints").is_dir()  # it learnt again
    assert figures(job) == figures(third["folder"])
    assert json.loads((job / "run.json").read_text())["config_hash"] == third["config_hash"]


def test_every_job_has_a_wandb_run_of_its_own_and_none_stays_open(swept):
    import wandb

    assert wandb.run is None
    finished = [job for job in jobs(sweeps(swept)[0]).values() if job["status"] == "finished"]
    names = [
        path.name.rpartition("-")[2] for job in finished for path in (job["folder"] / "wandb").glob("offline-run-*")
    ]
    assert sorted(names) == sorted(job["id"] for job in finished)


def test_resume_runs_what_is_not_done_and_only_that(swept, monkeypatch, capsys):
    before = {words: (job["folder"] / "run.json").stat().st_mtime_ns for words, job in jobs(sweeps(swept)[0]).items()}
    assert run(monkeypatch, swept, "train", "-m", "logger=csv", *GRID, "resume=true") == 1
    assert len(sweeps(swept)) == 1
    assert "2 of 4 jobs are done already" in capsys.readouterr().out
    after = {words: (job["folder"] / "run.json").stat().st_mtime_ns for words, job in jobs(sweeps(swept)[0]).items()}
    assert {words for words in before if before[words] != after[words]} == {f"seed=1 {BAD}", f"seed=2 {BAD}"}


def test_a_job_that_was_resumed_by_itself_is_done(swept, monkeypatch, capsys):
    words = "seed=1 pruning.calibration=pool"
    job = jobs(sweeps(swept)[0])[words]["folder"]
    state = json.loads((job / "run.json").read_text())
    (job / "run.json").write_text(json.dumps({**state, "status": "failed", "done": False, "objective": None}))
    alone = ["logger=csv", "sparsity=0.3", "pruning.windows=4", *words.split(), f"resume={job}"]
    failed = (job / "run.json").read_bytes()
    assert run(monkeypatch, swept, "train", *alone, "dry_run=true") == 0
    assert (job / "run.json").read_bytes() == failed
    assert run(monkeypatch, swept, "train", *alone) == 0
    assert {key: json.loads((job / "run.json").read_text())[key] for key in ("status", "done", "objective")} == {
        "status": "finished", "done": True, "objective": state["objective"],
    }  # fmt: skip


def test_a_larger_grid_in_the_same_folder_runs_only_the_new_jobs(swept, monkeypatch, capsys):
    words = ["-m", "logger=csv", "sparsity=0.3,0.5", "seed=1,2", "pruning.calibration=pool", "pruning.windows=4"]
    assert run(monkeypatch, swept, "train", *words, f"resume={sweeps(swept)[0]}", "dry_run=true") == 0
    plan = capsys.readouterr().out
    assert plan.count("all: done before") == 2
    assert plan.count("pool, adaptation") == 2
    assert "GiB free" in plan
    assert len(jobs(sweeps(swept)[0])) == 4  # a dry run begins nothing


def test_a_dry_run_says_what_jobs_share_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, tmp_path, "train", "-m", "sparsity=0.3,0.5", "dry_run=true") == 0
    plan = capsys.readouterr().out
    assert "2 jobs" in plan
    assert "(of job" in plan
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sparsity=0.3,1.5", "seed=1,2"], "sparsity=1.5: give a number from 0 to 1"),
        (["sparsity=0.3,0.5", "resume=true"], "has no sweep of this command"),
        (["sparsity=0.3,0.5", "resume=/nowhere"], "not the folder of a sweep"),
        (["trainer.strategy=ddp", "trainer.devices=2", "launcher.gpus=2", "seed=1,2"], "type launcher=basic"),
    ],
)
def test_mistakes_are_said_before_anything_starts(tmp_path, monkeypatch, capsys, words, message):
    assert run(monkeypatch, tmp_path, "train", "-m", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {"LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"OMPI_COMM_WORLD_RANK": "0"},
        {"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"},
    ],
)
def test_a_sweep_that_is_started_once_for_each_rank_is_refused(tmp_path, monkeypatch, capsys, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run(monkeypatch, tmp_path, "train", "-m", "seed=1,2") == 2
    assert "trainer=ddp (or fsdp) trainer.devices=n each job starts its own ranks" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_devices_that_a_launcher_does_not_give_are_refused():
    one, two = {"trainer": {"name": "gpu"}}, {"trainer": {"name": "ddp", "strategy": "ddp", "devices": 2}}
    basic, slurm = OmegaConf.create({"_target_": "x"}), OmegaConf.create({"tasks_per_node": 4, "nodes": 1})
    check_devices({**one, "launcher": {"gpus": 2}}, basic)
    check_devices({**two, "launcher": {"gpus": 0}}, basic)
    with pytest.raises(UserError, match="launcher=basic"):
        check_devices({**two, "launcher": {"gpus": 2}}, basic)
    with pytest.raises(UserError, match="starts each job 4 times"):
        check_devices({**two, "launcher": {"gpus": 0}}, slurm)


@pytest.mark.slow
def test_jobs_with_two_ranks_follow_one_another(tmp_path, monkeypatch):
    words = ["trainer.strategy=ddp", "trainer.devices=2", "logger=csv"]
    assert run(monkeypatch, tmp_path, "train", "-m", *words, "seed=1,2") == 0
    found = jobs(sweeps(tmp_path)[0])
    assert [job["status"] for job in found.values()] == ["finished", "finished"]
    assert run(monkeypatch, tmp_path, "train", *words, "seed=2", cache="another") == 0
    alone = next((tmp_path / "logs" / "train").glob("*"))
    assert figures(alone) == figures(found["seed=2"]["folder"])


def test_nothing_of_a_job_is_left_to_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGENETLLM_KEPT", "1")
    hydra, here, threads = GlobalHydra.instance().hydra, Path.cwd(), torch.get_num_threads()
    drawn = []

    def job() -> None:
        with isolated(5, tmp_path):
            assert Path.cwd() == tmp_path
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))  # noqa: NPY002
            os.environ["EDGENETLLM_LEFT"] = "1"
            del os.environ["EDGENETLLM_KEPT"]
            torch.set_default_dtype(torch.float64)
            torch.set_num_threads(3)
            GlobalHydra.instance().hydra = None
            raise RuntimeError

    for _ in range(2):
        with pytest.raises(RuntimeError):
            job()
    assert drawn[0] == drawn[1]
    assert "EDGENETLLM_LEFT" not in os.environ
    assert os.environ["EDGENETLLM_KEPT"] == "1"
    assert (torch.get_default_dtype(), torch.get_num_threads(), Path.cwd()) == (torch.float32, threads, here)
    assert GlobalHydra.instance().hydra is hydra
