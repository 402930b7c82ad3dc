"""The folder of a run: its resolved configuration, its state, and how an interrupted one is found again."""

from __future__ import annotations

import copy
import hashlib
import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from edgenetllm.errors import UserError
from edgenetllm.files import write_atomic, write_json
from edgenetllm.models.label import model_label
from edgenetllm.parts import part_names, part_settings

CONFIG_FILE = "config.yaml"  # resolved
CHOICES_FILE = "choices.yaml"  # config groups and their options
STATE_FILE = "run.json"
# What may differ between a run and its resumption, because no result depends on it.
NOT_IDENTITY = (
    "resume", "dry_run", "paths", "launcher", "logger", "callbacks.progress_bar", "trainer.threads",
    "experience.workers", "evaluation.plots", "evaluation.validation", "evaluation.bounds",
)  # fmt: skip
LOCATIONS = ("data_dir", "folder")  # keys of any group that say where something lies


def locations(settings: dict[str, Any]) -> list[str]:
    """Dotted keys of the groups' own locations, such as task.data_dir: resolved from `paths`, and no identity either."""
    groups = {group: node for group, node in settings.items() if isinstance(node, dict) and group != "paths"}
    for name in part_names(settings):
        groups |= {f"{group}.{name}": groups[group][name] for group in ("task", "data") if name in groups[group]}
    return [f"{group}.{key}" for group, node in groups.items() for key in LOCATIONS if key in node]


def config_hash(settings: dict[str, Any]) -> str:
    """Hash of everything in a resolved configuration that can change a result."""
    kept = copy.deepcopy(settings)
    for key in (*NOT_IDENTITY, *locations(settings)):
        *groups, name = key.split(".")
        node = kept
        for group in groups:
            node = node.get(group, {})
        node.pop(name, None)
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def run_directory(stage: str, settings: dict[str, Any]) -> str:
    """A new folder under `paths.log_dir`, or with `resume` the one unfinished run of this same configuration.

    Raises UserError when there is nothing to resume, or more than one run that could be meant.
    """
    resume = settings.get("resume", False)
    logs = Path(settings["paths"]["log_dir"]) / stage
    if isinstance(resume, str):
        if not (Path(resume) / STATE_FILE).is_file():
            raise UserError(f"resume={resume}: not the folder of a run")
        return resume
    if not resume:
        name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        parts = [settings["task"]["name"], model_label(settings["model"]), settings["data"]["name"]]
        return str(logs / f"{name}_{'-'.join(parts)}-s{settings['sparsity']:g}_{secrets.token_hex(2)}")
    wanted = config_hash(settings)
    states = {path.parent: json.loads(path.read_text()) for path in sorted(logs.glob(f"*/{STATE_FILE}"))}
    found = [p for p, state in states.items() if state["config_hash"] == wanted and state["status"] != "finished"]
    if not found:
        raise UserError(f"resume=true: {logs} has no unfinished run with this configuration; start it without resume")
    if len(found) > 1:
        listed = "\n".join(f"  resume={path}" for path in found)
        raise UserError(f"resume=true: several unfinished runs have this configuration; name one:\n{listed}")
    return str(found[0])


class Run:
    """`folder` belongs to this run; `run.json` in it says how far it got."""

    def __init__(
        self, folder: Path, stage: str, settings: dict[str, Any], choices: dict[str, Any], sweep: str | None = None
    ) -> None:
        self.folder = folder
        self.stage = stage
        self.settings = settings
        self.choices = choices
        self.sweep = sweep  # name of the sweep that this run is a job of
        self.config_hash = config_hash(settings)

    def part(self, name: str) -> Run:
        """What belongs to one task of a run of several: a folder in its folder. Of a run of one task, the run itself."""
        if not part_names(self.settings):
            return self
        part = Run(self.folder / name, self.stage, part_settings(self.settings, name), self.choices, self.sweep)
        part.config_hash = self.config_hash
        return part

    def start(self) -> None:
        """Record that the run has begun (or goes on). Raises UserError if the folder is another configuration's run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        previous = self.state()
        if previous and previous["config_hash"] != self.config_hash:
            raise UserError(f"{self.folder} was made with another configuration: resume it with the same overrides")
        write_atomic(self.folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(self.settings)).encode())
        write_atomic(self.folder / CHOICES_FILE, OmegaConf.to_yaml(OmegaConf.create(self.choices)).encode())
        self.note(status="running", error=None)

    def finish(self, status: str) -> None:
        """`finished`, `failed`, `interrupted`, or `stopped` by a search."""
        self.note(status=status)

    def note(self, **facts: Any) -> None:
        """Add to the state; begins one for a run that failed before it started. None removes a fact."""
        fresh = {"stage": self.stage, "config_hash": self.config_hash, "id": secrets.token_hex(4), "sweep": self.sweep}
        removed = [name for name, value in facts.items() if value is None]
        state = {**fresh, **self.state(), **facts}
        self._write({name: value for name, value in state.items() if name not in removed})

    def state(self) -> dict[str, Any]:
        path = self.folder / STATE_FILE
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def id(self) -> str:
        """Stable over resumptions: the id of the W&B run."""
        return str(self.state()["id"])

    def _write(self, state: dict[str, Any]) -> None:
        write_json(self.folder / STATE_FILE, state)
