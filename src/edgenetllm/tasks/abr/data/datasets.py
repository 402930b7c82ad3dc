"""The data sets of ABR (`data=`): train, validation and test traces, where sessions start in them, and the default video."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Affects, Location
from edgenetllm.errors import UserError
from edgenetllm.option_types import NUMBER, Count, CountOrZero, ExistingFolder, FolderName, FolderPath, PathOrName, Positive, Seed, Text
from edgenetllm.tasks.abr.data.altered import altered_copies
from edgenetllm.tasks.abr.data.columns import Typed
from edgenetllm.tasks.abr.data.own_video import VideoOptions
from edgenetllm.tasks.abr.data.videos import MOST_CHUNKS
from edgenetllm.tasks.abr.data.readers import Format, read_folder
from edgenetllm.tasks.abr.data.rows import from_zero
from edgenetllm.tasks.abr.data.sources import FCC_TEST_STARTS, NETLLM_SEED, SOURCES
from edgenetllm.tasks.abr.data.splits import Splits, divided, split
from edgenetllm.tasks.abr.data.synthetic import generate
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.abr.data.units import RATE_UNITS, TimeUnit, rate_unit
from edgenetllm.tasks.fetch import CODELOAD, find

STRICT = ConfigDict(extra="forbid")
Bitrates = Annotated[list[Positive], Field(min_length=2)]
Chunks = Annotated[int, Field(ge=2, le=MOST_CHUNKS), NUMBER]
LEAKED = "data.allow_shared=true keeps traces that share recordings with another split, and the results say so"


@runtime_checkable
class TraceData(VideoOptions, Protocol):
    """The data of a task that plays traces."""

    def splits(self) -> Splits: ...

    def starts(self, traces: list[Trace], split: str) -> npt.NDArray[np.int64]:
        """Row (>= 1) in which the session of each validation or test trace starts, (traces,)."""
        ...


def public_starts(traces: list[Trace]) -> npt.NDArray[np.int64]:
    """The public rule: one draw per trace, in file order, from NetLLM's environment seed."""
    rng = np.random.RandomState(NETLLM_SEED)
    return np.array([rng.randint(1, len(trace.time_s)) for trace in traces], np.int64)


@dataclass(config=STRICT)
class Synthetic:
    """`data=synthetic`: generated traces, no download."""

    name: FolderName
    seed: Seed  # train, validation and test use seed, seed + 1 and seed + 2
    seconds: Count  # length of a trace
    train: Count
    val: Count
    test: Annotated[Count, Affects("evaluation")]
    video: PathOrName = "synthetic"
    # Of the video, see own_video.py; null: the public ladder, or as its folder says.
    bitrates_kbps: Bitrates | None = None
    chunk_s: Positive | None = None  # seconds of video in a chunk; null: 4, or as its folder says
    chunks: Chunks | None = None  # that are played; null: all

    def splits(self) -> Splits:
        counts = (self.train, self.val, self.test)
        train, val, test = (generate(count, self.seconds, 3 * self.seed + number) for number, count in enumerate(counts))
        return Splits(train, val, test, dropped=0)

    def starts(self, traces: list[Trace], split: str) -> npt.NDArray[np.int64]:
        return public_starts(traces)


