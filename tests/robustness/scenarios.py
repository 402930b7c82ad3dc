"""The commands of the campaigns: how each is started, how it goes on after a death, and what it leaves undisturbed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import compared
from faulty import Ended, Fault, run

TINY = [
    "experiment=debug", "callbacks.progress_bar=false", "trainer.threads=1", "evaluation.plots=false",
    "trainer.batch_size=16", "trainer.warmup_steps=2", "data.train=20", "data.val=2", "data.test=3", "budget.episodes=20",
    "budget.epochs=3", "budget.batches_per_epoch=4", "engine.latency_decisions=5",
]  # fmt: skip
TRIES = int(os.environ.get("ROBUSTNESS_TRIES", "8"))  # of each scenario in a campaign


@dataclass(frozen=True)
class Scenario:
    """A command of `stage`; with `parent` it starts from a finished run, and `sweep` is a multirun."""

    name: str
    stage: str
    words: tuple[str, ...] = ()
    parent: bool = True
    sweep: bool = False

    def typed(self, *more: str) -> list[str]:
        """The words of the command, in a folder of its own."""
        start = ["run=logs/train/parent", "callbacks.progress_bar=false"] if self.parent else TINY
        paths = ["paths.log_dir=logs", "paths.cache_dir=cache"]
        return [f"{self.stage}.py", *(["-m"] if self.sweep else []), *start, *self.words, *paths, *more]

    def runs(self, place: Path) -> list[Path]:
        """The folders of the runs that have begun."""
        pattern = "multirun/*/*/run.json" if self.sweep else f"{self.stage}/*/run.json"
        return [path.parent for path in sorted((place / "logs").glob(pattern)) if path.parent.name != "parent"]

    def again(self, place: Path) -> list[str] | None:
        """The command that goes on, as the documents say; None where nothing is left to do."""
        if self.sweep:
            begun = list((place / "logs" / "multirun").glob("*/sweep.json"))
            return self.typed(*(["resume=true"] if begun else []))
        states = [state(folder) for folder in self.runs(place)]
        if not states:
            return self.typed()
        return None if all(one == "finished" for one in states) else self.typed("resume=true")

    def outcome(self, place: Path) -> dict[str, Any]:
        """Everything that is compared: of each run, by its configuration, and of the cache."""
        hashed = {json.loads((folder / "run.json").read_text())["config_hash"]: folder for folder in self.runs(place)}
        return {
            "runs": {str(number): compared.results(hashed[name]) for number, name in enumerate(sorted(hashed))},
            "cache": compared.cached(place / "cache"),
        }

    def leftovers(self, place: Path) -> list[str]:
        return compared.leftovers(place / "cache", *self.runs(place))


TRAIN = Scenario("train", "train", parent=False)
PRUNE = Scenario("prune", "prune", ("sparsity=0.5", "export.format=[bundle,hf]"))
SCENARIOS = {
    one.name: one
    for one in (
        TRAIN,
        PRUNE,
        Scenario("replay", "evaluate", ("data.test=4", "evaluation.log=true")),
        Scenario("sweep", "prune", ("sparsity=0.3,0.6",), sweep=True),
        Scenario("specialise", "specialise", (
            "data.seed=5", "specialise.episodes=4", "specialise.steps=4", "specialise.validate_every=2",
            "specialise.batch_size=4", "specialise.old_domain=false",
        )),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Undisturbed:
    outcome: dict[str, Any]
    events: int
    seconds: float


def state(folder: Path) -> str:
    return str(json.loads((folder / "run.json").read_text())["status"])


@functools.cache
def parent() -> Path:
    """A folder with a finished run, `logs/train/parent`, and its cache."""
    place = Path(tempfile.mkdtemp(prefix="parent-"))
    _undisturbed[TRAIN] = _left_alone(TRAIN, place)
    (folder,) = TRAIN.runs(place)
    folder.rename(folder.with_name("parent"))
    return place


_undisturbed: dict[Scenario, Undisturbed] = {}


def undisturbed(scenario: Scenario) -> Undisturbed:
    """The state that the command leaves where nothing happens, and its events and seconds."""
    parent()
    if scenario not in _undisturbed:
        with tempfile.TemporaryDirectory(prefix="undisturbed-") as folder:
            prepare(scenario, Path(folder))
            _undisturbed[scenario] = _left_alone(scenario, Path(folder))
    return _undisturbed[scenario]


def _left_alone(scenario: Scenario, place: Path) -> Undisturbed:
    began = time.monotonic()
    ended = run(scenario.typed(), place)
    seconds = time.monotonic() - began
    assert ended.code == 0, ended.output
    found = Undisturbed(scenario.outcome(place), ended.events, seconds)
    assert found.outcome["runs"]
    assert not scenario.leftovers(place)
    return found


def prepare(scenario: Scenario, place: Path) -> None:
    """Fill the folder with what the command starts from."""
    if scenario.parent:
        shutil.copytree(parent(), place, dirs_exist_ok=True)


def go_on(scenario: Scenario, place: Path) -> Ended | None:
    """Type the command that goes on, without any fault; it must succeed, and leave what an undisturbed one leaves."""
    words = scenario.again(place)
    ended = None if words is None else run(words, place)
    assert ended is None or ended.code == 0, f"{words}\n{ended.output}"
    differences = compared.differences(scenario.outcome(place), undisturbed(scenario).outcome)
    assert not differences, "\n".join([*differences[:20], *([] if ended is None else [ended.output])])
    assert words is None or not scenario.leftovers(place)
    return ended


def lose_power(place: Path, unflushed: set[tuple[int, int]], rng: Random) -> int:
    """Take from files what had not been flushed: all, half of it, or zeros for it. Returns the number of these files."""
    lost = 0
    for path in sorted(place.rglob("*")):
        if path.is_file() and (path.stat().st_dev, path.stat().st_ino) in unflushed:
            size, how = path.stat().st_size, rng.randrange(3)
            os.truncate(path, 0 if how == 0 else size // 2)
            if how == 2:
                os.truncate(path, size)
            lost += 1
    return lost


def at_random(rng: Random, kinds: list[str], whole: Undisturbed) -> Fault:
    """A fault of one of these kinds, anywhere in a command that takes this long; kind `time` kills at a moment."""
    kind = rng.choice(kinds)
    if kind == "time":
        return Fault(after_s=rng.uniform(0.2, 1.0) * whole.seconds)
    return Fault(kind, rng.randint(1, whole.events), once=kind == "eio" and rng.random() < 0.5)
