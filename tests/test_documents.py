"""The commands in README and docs/ can be typed, and what they link to exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException
from small import ROOT
from test_config import settings

from edgenetllm.composition import settings_of_run
from edgenetllm.config import load_config
from edgenetllm.errors import UserError
from edgenetllm.run import CHOICES_FILE, CONFIG_FILE
from edgenetllm.sweeps.grid import combinations

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = re.compile(r"python (?:train|prune|evaluate|specialise)\.py[^`#\n]*")
PLACES = [ROOT, ROOT / "src" / "edgenetllm", ROOT / "docs"]  # from where the documents name files
OWN = ("mylab/", "myconf/", "RUN/", "TASK/")  # of a reader, and of a run
NOT_WRITTEN_NOW = ("log.md", "retention_abr.md", "retention_cjs.md")  # a notebook, and tables that a program wrote
PUZZLING = re.compile(r"\b(mend|anew|whoever|for ever|told|beside|learnt of)\b", re.IGNORECASE)


def commands(document: Path) -> list[str]:
    """Commands in fenced blocks, a line each, and in running text, where they may go over several lines."""
    fenced, text = [], []
    for number, part in enumerate(document.read_text().split("```")):
        (fenced if number % 2 else text).append(part)
    spans = [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", " ".join(text))]
    found = [line for part in [*fenced, *spans] for line in COMMANDS.findall(part)]
    return [command.strip() for command in found]


def jobs(words: list[str]) -> list[list[str]]:
    """The jobs that a sweep would run: its preset's axes and the typed ones."""
    params: dict[str, object] = {}
    for word in words:
        if word.startswith("sweep="):
            preset = yaml.safe_load((ROOT / "conf" / "sweep" / f"{word.removeprefix('sweep=')}.yaml").read_text())
            params = preset["hydra"]["sweeper"]["params"]
    return combinations([word for word in words if not word.startswith("sweep=")], params)


def first_and_last(words: list[str]) -> list[list[str]]:
    """The two jobs of a sweep that stand for all of it; the one job of a command that is none."""
    all_jobs = jobs(words)
    return [all_jobs[0], *all_jobs[1:][-1:]]


@pytest.mark.parametrize("command", sorted({c for d in DOCUMENTS for c in commands(d) if "train.py" in c}))
def test_a_command_of_training_composes(command):
    typed = [word for word in shlex.split(command)[2:] if word != "-m"]
    if "..." in command or "--help" in typed or "sweep=search" in typed:
        pytest.skip("an ellipsis, the help, or a search over intervals")
    if "--config-dir" in typed:
        pytest.skip("needs files of its own: test_extending.py runs it")
    for job in first_and_last(typed):
        load_config(settings(*job))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A run of each task, as far as its saved configuration goes."""
    folders = {}
    for task in ("abr", "cjs", "vp"):
        folder = folders[task] = tmp_path_factory.mktemp(task)
        (folder / CONFIG_FILE).write_text(yaml.safe_dump(settings(f"task={task}", "sparsity=0.4")))
        (folder / CHOICES_FILE).write_text(yaml.safe_dump({"task": task}))
    return folders


@pytest.mark.parametrize("command", sorted({c for d in DOCUMENTS for c in commands(d) if re.search(r"\brun=", c)}))
def test_a_command_on_a_run_composes(command, runs):
    """The run says of which task it is: one of them has to take every word."""
    typed = [word for word in shlex.split(command)[2:] if word not in ("-m", "...") and not word.startswith("run=")]
    if any("..." in word for word in typed):
        pytest.skip("an ellipsis")
    refused, stage = [], shlex.split(command)[1].removesuffix(".py")
    for task, folder in runs.items():
        try:
            for job in first_and_last(typed):
                composed = settings(f"task={task}", *job)
                load_config(settings_of_run(folder, composed, dict.fromkeys(composed, ""), job, stage))
            return
        except (UserError, HydraException) as error:
            refused.append(str(error))
    raise AssertionError(refused)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_modules_that_are_named_exist(document):
    """Code spans with a folder in them, `python scripts/...` and `python -m edgenetllm...`."""
    text = document.read_text()
    named = {
        span for span in re.findall(r"`([\w./]+/[\w./]*)`", text) if re.search(r"\.(py|yaml|yml|md)$|^conf/", span)
    }
    named |= set(re.findall(r"python ((?:scripts|benchmarks)/\w+\.py)", text))
    modules = {name.removeprefix("edgenetllm.") for name in re.findall(r"python -m (edgenetllm[\w.]*)", text)}
    named |= {f"src/edgenetllm/{name.replace('.', '/')}" for name in modules}
    for name in sorted(name for name in named if not name.startswith(OWN)):
        assert any((place / f"{name}{ending}").exists() for place in PLACES for ending in ("", ".py")), name


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if d.name not in NOT_WRITTEN_NOW], ids=lambda path: path.name
)
def test_words_are_plain(document):
    assert not PUZZLING.findall(document.read_text())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings], target