@dataclass(config=STRICT)
class Public:
    """A public set: the folders of training traces are pooled, cleaned of what leaks, and some of them validate."""

    name: FolderName
    data_dir: Annotated[FolderPath, Location("data_dir")]
    train: list[Text]  # folders under data_dir; empty for a set that is for testing only
    test: Text
    # Number of traces moved from training to validation, in whole groups: of all folders together, or one for each folder.
    validation: CountOrZero | list[CountOrZero]
    seed: Seed  # of that choice
    video: PathOrName
    base_url: Annotated[Text, Affects("nothing")] = CODELOAD  # where archives are fetched from
    also_test: list[Text] = field(default_factory=list)  # folders of other test sets that training must not know either
    # Altered copies of each training trace, see altered.py: of all folders alike, or one number for each folder.
    copies: CountOrZero | list[CountOrZero] = 0
    allow_shared: bool = False  # drop nothing that shares recordings with a test set; the results say so
    # Of the video, see own_video.py; null: the public ladder, or as its folder says.
    bitrates_kbps: Bitrates | None = None
    chunk_s: Positive | None = None  # seconds of video in a chunk; null: 4, or as its folder says
    chunks: Chunks | None = None  # that are played; null: all

    def __post_init__(self) -> None:
        for name in ("validation", "copies"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) != len(self.train):
                raise UserError(
                    f"data.{name}={value}: give one number, or one for each of the {len(self.train)} folders of "
                    f"data.train ({', '.join(self.train)})"
                )

    def splits(self) -> Splits:
        test = self._read(self.test)
        if not self.train:
            remedy = f"this set is for testing only: adapt on another one, then evaluate that run with data={self.name}"
            return Splits([], [], test, dropped=0, remedy=remedy)
        also = [trace for folder in self.also_test for trace in self._read(folder)]
        folders = [self._read(folder) for folder in self.train]
        original = split(folders, test, self.validation, self.seed, also, self.allow_shared)
        altered = self._altered(folders, original.train)
        train = [*original.train, *altered]
        remedy = f"{LEAKED}; data.validation={self.validation} sets how many traces validate"
        return replace(original, also=tuple(self.also_test), train=train, altered=len(altered), remedy=remedy)

    def _altered(self, folders: list[list[Trace]], train: list[Trace]) -> list[Trace]:
        """Copies of the training traces, after validation has been taken out."""
        copies = self.copies if isinstance(self.copies, list) else [self.copies] * len(folders)
        learnt = {id(trace) for trace in train}
        return [
            trace
            for folder, count in zip(folders, copies, strict=True)
            for trace in altered_copies([one for one in folder if id(one) in learnt], count, self.seed)
        ]

    def starts(self, traces: list[Trace], split: str) -> npt.NDArray[np.int64]:
        if split == "test" and self.test == "abr/fcc/test":
            return np.array(FCC_TEST_STARTS, np.int64)
        return public_starts(traces)

    def _read(self, folder: str) -> list[Trace]:
        if folder not in SOURCES:
            raise UserError(f"data={self.name}: no public source is known for {folder}; there are {', '.join(SOURCES)}")
        path = find(self.data_dir / folder, SOURCES[folder], self.base_url)
        return read_folder(path, skip=SOURCES[folder].damaged)


@dataclass(config=STRICT)
class Folder:
    """`data=folder`: your own traces, in folders train, val and test of `path`; what leaks is dropped from train and val.

    Every trace starts at time 0, wherever its clock does.
    """

    name: FolderName
    path: Annotated[ExistingFolder, Affects("nothing")]  # the traces in it count, wherever they lie
    format: Format
    video: PathOrName
    column: Text | None = None  # the column of a CSV with the bandwidth; null: the only one that is named so
    unit: Text | None = None  # of the bandwidth; null: as the header says, Mbps without a header
    time_column: Text | None = None  # the column of a CSV with the clock; null: the only one that is named so
    time_unit: TimeUnit | None = None  # null: as the header says, seconds without a header
    allow_shared: bool = False  # drop nothing that shares recordings with another split; the results say so
    # Of the video, see own_video.py; null: the public ladder, or as its folder says.
    bitrates_kbps: Bitrates | None = None
    chunk_s: Positive | None = None  # seconds of video in a chunk; null: 4, or as its folder says
    chunks: Chunks | None = None  # that are played; null: all

    def __post_init__(self) -> None:
        typed = {name: getattr(self, name) for name in ("column", "time_column", "unit", "time_unit")}
        without_use = {"csv": (), "cooked": ("column", "time_column")}.get(self.format, tuple(typed))
        for name in without_use:
            if typed[name] is not None:
                raise UserError(f"data.{name}={typed[name]}: data.format={self.format} has no use for it")
        unit = None if self.unit is None else rate_unit(self.unit)
        if self.unit is not None and (unit is None or unit.others):
            raise UserError(f"data.unit={self.unit}: there are {RATE_UNITS}")

    def splits(self) -> Splits:
        typed = Typed(self.column, self.unit, self.time_column, self.time_unit)
        train, val, test = (self._read(name, typed) for name in ("train", "val", "test"))
        return replace(divided(train, val, test, self.allow_shared), remedy=LEAKED)

    def starts(self, traces: list[Trace], split: str) -> npt.NDArray[np.int64]:
        return public_starts(traces)

    def _read(self, split_name: str, typed: Typed) -> list[Trace]:
        if not (self.path / split_name).is_dir():
            raise UserError(f"data.path={self.path}: there is no folder {split_name} in it (train, val and test are needed)")
        return [from_zero(trace) for trace in read_folder(self.path / split_name, self.format, typed=typed)]
