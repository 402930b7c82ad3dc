"""The data sets of CJS (`data=`): job profiles, and in which setting such jobs arrive."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Affects, Location
from edgenetllm.errors import UserError
from edgenetllm.option_types import Count, ExistingFile, ExistingFolder, FolderName, FolderPath, NotNegative, Positive, Processes, Seed, Text
from edgenetllm.tasks.cjs.data.folder import read_folder
from edgenetllm.tasks.cjs.simulator.jobs import Mix, profile_number, read_recorded
from edgenetllm.tasks.cjs.simulator.profiles import Axis, Profile
from edgenetllm.tasks.cjs.simulator.settings import SETTINGS, Setting
from edgenetllm.tasks.cjs.data.sources import SOURCES
from edgenetllm.tasks.cjs.data.synthetic import generate
from edgenetllm.tasks.cjs.data.tpch import QUERIES, SIZES, read_profiles
from edgenetllm.tasks.fetch import CODELOAD, find

STRICT = ConfigDict(extra="forbid")


@dataclass(config=STRICT, kw_only=True)
class Workload:
    """Job profiles and a setting; what is not null differs from the setting's own."""

    name: FolderName
    setting: Text
    executors: Processes | None = None
    jobs: Count | None = None
    rate_per_ms: Positive | None = None
    recorded: Annotated[ExistingFile | None, Affects("evaluation")] = None  # jobs of test episodes

    def __post_init__(self) -> None:
        if self.setting not in SETTINGS:
            raise UserError(f"data.setting={self.setting}: there are {', '.join(SETTINGS)}")

    @property
    def axes(self) -> Sequence[Axis]:
        """The values that name a profile, axis by axis."""
        raise NotImplementedError

    def profiles(self) -> list[Profile]:
        """One for each combination of the values of `axes`, in the order of `ProfileData.profiles`."""
        raise NotImplementedError

    def cluster(self, recorded: bool = False) -> Setting:
        """The setting as overridden; with `recorded`, the list of jobs where there is one: all of it, or the first `jobs`."""
        base = SETTINGS[self.setting]
        listed = self.recorded_jobs if recorded else 0
        mix = Mix(
            jobs=self.jobs or listed or base.mix.jobs,
            rate_per_ms=self.rate_per_ms or base.mix.rate_per_ms,
            recorded=self.recorded if recorded else None,
            **{option: getattr(self, option) for axis in self.axes for option in (axis.option, axis.weights)},
        )
        return base._replace(executors=self.executors or base.executors, mix=mix)

    @property
    def recorded_jobs(self) -> int:
        """Number of jobs of the recorded list; 0 without one. Raises UserError for a list that cannot be read."""
        return 0 if self.recorded is None else len(read_recorded(self.recorded, self))


@dataclass(config=STRICT, kw_only=True)
class QueriesBySize(Workload):
    """The queries and sizes of TPC-H, size by size."""

    queries: list[Count] | None = None
    sizes: list[Text] | None = None
    query_weights: list[NotNegative] | None = None
    size_weights: list[NotNegative] | None = None

    @property
    def known_queries(self) -> tuple[int, ...]:
        return QUERIES

    @property
    def known_sizes(self) -> tuple[str, ...]:
        return SIZES

    @property
    def axes(self) -> Sequence[Axis]:
        return (
            Axis("queries", "query_weights", "query", self.known_queries),
            Axis("sizes", "size_weights", "size", self.known_sizes),
        )

    def index(self, query: int, size: str) -> int:
        """The place in `profiles()`. Raises ValueError for a query or size that is not there."""
        return profile_number(self, (query, size))


@dataclass(config=STRICT, kw_only=True)
class Tpch(QueriesBySize):
    """`data=tpch`: measured profiles of the TPC-H queries, found under `data_dir` or fetched to there."""

    data_dir: Annotated[FolderPath, Location("data_dir")]
    base_url: Annotated[Text, Affects("nothing")] = CODELOAD  # where archives are fetched from

    def profiles(self) -> list[Profile]:
        return list(_read(self.data_dir / "cjs/tpch", self.base_url))


@dataclass(config=STRICT, kw_only=True)
class SyntheticDags(QueriesBySize):
    """`data=synthetic_dags`: generated profiles, no download."""

    seed: Seed

    def profiles(self) -> list[Profile]:
        return list(_generate(self.seed))


@dataclass(config=STRICT, kw_only=True)
class Folder(Workload):
    """`data=folder`: your own job profiles, one JSON file for each (see folder.py)."""

    path: Annotated[ExistingFolder, Affects("nothing")]  # the profiles in it count, wherever they lie
    names: list[Text] | None = None  # of the profiles that jobs are drawn from; null: all
    name_weights: list[NotNegative] | None = None  # in the order of names; null: all alike
    moving_ms: NotNegative | None = None
    warmup_ms: NotNegative | None = None

    @property
    def axes(self) -> Sequence[Axis]:
        return (Axis("names", "name_weights", "profile", [profile.name for profile in self._profiles]),)

    def profiles(self) -> list[Profile]:
        return list(self._profiles)

    def cluster(self, recorded: bool = False) -> Setting:
        setting = super().cluster(recorded)
        moving = setting.moving_ms if self.moving_ms is None else self.moving_ms
        warmup = setting.warmup_ms if self.warmup_ms is None else self.warmup_ms
        return setting._replace(moving_ms=moving, warmup_ms=warmup)

    @cached_property
    def _profiles(self) -> list[Profile]:
        return read_folder(self.path)


@lru_cache(maxsize=2)
def _read(folder: Path, base_url: str) -> tuple[Profile, ...]:
    return tuple(read_profiles(find(folder, SOURCES["cjs/tpch"], base_url)))


@lru_cache(maxsize=8)
def _generate(seed: int) -> tuple[Profile, ...]:
    return tuple(generate(seed))
