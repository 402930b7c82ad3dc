"""The folder of a sweep: `sweep.json` in it says which command made it, so that the same command finds it again."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from edgenetllm.affects import keys_of
from edgenetllm.commands import word
from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.files import write_json
from edgenetllm.plain_files import read_document
from edgenetllm.printable import say
from edgenetllm.run_state import read_state
from edgenetllm.sweeps.job import is_done

SWEEP_FILE = "sweep.json"


def identity(stage: str, arguments: Sequence[str]) -> str:
    """Hash of a sweep's command, whatever the order of its words, without what no result depends on."""
    words = sorted(word for word in arguments if not _affects_nothing(word))
    return hashlib.sha256(json.dumps([stage, words]).encode()).hexdigest()[:16]


def _affects_nothing(word: str) -> bool:
    key = word.partition("=")[0].lstrip("+~")
    return any(key == name or key.startswith(f"{name}.") for name in keys_of("nothing", Config) if name != "run")


def find_sweep(stage: str, arguments: Sequence[str], resume: str | bool, new: Path) -> Path:
    """The folder to work in: `new`, or with `resume` the sweep that this command (or the named folder) began.

    Raises UserError when there is none, or several that are not done.
    """
    if isinstance(resume, str):
        if not (Path(resume) / SWEEP_FILE).is_file():
            raise UserError(f"resume={resume}: not the folder of a sweep (it has no {SWEEP_FILE})")
        if (made_by := read_sweep(Path(resume))["stage"]) != stage:
            raise UserError(f"resume={resume} is a sweep of {made_by}.py")
        return Path(resume).resolve()
    if not resume:
        return new
    same = list(same_sweeps(stage, arguments, new.parent))
    if not same:
        raise UserError(f"resume=true: {new.parent} has no sweep of this command; start it without resume")
    unfinished = [folder for folder in same if not all(is_done(state) for state in states(folder).values())]
    if len(unfinished) > 1:
        listed = [f"  {shlex.quote(word('resume', folder))}" for folder in unfinished]
        raise UserError("resume=true: several sweeps of this command are not done; name one:", *listed)
    return (unfinished or same)[-1].resolve()


def same_sweeps(stage: str, arguments: Sequence[str], under: Path) -> Iterator[Path]:
    """Folders of earlier sweeps of this command, the oldest first."""
    for path in sorted(under.glob(f"*/{SWEEP_FILE}")):
        try:
            made_by = read_sweep(path.parent)
        except UserError as error:
            say(f"warning: left out: {error}", file=sys.stderr)
            continue
        if made_by["identity"] == identity(stage, arguments):
            yield path.parent


def open_sweep(folder: Path, stage: str, arguments: Sequence[str]) -> Path:
    """Make the folder of a new sweep, under another name where it is there already, and `sweep.json` in it.

    Who makes the folder has it: two sweeps that begin in the same second never share one.
    """
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if not folder.is_dir():
                raise
            folder = folder.with_name(f"{folder.name}_{secrets.token_hex(2)}")
    facts = {"stage": stage, "identity": identity(stage, arguments), "arguments": list(arguments), "jobs": {}}
    write_json(folder / SWEEP_FILE, facts)
    return folder


def add_jobs(folder: Path, jobs: Mapping[str, Sequence[str]]) -> None:
    """Note the jobs of a sweep, folder name -> overrides, before they start."""
    facts = read_sweep(folder)
    facts["jobs"] |= {name: list(overrides) for name, overrides in jobs.items()}
    write_json(folder / SWEEP_FILE, facts)


class _Sweep(BaseModel):
    """The entries of `sweep.json`."""

    model_config = ConfigDict(strict=True, extra="allow")

    stage: str
    identity: str
    arguments: list[str]
    jobs: dict[Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]{0,254}$")], list[str]]  # folder -> overrides


def read_sweep(folder: Path) -> dict[str, Any]:
    """The content of `sweep.json`. Raises UserError, naming it, for a damaged one."""
    return read_document(folder / SWEEP_FILE, _Sweep)


def states(folder: Path) -> dict[str, dict[str, Any]]:
    """`run.json` of every job of a sweep, by folder name; of one that never began, only `status: not started`."""
    return {name: state_of(folder / name) for name in read_sweep(folder)["jobs"]}


def state_of(job: Path) -> dict[str, Any]:
    """`run.json` of a job; `status: not started` without one, and for a damaged one `unreadable` with the reason."""
    try:
        return read_state(job) or {"status": "not started"}
    except UserError as error:
        return {"status": "unreadable", "error": f"{error}; delete the folder of the job to run it again"}
