"""Group, name and tags under which a run stands in W&B, from what was typed: runs of a group differ in their seed only."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgenetllm.affects import keys_of
from edgenetllm.config import Config
from edgenetllm.models.label import model_label
from edgenetllm.printable import single_line
from edgenetllm.run import Run, config_hash

LONGEST = 128  # characters of a group or name
LONGEST_TAG = 64
# Typed keys that say where and how a run was made, and nothing of its results; `run` is the folder that it starts from.
SILENT = (*keys_of("nothing", Config), "hydra")


def run_group(run: Run) -> str:
    """`abr-smollm2-fcc adapter.rank=8 1f0c2a`: what the run is, what was typed but its seed, and a hash of all settings.

    The hash is of every setting that can change a result but the seed, so that no two groups have one name.
    """
    words = sorted(word for word in _speaking(run) if key_of(word) not in ("seed", "sweep"))
    digest = config_hash(run.settings, without=("seed", "run", *run.follows_seed))
    return f"{_cut(' '.join([_what(run), *words]), LONGEST - 7)} {digest[:6]}"


def run_name(run: Run) -> str:
    """`adapter.rank=8 seed=2`: what was typed; the seed is always named, and without other words what the run is."""
    words = [word for word in _speaking(run) if key_of(word) not in ("seed", "sweep")]
    return _cut(" ".join([*(words or [_what(run)]), f"seed={run.settings['seed']}"]), LONGEST)


def run_tags(run: Run, own: list[str]) -> list[str]:
    """The user's own tags, every typed word, and the sweep that the run is a job of."""
    sweep = run.state().get("sweep")  # also when it is resumed alone
    tags = [*own, *_speaking(run), *([sweep] if sweep else [])]
    return list(dict.fromkeys(_cut(tag, LONGEST_TAG) for tag in tags))


def key_of(word: str) -> str:
    """`adapter.rank` of `++adapter.rank=8`."""
    return word.lstrip("+~").partition("=")[0]


def _words(run: Run) -> list[str]:
    """The overrides typed when the run was first started."""
    return list(run.state().get("words", run.words))


def _speaking(run: Run) -> list[str]:
    """The typed overrides that can change a result."""
    return [word for word in _words(run) if not any(f"{key_of(word)}.".startswith(f"{key}.") for key in SILENT)]


def _what(run: Run) -> str:
    return "-".join([run.settings["task"]["name"], model_label(run.settings["model"]), run.settings["data"]["name"]])


def _cut(text: str, length: int) -> str:
    """Text on one line, a long one cut, but different ones still differ."""
    text = single_line(text)
    if len(text) <= length:
        return text
    return f"{text[: length - 8]}…{hashlib.sha256(text.encode()).hexdigest()[:7]}"


def folder_of(run: Run) -> str:
    """Name of the run's folder, with that of the sweep."""
    sweep = run.state().get("sweep")
    return run.folder.name if sweep is None else str(Path(sweep) / run.folder.name)
