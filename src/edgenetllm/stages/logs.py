"""The pools of experience=recorded: logged decisions, checked as the edge checks observations, and kept by their content."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgenetllm.code_identity import code_identity
from edgenetllm.config import Config, TaskConfig
from edgenetllm.edge.networks import ENCODERS
from edgenetllm.edge.observation import Reader, as_array
from edgenetllm.errors import UserError
from edgenetllm.experience.actions import check_actions
from edgenetllm.experience.log_files import content_hash, log_files, read_rows, unfinished
from edgenetllm.experience.pool import SCHEMA, Pool, read_pool, write_pool
from edgenetllm.experience.recorded import Recorded, recorded_episodes
from edgenetllm.locks import exclusive
from edgenetllm.printable import say
from edgenetllm.tasks.common.edge import Columns, Input
from edgenetllm.tasks.task import Array, Ragged, Task

KEY = "experience.logs."
WIDTH = 4  # of networks that are only asked what they read and decide


class TaskForm:
    """The form of a task's decisions: inputs as its encoder reads them, actions as its simulator takes them."""

    def __init__(self, task: Task) -> None:
        self.task_object, self.task = task, task.name
        self.most_steps = task.max_steps if task.window is None and not task.independent else None
        self.relative = task.relative_return
        self.data = task.data_hash(("test",))
        with torch.random.fork_rng(devices=[]):
            encoder, head = task.encoder(WIDTH), task.head(WIDTH)
        environment = task.environment("train")
        observed = environment.reset(np.zeros(1, np.int64))
        # Inputs: those of the encoder without torch where there is one, else all that the simulator shows.
        options = encoder.for_edge() or {}
        if options.get("kind") in ENCODERS:
            weights = {name: value.numpy() for name, value in encoder.state_dict().items()}
            self.encoder: Any = ENCODERS[options["kind"]](options, weights, WIDTH)
        else:
            self.encoder = _Shown({name: _input_of(value) for name, value in observed.items()})
        self.inputs: Mapping[str, bool] = {name: one.ragged for name, one in self.encoder.inputs.items()}
        self._reader = Reader(self.encoder, 1, True)
        # Actions.
        action = environment.sample(np.random.default_rng(0))
        self.shape, self.whole = action.shape[1:], action.dtype.kind in "iu"
        self.choices: int | None = (head.for_edge() or {}).get("choices")

    def describe(self) -> dict[str, Any]:
        """Everything of it that determines a pool."""
        inputs = {name: str(one) for name, one in self.encoder.inputs.items()}
        action = [list(self.shape), self.whole, self.choices]
        return {"inputs": inputs, "action": action, "steps": self.most_steps, "tested": self.data}

    def read(self, observation: Mapping[str, Any]) -> dict[str, Array]:
        columns = self._reader.read(observation)
        return {name: columns[name][0].copy() for name in self.inputs}

    def action(self, action: Any, observation: Mapping[str, Array]) -> Array:
        value = as_array(action, "it")
        if value.shape != self.shape:
            raise UserError(f"it has shape {value.shape}, not {self.shape}")
        if not np.isfinite(value).all() or (self.whole and not (value == np.floor(value)).all()):
            raise UserError(f"it is {action!r:.60}, not {'a whole number' if self.whole else 'finite'}")
        value = value.astype(np.int64 if self.whole else np.float64)
        if self.choices is not None and not 0 <= int(value) < self.choices:
            raise UserError(f"it is {int(value)}, and must be from 0 to {self.choices - 1}")
        if (reason := self.task_object.illegal_action(value, observation)) is not None:
            raise UserError(f"it cannot be taken: {reason}")
        return value


class _Shown:
    """Inputs as a simulator shows them, for an encoder that has no counterpart without torch."""

    ignored = None

    def __init__(self, inputs: Mapping[str, Input]) -> None:
        self.inputs = inputs

    def check(self, columns: Columns) -> None:
        """Any numbers of these shapes will do."""


