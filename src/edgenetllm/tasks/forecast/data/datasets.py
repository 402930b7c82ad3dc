"""The data set of `task=forecast`: series in CSV files, split by time or by group."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Affects
from edgenetllm.errors import UserError
from edgenetllm.option_types import NUMBER, Count, ExistingPath, FolderName, Seed, Text
from edgenetllm.tasks.forecast.data.csv_files import Table, files_of, read_table
from edgenetllm.tasks.supervised.data.splits import by_group, by_time, without_copies
from edgenetllm.tasks.supervised.data.windows import Recording, Windows, windows_of
from edgenetllm.tasks.task import SPLITS, Split

MOST = 100_000  # rows of a history or a horizon
GAP = 1.5  # times the usual distance of two rows: from there on a series is another one
Columns = Annotated[list[Text], Field(min_length=1)]
Rows = Annotated[int, Field(ge=1, le=MOST), NUMBER]
Part = Annotated[float, Field(gt=0, lt=0.5), NUMBER]


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class CsvFiles:
    """Options of `data=csv`."""

    name: FolderName
    path: Annotated[ExistingPath, Affects("nothing")]  # a file, or a folder of files; its content counts
    inputs: Columns
    answers: Columns
    history: Rows
    horizon: Rows
    split: Literal["time", "group"] = "time"
    group: Text | None = None
    time: Text | None = None
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    val_fraction: Part = 0.15
    test_fraction: Part = 0.15
    step: Count = 1
    seed: Seed = 0

    def __post_init__(self) -> None:
        for key in ("inputs", "answers"):
            names = getattr(self, key)
            if len(set(names)) < len(names):
                raise UserError(f"data.{key}={names}: name each column once")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.inputs, *self.answers]))

    def windows(self, split: Split, ahead: int) -> Windows:
        return windows_of(self._splits[0][split], self.history, ahead, self.step)

    def describe(self) -> list[str]:
        splits, dropped, gaps = self._splits
        counts = ", ".join(f"{len(splits[split])} {split}" for split in SPLITS)
        how = "pieces, in the order of time" if self.split == "time" else "recordings, no group in two splits"
        more = [f"{dropped} copies of what is in another split were dropped"] if dropped else []
        more += [f"cut at {gaps} gaps of {self.time}"] if gaps else []
        rows = self.history + self.horizon
        short = sum(len(one.values) < rows for split in SPLITS for one in splits[split])
        more += [f"{short} of them have fewer than the {rows} rows of a question, and give none"] if short else []
        return [f"recordings: {counts} ({how})", *more]

    @cached_property
    def _splits(self) -> tuple[Mapping[Split, list[Recording]], int, int]:
        """The recordings of each split, the number of copies that were dropped, and of gaps."""
        tables = [self._table(path) for path in files_of(self.path)]
        named = [pair for table in tables for pair in _by_group(table)]
        fractions = (self.val_fraction, self.test_fraction)
        for recording, _ in named:
            self._check_clock(recording)
        # Splits of whole series, so that what lies behind a gap is no past of what lies before it; then cut at the gaps.
        if self.split == "time":
            whole = by_time([recording for recording, _ in named], fractions)
        else:
            chosen = by_group([group for _, group in named], fractions, self.seed)
            whole = {split: [named[i][0] for i in chosen[split]] for split in SPLITS}
        splits = {split: [piece for one in whole[split] for piece in self._pieces(one)] for split in SPLITS}
        gaps = sum(len(splits[split]) - len(whole[split]) for split in SPLITS)
        return (splits, 0, gaps) if self.split == "time" else (*without_copies(splits), gaps)

    def _table(self, path: Path) -> Table:
        return read_table(path, [*self.columns, *([] if self.time is None else [self.time])], self.group, self.separator)

    def _check_clock(self, recording: Recording) -> None:
        """Raises UserError for a clock that does not rise."""
        if self.time is not None and ((steps := np.diff(recording.values[:, -1])) <= 0).any():
            row = int(np.argmax(steps <= 0)) + 2
            raise UserError(
                f"data.path={self.path}: {recording.name}: the column {self.time} does not rise at row {row} of the series: sort "
                "the rows, name the column that tells series apart (data.group), or leave data.time away"
            )

    def _pieces(self, recording: Recording) -> list[Recording]:
        """The recording without its clock, cut where that jumps."""
        if self.time is None:
            return [recording]
        clock, values = recording.values[:, -1], recording.values[:, :-1]
        steps = np.diff(clock)
        cuts = np.flatnonzero(steps > GAP * np.median(steps)) + 1 if len(steps) else np.empty(0, np.int64)
        pieces = np.split(values, cuts)
        names = [recording.name] if len(pieces) == 1 else [f"{recording.name} part {n + 1}" for n in range(len(pieces))]
        return [Recording(name, piece) for name, piece in zip(names, pieces, strict=True)]


def _by_group(table: Table) -> list[tuple[Recording, str]]:
    """The series of a file, each with its group; without a column of groups the file is one."""
    if table.groups is None:
        return [(Recording(table.name, table.values), table.name)]
    groups = np.array(table.groups, object)
    different = dict.fromkeys(table.groups)
    return [(Recording(f"{table.name}/{group}", table.values[groups == group]), group) for group in different]
