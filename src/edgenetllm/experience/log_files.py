"""Files of logged decisions, .jsonl and .parquet, as rows that know where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from edgenetllm.errors import UserError
from edgenetllm.files import sha256_of
from edgenetllm.parquet_file import damaged, open_parquet
from edgenetllm.plain_files import check_bounds

FORMS = (".jsonl", ".parquet")
ROWS = 4096  # of a parquet file that are in memory as Python objects
LONGEST = 16 * 2**20  # bytes of a decision in a .jsonl file


@dataclass(frozen=True)
class Row:
    """A decision as it was logged, and the place of it for messages."""

    values: dict[str, Any]
    where: str


def log_files(folder: Path) -> list[Path]:
    """The .jsonl and .parquet files in a folder, by name; those that are still written to have hidden names and are not read.

    Raises UserError without any.
    """
    if not folder.is_dir():
        raise UserError(f"experience.folder={folder}: there is no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix in FORMS and not path.name.startswith("."))
    if not files:
        raise UserError(f"experience.folder={folder}: no files .jsonl or .parquet with logged decisions in it")
    if wrong := next((path for path in files if not path.is_file()), None):
        raise UserError(f"{wrong}: not a file")
    return files


def unfinished(folder: Path) -> int:
    """The number of files that an agent writes to, or left open when it ended without a warning."""
    return len(list(folder.glob(".decisions-*.part")))


def content_hash(files: Sequence[Path]) -> str:
    """SHA-256 of what the files hold, in order; their names do not count."""
    return hashlib.sha256(" ".join(map(sha256_of, files)).encode()).hexdigest()


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file. Raises UserError, naming the file and the line, for what is none."""
    yield from _json_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path)


def _json_rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise UserError(f"{path}: not a file")
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > LONGEST:
                raise UserError(f"{where}: longer than the {LONGEST / 2**20:g} MiB that a decision has at most")
            if not line.strip():
                continue
            try:
                values = json.loads(line)
                check_bounds(values, finite=False)  # what a column may hold is said of each
            except RecursionError:
                raise UserError(f"{where}: not a JSON object: nested too deep") from None
            except ValueError as error:
                raise UserError(f"{where}: not a JSON object ({str(error).splitlines()[0]:.200})") from None
            if not isinstance(values, dict):
                raise UserError(f"{where}: a JSON object is needed for each decision, not {line[:40]!r}")
            yield Row(values, where)


def _parquet_rows(path: Path) -> Iterator[Row]:
    number = 0
    with open_parquet(path) as file:
        batches = file.iter_batches(batch_size=ROWS, use_threads=False)
        while (rows := _next_rows(batches, path)) is not None:
            for values in rows:
                number += 1
                yield Row(values, f"{path}, row {number}")


def _next_rows(batches: Iterator[pa.RecordBatch], path: Path) -> list[dict[str, Any]] | None:
    """The rows of the next batch; None after the last one. Raises UserError for a damaged one."""
    try:
        batch = next(batches, None)
        if batch is None:
            return None
        batch.validate(full=True)
        rows: list[dict[str, Any]] = batch.to_pylist()
    except Exception as error:  # whatever Arrow makes of a damaged page
        raise damaged(path, error) from None
    return rows
