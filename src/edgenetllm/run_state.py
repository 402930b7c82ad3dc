"""`run.json`: how far a run got, as a plain dictionary that has been checked, and the runs of a folder that have one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgenetllm.errors import UserError
from edgenetllm.plain_files import read_document
from edgenetllm.printable import say

STATE_FILE = "run.json"

Text = Annotated[str, Field(max_length=10_000)]


class _State(BaseModel):
    """The entries of `run.json` that a command decides by; others are left as they are."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    status: Literal["running", "finished", "failed", "interrupted", "stopped"]
    stage: Text | None = None
    config_hash: Text | None = None
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None  # of the W&B run
    sweep: Annotated[str, Field(pattern=r"^[^/\\\x00]{1,255}$")] | None = None  # name of its folder
    started: Text | None = None
    words: list[Text] = []
    adaptation: Text | None = None
    logs: dict[str, Text] | None = None
    error: Text | None = None
    objective: float | None = None
    done: bool | None = None


def read_state(folder: Path) -> dict[str, Any]:
    """`run.json` of the run in `folder`; empty where none began. Raises UserError, naming it, for a damaged one."""
    path = folder / STATE_FILE
    return read_document(path, _State) if path.exists() else {}


def readable_states(folders: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and state of each run; one with a damaged `run.json` is left out, which is said."""
    for folder in folders:
        try:
            yield folder, read_state(folder)
        except UserError as error:
            say(f"warning: left out: {error}", file=sys.stderr)
