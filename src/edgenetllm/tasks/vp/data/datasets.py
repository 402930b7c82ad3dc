"""The data sets of viewport prediction: two public ones with NetLLM's splits, and generated viewers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Location
from edgenetllm.errors import UserError
from edgenetllm.option_types import NUMBER, Count, FolderName, FolderPath, Seed
from edgenetllm.tasks.supervised.data.windows import Recording, Windows, windows_of
from edgenetllm.tasks.task import SPLITS, Split
from edgenetllm.tasks.vp.data.recordings import AXES, read_public
from edgenetllm.tasks.vp.data.sources import HEAD, TAIL
from edgenetllm.tasks.vp.data.synthetic import generate

MOST_ROWS = 10_000


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Viewers:
    """Options of every data set of viewport prediction; rows are a fifth of a second."""

    name: FolderName
    history: Annotated[int, Field(ge=1, le=HEAD), NUMBER]  # rows before an answer
    horizon: Annotated[int, Field(ge=1, le=TAIL), NUMBER]  # rows ahead
    train_step: Count  # a question every so many rows of a recording
    test_step: Count  # of validation and test

    columns = AXES

    @property
    def inputs(self) -> list[str]:
        return list(AXES)

    @property
    def answers(self) -> list[str]:
        return list(AXES)

    def windows(self, split: Split, ahead: int) -> Windows:
        if ahead > TAIL:
            raise UserError(
                f"task.answer_rows: whole answers reach {ahead} rows ahead, beyond the {TAIL} at the end of a recording: "
                "choose a number that divides data.horizon"
            )
        step = self.train_step if split == "train" else self.test_step
        return windows_of(self.recordings[split], self.history, ahead, step, HEAD, TAIL)

    @property
    def recordings(self) -> Mapping[Split, list[Recording]]:
        """The recordings of each split."""
        raise NotImplementedError

    def describe(self) -> list[str]:
        counts = ", ".join(f"{len(self.recordings[split])} {split}" for split in SPLITS)
        return [f"recordings: {counts}; no video and no viewer is in two splits"]


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Public(Viewers):
    """Options of `data=jin2022` and `data=wu2017`."""

    set: Literal["Jin2022", "Wu2017"]
    data_dir: Annotated[FolderPath, Location("data_dir")]

    @cached_property
    def recordings(self) -> Mapping[Split, list[Recording]]:  # type: ignore[override]
        return read_public(self.set, self.data_dir)


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Synthetic(Viewers):
    """Options of `data=synthetic_viewers`: viewers of their own in each split."""

    seed: Seed
    seconds: Annotated[int, Field(ge=20, le=MOST_ROWS // 5), NUMBER]  # of a recording
    train: Count  # viewers
    val: Count
    test: Count

    @cached_property
    def recordings(self) -> Mapping[Split, list[Recording]]:  # type: ignore[override]
        counts: dict[Split, int] = {"train": self.train, "val": self.val, "test": self.test}
        first = {"train": 0, "val": self.train, "test": self.train + self.val}
        return {split: generate(count, self.seconds, self.seed, first[split]) for split, count in counts.items()}
