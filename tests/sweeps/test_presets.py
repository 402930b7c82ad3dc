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

EXPERIMENTS, SWEEPS = (sorted((ROOT / "conf" / group).glob("*.yaml")) for group in ("experiment", "sweep"))
# A preset with a header of its command is one that the project ships and documents.
SHIPPED = [path for path in (*EXPERIMENTS, *SWEEPS) if re.search("^# .*python .*=", path.read_text(), re.M)]
ABLATIONS = ("pretrained", "random", "small", "zeroed")


def header_commands(path: Path) -> list[str]:
    return re.findall(r"python (?:train|prune|evaluate|specialise)\.py .*", path.read_text())


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
    lines = [line for line in header_commands(path) if f"experiment={path.stem}" in line]
    preset = settings(*(shlex.split(lines[0])[2:] if lines else [f"experiment={path.stem}"]))
    load_config(preset)
    if "# in full: " in path.read_text():
        assert preset == settings(*in_full(path))


@pytest.mark.parametrize("path", [p for p in SWEEPS if "# in full: " in p.read_text()], ids=lambda path: path.stem)
def test_a_sweep_is_the_command_of_its_header(path):
    """As jobs, whatever the order: each of them with the words of the full command."""
    params = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    assert any(f"sweep={path.stem}" in line for line in header_commands(path))
    typed = [word for word in in_full(path) if not word.startswith("run=")]
    assert {frozenset(job) for job in combinations([], params)} == {frozenset(job) for job in combinations(typed, {})}


@pytest.mark.parametrize(
    "path",
    [p for p in SWEEPS if "train.py -m sweep=" in p.read_text() and "edgenetllm_sweepers.Search" not in p.read_text()],
    ids=lambda path: path.stem,
)
def test_every_job_of_a_training_sweep_is_valid(path):
    params = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    jobs = combinations([], params)
    for words in (jobs[0], jobs[-1]):
        load_config(settings(*words))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_documents_name_every_preset(path):
    assert len(SHIPPED) > 15
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "guide.md").read_text()
    assert re.search(rf"[=`]{path.stem}\b", text)


@pytest.mark.parametrize(
    "path",
    [p for p in EXPERIMENTS if "experience: expert" in p.read_text() or "_expert" in p.read_text()],
    ids=lambda path: path.stem,
)
def test_any_preset_takes_any_ablation(path):
    """A preset keeps the first blocks of SmolLM2; what stands for it in a study has its own number of them."""
    layers = {name: settings(f"experiment={path.stem}", f"ablation={name}")["model"]["layers"] for name in ABLATIONS}
    assert layers["small"] is None
    assert layers["zeroed"] == 1
    assert layers["pretrained"] == layers["random"] == settings(f"experiment={path.stem}")["model"]["layers"]
