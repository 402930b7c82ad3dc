"""The examples of docs/extending.md, written as they stand there and run by the commands that stand there."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from small import ROOT
from typed import call, runs

import edgenetllm.edge as edge
from edgenetllm.edge.bundle import read_bundle

DOCUMENT = (ROOT / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"^`((?:mylab|myconf)/[\w/.]+)`:\n\n```\w+\n(.*?)```", DOCUMENT, re.MULTILINE | re.DOTALL))
COMMANDS = [shlex.split(line)[2:] for line in re.findall(r"^python train\.py --config-dir .*$", DOCUMENT, re.MULTILINE)]
SMALL = {
    "abr": ["data.test=5"],
    "cjs": [
        "task.validation=2",
        "budget.episodes=8",
        "budget.epochs=1",
        "budget.batches_per_epoch=2",
        "trainer.warmup_steps=1",
    ],
}


def words_of(task: str) -> list[str]:
    """Every word of the commands of a task, once; of two values of a key, the one of the later command."""
    words: dict[str, str] = {}
    for command in COMMANDS:
        if any(word.startswith(f"task={task}") for word in command):
            words |= {word.partition("=")[0].removeprefix("+"): word for word in command[2:]}
    return [*words.values(), *SMALL[task], "callbacks.progress_bar=false", "trainer.threads=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of your own, with `mylab` and `myconf`."""
    folder = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "mylab" / "__init__.py").touch()
    return folder


@pytest.fixture(scope="module")
def run(folder) -> Path:
    """One run with all that is added to `task=abr`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        call("train.py", folder, "--config-dir", "myconf", *words_of("abr"))
    (made,) = [run for run in runs(folder, "train") if "_abr-" in run.name]
    return made


def file_of(run: Path, name: str) -> Path:
    (found,) = run.rglob(name)
    return found


def test_every_part_has_its_files_and_a_command():
    table = re.findall(r"^\| \[[\w ]+\]\((#[\w-]+)\) \|.*\|(.*)\|$", DOCUMENT, re.MULTILINE)
    assert len(table) == 12
    for _, place in table:
        if found := re.search(r"myconf/(\w+)/", place):
            assert any(name.startswith(f"myconf/{found[1]}/") for name in FILES) or found[1] == "task"
    targets = {target for text in FILES.values() for target in re.findall(r"_target_: (mylab\.\w+)", text)}
    modules = {name[:-3].replace("/", ".") for name in FILES if name.endswith(".py")}
    assert targets == modules - {"mylab.edge_networks", "mylab.throughput"}  # for a device; a program of its own
    assert all(command[:2] == ["--config-dir", "myconf"] for command in COMMANDS)


def test_all_parts_of_abr_work_in_one_run(run):
    results = json.loads(file_of(run, "results.json").read_text())
    assert results["data"] == "waves"
    assert results["model"] == "narrow_gpt2"
    assert {"gradual", "bba", "dense", "sparse"} <= set(results["policies"])
    assert results["pruning"]["label"].startswith("relative power=0.5 2:4")
    assert results["pruning"]["block_zeros"] == results["pruning"]["block_weights"] // 2
    assert results["recovery"]["label"] == "rescale strength=0.5"
    assert results["engine"] == "rounded"
    assert {"rounded sparse", "rounded dense", "torch sparse"} <= set(results["decision_ms"])
    assert (run / "often").is_dir()
    (logged,) = (run / "csv").glob("version_*/metrics.csv")
    assert "train/gradient_norm" in logged.read_text().splitlines()[0]


def test_the_policy_goes_up_one_level_at_a_time(run):
    columns = ["policy", "episode", "step", "action"]
    rows = parquet.read_table(file_of(run, "replay.parquet"), columns=columns).to_pylist()
    level = {(row["episode"], row["step"]): row["action"] for row in rows if row["policy"] == "gradual"}
    changes = {
        level[episode, step + 1] - level[episode, step] for episode, step in level if (episode, step + 1) in level
    }
    assert max(changes) == 1
    assert min(changes) < 0


def test_the_networks_without_torch_decide_as_those_with_it(run, folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    tasks, networks = (import_module(f"mylab.{name}") for name in ("networks", "edge_networks"))
    policy = edge.load(run / "bundle", networks=networks.NETWORKS)
    encoder, weights = tasks.TwoNumbers(policy.decoder.width), read_bundle(run / "bundle").under("tasks.abr.encoder.")
    encoder.load_state_dict({name: torch.from_numpy(np.array(weight)) for name, weight in weights.items()})
    observation = {name: np.float32([3, 0.5, 17]) for name in networks.TwoNumbers.inputs}
    theirs = encoder.state({name: torch.from_numpy(value)[:, None] for name, value in observation.items()})
    np.testing.assert_allclose(
        policy.networks.encoder.state(observation), theirs[:, 0].detach().numpy(), rtol=1e-5, atol=1e-6
    )
    session = policy.start(3)
    assert session.decide(observation).shape == (3,)
    session.observe(np.ones(3))
    assert session.decide(observation).max() < 6


@pytest.mark.slow
def test_the_command_of_cjs_plays_the_profiles(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    output = call("train.py", folder, "--config-dir", "myconf", *words_of("cjs"))
    assert "data: chains, 2 job profiles; setting small: 5 executors, 5 jobs" in output
    (made,) = [run for run in runs(folder, "train") if "_cjs-" in run.name]
    assert json.loads(file_of(made, "results.json").read_text())["data"].startswith("chains")


def test_the_throughput_of_recorded_traces_is_forecast(folder, monkeypatch):
    """The two commands of "Recorded data", on fewer questions."""
    monkeypatch.syspath_prepend(folder)
    (program,) = re.findall(r"^python -m (mylab\.\w+) (\w+)$", DOCUMENT, re.MULTILINE)
    (words,) = re.findall(r"^python train\.py (experiment=debug task=forecast .*)$", DOCUMENT, re.MULTILINE)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", list(program))
    runpy.run_module(program[0], run_name="__main__")
    assert len(list((folder / program[1]).glob("*.csv"))) == 30
    call("train.py", folder, *shlex.split(words), "data.step=10", "callbacks.progress_bar=false", "trainer.threads=1")
    (made,) = [run for run in runs(folder, "train") if "_forecast-" in run.name]
    results = json.loads(file_of(made, "results.json").read_text())
    error = {name: figures["test/mae_1"]["mean"] for name, figures in results["policies"].items()}
    assert set(error) == {"dense", "sparse", "still", "velocity", "linear_regression", "lstm"}
    assert error["sparse"] < error["linear_regression"]
