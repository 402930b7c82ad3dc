"""Where the jobs of a sweep go: a new folder, or with `resume=true` the one that this same command made before."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from edgenetllm.errors import UserError

SWEEPS = "multirun"  # folder under paths.log_dir
NOT_IDENTITY = (
    "resume=",
    "dry_run=",
    "logger=",
    "trainer.threads=",
    "callbacks.progress_bar=",
    "launcher=",
    "hydra.launcher",
)


def sweep_folder(stage: str, logs: Path, arguments: Sequence[str], resume: bool | str, numbered: bool) -> Path:
    """`<logs>/multirun/<time>_<stage>-<hash of what was typed>_<random>`.

    `numbered`: job i of the same command is always the same job (not so in a search), so that `resume=true` goes on in the
    folder of the newest sweep of this command, where there is one. Raises UserError for `resume=` a folder that is no sweep.
    """
    if isinstance(resume, str):
        if not (Path(resume) / "multirun.yaml").is_file():
            raise UserError(f"resume={resume}: not the folder of a sweep (it has no multirun.yaml)")
        return Path(resume)
    kept = sorted(a for a in arguments if a not in ("-m", "--multirun") and not a.startswith(NOT_IDENTITY))
    name = f"{stage}-{hashlib.sha256(joined(kept)).hexdigest()[:8]}"
    before = sorted(folder for folder in (logs / SWEEPS).glob(f"*_{name}_*") if (folder / "multirun.yaml").is_file())
    if resume and numbered and before:
        return before[-1]
    return logs / SWEEPS / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{name}_{secrets.token_hex(2)}"


def joined(words: Sequence[str]) -> bytes:
    return "\0".join(words).encode()
