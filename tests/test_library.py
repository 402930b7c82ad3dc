"""The scripts of README and guide without Hydra, on a run as the command line leaves it."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from small import ROOT
from typed import runs

from edgenetllm.models.stored import read_checkpoint
from edgenetllm.stages.adaptation import trained_checkpoint


@pytest.fixture(scope="module")
def names(trained) -> dict:
    """The names that the scripts define, one after the other, on the run of `trained` and its smaller data."""
    (run,) = runs(trained, "train")[:1]
    section = (ROOT / "docs" / "guide.md").read_text().partition("## In a script of your own")[2].partition("\n## ")[0]
    defined: dict = {"run": run}
    for script in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        assert len([line for line in script.splitlines() if line.strip()]) < 15
        here = script.replace("logs/train/RUN", str(run)).replace("val=60, test=100", "val=6, test=20")
        exec(here.replace('"conf/', f'"{ROOT}/conf/'), defined)
    return defined


def test_the_script_of_the_readme_plays_an_episode_as_the_run_did(trained):
    (script,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "edge.load" in block
    ]
    (run,) = runs(trained, "train")[:1]
    script = script.replace("logs/train/RUN", str(run)).replace("val=60, test=100", "val=6, test=20")
    defined: dict = {"rewards": []}
    exec(
        script.replace("session.observe(reward)", "session.observe(reward); rewards.append(float(reward[0]))"), defined
    )
    (file,) = run.rglob("replay.parquet")
    first = defined["task"].episode_names("test")[0]
    rows = parquet.read_table(file, columns=["policy", "episode", "reward"]).to_pylist()
    played = [row["reward"] for row in rows if (row["policy"], row["episode"]) == ("sparse", first)]
    assert defined["rewards"] == pytest.approx(played, rel=1e-5)


def test_the_test_of_a_bundle_has_the_figures_of_the_run(names):
    policies = json.loads((names["run"] / "abr/results.json").read_text())["policies"]["sparse"]
    logged = names["figures"][0]
    assert logged
    for metric in names["task"].metrics:
        assert logged[f"test/{metric.name}"] == pytest.approx(policies[f"test/{metric.name}"]["mean"], rel=1e-6)


def test_the_checkpoint_of_a_run_becomes_a_module(names):
    stored = read_checkpoint(names["run"] / "checkpoints" / "best.ckpt")
    module = names["module"]
    state = module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in stored["state_dict"].items())
    assert module.frozen() == stored["frozen"]
    assert module.target_returns == stored["target_return"]
    assert np.isfinite(module.adapter_lr)
    kept = trained_checkpoint(names["run"])  # as the store of adaptations has it
    assert {name: kept[name] for name in ("hyper_parameters", "frozen")} == {
        name: stored[name] for name in ("hyper_parameters", "frozen")
    }
