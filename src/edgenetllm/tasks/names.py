"""Names that tasks, metrics and policies may have: some become names of files, others columns of the files of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgenetllm.errors import UserError

IDENTIFIER = r"^[a-z][a-z0-9_]{0,63}$"  # a task or a metric
POLICY = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$"
# Columns of replay.parquet that a record has no say in, and columns of metrics.parquet that no metric can be called by.
REPLAY_COLUMNS = ("policy", "episode", "step", "action", "reward", "return_to_go", "decision_ms")
METRICS_COLUMNS = ("policy", "episode", "seed", "bound")
OURS = ("dense", "sparse")  # our models among the policies of a run
GUARDED = "guarded"  # the sparse one as an agent plays it, where `edge` asks for it
REASON = "reason"  # optional column of replay.parquet: why another policy decided; null where none did


def check_identifiers(names: Iterable[str], what: str, reserved: Iterable[str] = ()) -> None:
    """Raises UserError for a task or metric whose name is not `IDENTIFIER`, is taken, or comes twice.

    `what`: "the metrics of abr".
    """
    names = list(names)
    for name in names:
        if not re.fullmatch(IDENTIFIER, name):
            raise UserError(f"{what}: the name {name!r} must be small letters, digits and _, with a letter first")
        if name in reserved:
            raise UserError(f"{what}: the name {name!r} is taken by a column of metrics.parquet: choose another")
        if names.count(name) > 1:
            raise UserError(f"{what}: two are called {name!r}: give each a name of its own")


def is_label(text: str) -> bool:
    """True where a text can be the label of a model: printable, short, and no path."""
    return 0 < len(text) <= 200 and text.isprintable() and not text.startswith(".") and not set(text) & {"/", "\\"}


def check_policies(names: Iterable[str], what: str) -> None:
    """Raises UserError for a policy or bound whose name cannot be part of a file's name. `what`: "the policies of abr"."""
    for name in names:
        if not re.fullmatch(POLICY, name):
            raise UserError(
                f"{what}: the name {name!r} must be letters, digits and _ . + -, with a letter or digit first"
            )


def check_record(names: Iterable[str], source: type) -> None:
    """Raises UserError for a record with a column that every replay has; `source` is the class that records it."""
    for name in names:
        if name in (*REPLAY_COLUMNS, REASON):
            raise UserError(
                f"{source.__module__}.{source.__qualname__}.record(): the column {name!r} has a meaning of its own in "
                "replay.parquet: choose another name"
            )


def check_episodes(names: Iterable[str], what: str) -> None:
    """Raises UserError where two episodes have one name, as a replay could not tell them apart."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"{what}: two episodes are called {name!r}: give each a name of its own")
        seen.add(name)
