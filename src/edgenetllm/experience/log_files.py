"""Files of logged decisions, .jsonl and .parquet, as rows that know where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edgenetllm.errors import UserError
from edgenetllm.files import sha256_of

FORMS = (".jsonl", ".parquet")
ROWS = 4096  # of a parquet file that are in memory as Python objects


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
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not a JSON object ({str(error).splitlines()[0]})") from None
            if not isinstance(values, dict):
                raise UserError(f"{where}: a JSON object is needed for each decision, not {line[:40]!r}")
            yield Row(values, where)


def _parquet_rows(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{path}, row {number}")
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from None