def _input_of(value: Array | Ragged) -> Input:
    values, ragged = (value.values, True) if isinstance(value, Ragged) else (value, False)
    integer = values.dtype.kind in "iub"
    return Input(values.shape[2 if ragged else 1 :], integer, low=-(2**53) if integer else 0, ragged=ragged)


def check_logs(config: Config) -> None:
    """Read the logs that a run learns from, if it does, and say what is in them.

    A run keeps the pools that it makes of them; a dry run only reads. Raises UserError for logs that are not understood.
    """
    for name, one in config.tasks.items():
        folder = one.experience.folder
        if folder is None:
            continue
        notes = (
            _read(one, log_files(folder), TaskForm(one.task)).notes if config.dry_run else _notes(recorded_pool(one))
        )
        say(f"experience: decisions of {name} in {folder}: {'; '.join(notes)}")
        if open_files := unfinished(folder):
            say(
                f"note: {open_files} unfinished files there are not read: the agent's next start makes whole ones of them"
            )


def recorded_pool(config: TaskConfig) -> Pool:
    """The pool of the logs of a run, from the cache where it has the pool of logs with the same content."""
    files, form = log_files(_folder(config)), TaskForm(config.task)
    identity = _identity(config, files, form)
    target = _place(config, identity)
    with exclusive(target, "experience pool"):
        try:
            pool = read_pool(target)
            check_actions(pool, config.task, target)
            return pool
        except UserError as error:  # there is none, or it is damaged
            if target.exists():
                say(f"warning: stored before, but damaged or altered, and read again: {error}", file=sys.stderr)
            shutil.rmtree(target, ignore_errors=True)
        recorded = _read(config, files, form)
        write_pool(target, [recorded.episodes], {**identity, "notes": recorded.notes}, recorded.reference)
        return read_pool(target)


def recorded_folder(config: TaskConfig) -> Path:
    """The folder of the pool of these logs in the cache, whether it exists or not."""
    files = log_files(_folder(config))
    return _place(config, _identity(config, files, TaskForm(config.task)))


def logs_hashes(config: Config) -> dict[str, str]:
    """KEY and task -> hash of the logs that it learns from, of the tasks that do: in the identity of an adaptation."""
    folders = {name: one.experience.folder for name, one in config.tasks.items()}
    return {KEY + name: content_hash(log_files(folder)) for name, folder in folders.items() if folder is not None}


def logs_in(identity: Mapping[str, Any]) -> dict[str, str] | None:
    """These hashes in an identity; None without any."""
    return {key: digest for key, digest in identity.items() if key.startswith(KEY)} or None


def check_same_logs(pools: Mapping[str, Pool], identity: Mapping[str, Any], run: Path) -> None:
    """Raises UserError where a pool is of other logs than those in the `identity` of the adaptation of a run."""
    for name, pool in pools.items():
        if pool.info.get("logs") != identity.get(KEY + name):
            raise UserError(
                f"experience.folder: the logs of task {name} are not those that {run} learns from: files were added or "
                "changed; give a folder that nothing writes to, with the files of then"
            )


def _read(config: TaskConfig, files: list[Path], form: TaskForm) -> Recorded:
    experience = config.experience
    return recorded_episodes(
        (row for path in files for row in read_rows(path)), form, experience.cut_off, experience.best
    )


def _identity(config: TaskConfig, files: list[Path], form: TaskForm) -> dict[str, object]:
    """Everything that determines the pool."""
    return {
        "schema": SCHEMA,
        "task": config.task.name,
        "logs": content_hash(files),
        "form": form.describe(),
        "cut_off": config.experience.cut_off,
        "best": config.experience.best,
        "code": code_identity("edgenetllm.experience.recorded", alone=(__name__,)),
    }


def _place(config: TaskConfig, identity: dict[str, object]) -> Path:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return config.paths.cache_dir / "pools" / f"{config.task.name}-{digest[:16]}"


def _folder(config: TaskConfig) -> Path:
    assert config.experience.folder is not None
    return config.experience.folder


def _notes(pool: Pool) -> list[str]:
    return list(pool.info["notes"])
