"""Every file in conf/experiment and conf/sweep composes, and stands for the command that its header shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from small import ROOT
from test_config import settings

from edgenetllm.config import load_config
from edgenetllm.sweeps.grid import combinations

EXPERIMENTS = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))
ARMS = ("pretrained", "random", "small", "zeroed")
SWEEPS = sorted(path for path in (ROOT / "conf" / "sweep").glob("*.yaml") if path.stem != "search")


# Of the README only the axes of a table, or none of it.
NOT_ONE_COMMAND = ("debug", "sparsity", "retention", "cjs_tpch_control", "language_model")


def header_commands(path: Path) -> list[str]:
    return re.findall(r"python (?:train|prune|evaluate)\.py .*", path.read_text())


def in_full(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("# in full: "))
    words = lines[start].removeprefix("# in full: ")
    for line in lines[start + 1 :]:
        if not line.startswith("#          "):
            break
        words += " " + line.removeprefix("#").strip()
    return [word for word in shlex.split(words)[2:] if word != "-m"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_is_the_command_of_its_header(path):
    short = next(line for line in header_commands(path) if f"experiment={path.stem}" in line)
    preset = settings(*shlex.split(short)[2:])
    load_config(preset)
    if path.stem != "debug":
        assert preset == settings(*in_full(path))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_is_the_command_of_its_header(path):
    """As jobs, whatever the order: each of them with the words of the full command."""
    params = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    assert any(f"sweep={path.stem}" in line for line in header_commands(path))
    typed = [word for word in in_full(path) if not word.startswith("run=")]
    assert {frozenset(job) for job in combinations([], params)} == {frozenset(job) for job in combinations(typed, {})}


@pytest.mark.parametrize(
    "path", [p for p in SWEEPS if "train.py -m sweep=" in p.read_text()], ids=lambda path: path.stem
)
def test_every_job_of_a_training_sweep_is_valid(path):
    params = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    jobs = combinations([], params)
    for words in (jobs[0], jobs[-1]):
        load_config(settings(*words))


@pytest.mark.parametrize(
    "path", [p for p in [*EXPERIMENTS, *SWEEPS] if p.stem not in NOT_ONE_COMMAND], ids=lambda p: p.stem
)
def test_the_readme_names_a_preset_or_shows_its_words(path):
    """Every word of the full command stands in the README, where it does not name the preset itself."""
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    if re.search(rf"experiment=[\w|,]*\b{path.stem}\b", readme):
        return
    words = [word for word in in_full(path) if word not in ("run=...", "data=norway,oboe,puffer")]
    assert [word for word in words if word.strip("'") not in readme] == []


@pytest.mark.parametrize("path", [p for p in EXPERIMENTS if "iterated" in p.read_text()], ids=lambda path: path.stem)
def test_any_preset_takes_any_arm(path):
    """A preset keeps the first blocks of SmolLM2; what stands for it in a study has its own number of them."""
    layers = {arm: settings(f"experiment={path.stem}", f"arm={arm}")["model"]["layers"] for arm in ARMS}
    assert layers["small"] is None
    assert layers["zeroed"] == 1
    assert layers["pretrained"] == layers["random"] == settings(f"experiment={path.stem}")["model"]["layers"]
