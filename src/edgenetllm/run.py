"""The folder of a run: its resolved configuration, its state, and how an interrupted one is found again."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from edgenetllm.affects import options_for
from edgenetllm.commands import word
from edgenetllm.errors import UserError
from edgenetllm.files import make_folder, overwrite, write_atomic, write_json
from edgenetllm.models.label import model_label
from edgenetllm.run_state import STATE_FILE as STATE_FILE
from edgenetllm.run_state import read_state as read_state
from edgenetllm.run_state import readable_states
from edgenetllm.task_settings import task_settings

CONFIG_FILE = "config.yaml"  # resolved
CHOICES_FILE = "choices.yaml"  # config groups and their options


def config_hash(settings: dict[str, Any], without: Collection[str] = ()) -> str:
    """Hash of everything in a resolved configuration that can change a result, and of the run that it starts from, but for
    the dotted keys of `without`."""
    from edgenetllm.config import Config  # here, as it imports torch

    options = {**options_for("evaluation", settings, Config), "run": settings.get("run")}
    hashed = {key: value for key, value in options.items() if key not in without}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True, default=str).encode()).hexdigest()[:16]


def run_directory(stage: str, settings: dict[str, Any]) -> str:
    """A new name under `paths.log_dir`, or with `resume` the one unfinished run of this same configuration.

    Raises UserError when there is nothing to resume, or more than one run that could be meant, or another one than this.
    """
    resume = settings.get("resume", False)
    logs = Path(settings["paths"]["log_dir"]) / stage
    if isinstance(resume, str):
        if not (Path(resume) / STATE_FILE).is_file():
            raise UserError(f"resume={resume}: not the folder of a run")
        _check_same(read_state(Path(resume)), Path(resume), stage, config_hash(settings))
        return resume
    if not resume:
        name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        names = [settings["task"]["name"], model_label(settings["model"]), settings["data"]["name"]]
        return str(logs / f"{name}_{'-'.join(names)}-s{settings['sparsity']:g}_{secrets.token_hex(2)}")
    digest = config_hash(settings)
    states = readable_states([path.parent for path in sorted(logs.glob(f"*/{STATE_FILE}"))])
    unfinished = [p for p, state in states if state.get("config_hash") == digest and state["status"] != "finished"]
    if not unfinished:
        raise UserError(f"resume=true: {logs} has no unfinished run with this configuration; start it without resume")
    if len(unfinished) > 1:
        listed = [f"  {shlex.quote(word('resume', path))}" for path in unfinished]
        raise UserError("resume=true: several unfinished runs have this configuration; name one:", *listed)
    return str(unfinished[0])


def _check_same(state: dict[str, Any], folder: Path, stage: str, digest: str) -> None:
    if state.get("stage") != stage:
        raise UserError(f"{folder} is a run of {state.get('stage')}.py")
    if state.get("config_hash") != digest:
        raise UserError(f"{folder} was made with another configuration: resume it with the same overrides")


class Run:
    """`folder` belongs to this run; `run.json` in it says how far it got."""

    def __init__(
        self,
        folder: Path,
        stage: str,
        settings: dict[str, Any],
        choices: dict[str, Any],
        sweep: str | None = None,
        words: Sequence[str] = (),
        follows_seed: Collection[str] = (),
        is_new: bool = False,
    ) -> None:
        self.folder = folder
        self.is_new = is_new  # the folder must not be there yet
        self.stage = stage
        self.settings = settings
        self.choices = choices
        self.sweep = sweep  # name of the sweep that this run is a job of
        self.follows_seed = follows_seed  # dotted keys of options that are set to the seed by interpolation
        self.words = list(words)  # the overrides that were typed for it
        self.config_hash = config_hash(settings)

    def of_task(self, task_name: str) -> Run:
        """The run of one of its tasks: a folder in its folder, with the settings of a run of this task alone."""
        own = task_settings(self.settings, task_name)
        of_task = Run(self.folder / task_name, self.stage, own, self.choices, self.sweep, self.words, self.follows_seed)
        of_task.config_hash = self.config_hash
        return of_task

    def claim(self) -> None:
        """Make the folder; that of a new run under another name where a run that began in the same second has it."""
        while self.is_new:
            try:
                make_folder(self.folder.parent)
                self.folder.mkdir()
                self.is_new = False
            except FileExistsError:
                if not self.folder.is_dir():
                    raise
                self.folder = self.folder.with_name(f"{self.folder.name}_{secrets.token_hex(2)}")
        self.folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Record that the run has begun (or goes on). Raises UserError if the folder is another configuration's run."""
        self.claim()
        if previous := self.state():
            _check_same(previous, self.folder, previous.get("stage", self.stage), self.config_hash)
        write_atomic(self.folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(self.settings)).encode())
        write_atomic(self.folder / CHOICES_FILE, OmegaConf.to_yaml(OmegaConf.create(self.choices)).encode())
        first = {"started": datetime.now(UTC).isoformat(timespec="microseconds"), "words": self.words}
        at_first = {name: previous.get(name, value) for name, value in first.items()}  # of the first start
        self.note(status="running", error=None, **at_first)

    def finish(self, status: str) -> None:
        """`finished`, `failed`, `interrupted`, or `stopped` by a search."""
        self.note(status=status)

    def interrupt(self) -> bool:
        """True where there is something to go on with, after a signal. The state of a run that just began is put right."""
        state = {} if self.is_new else self.state()
        if state.get("status") == "running":
            self.finish("interrupted")
        return bool(state)

    def note(self, **facts: Any) -> None:
        """Add to the state; begins one for a run that failed before it started. None removes a fact."""
        fresh = {"stage": self.stage, "config_hash": self.config_hash, "id": secrets.token_hex(4), "sweep": self.sweep}
        removed = [name for name, value in facts.items() if value is None]
        state = {**fresh, **self.state(), **facts}
        self._write({name: value for name, value in state.items() if name not in removed})

    def state(self) -> dict[str, Any]:
        return read_state(self.folder)

    @property
    def id(self) -> str:
        """Stable over resumptions: the id of the W&B run."""
        return str(self.state()["id"])

    def _write(self, state: dict[str, Any]) -> None:
        try:
            write_json(self.folder / STATE_FILE, state)
        except OSError as problem:
            try:
                overwrite(self.folder / STATE_FILE, json.dumps(state).encode())
            except OSError:
                raise problem from None
