"""What `data=` means for CJS: the job profiles of some queries at some sizes of the data base."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Protocol

from pydantic import ConfigDict, NonNegativeInt
from pydantic.dataclasses import dataclass

from edgenetllm.tasks.cjs.profiles import Profile
from edgenetllm.tasks.cjs.sources import SOURCES
from edgenetllm.tasks.cjs.synthetic import generate
from edgenetllm.tasks.cjs.tpch import QUERIES, SIZES, read_profiles
from edgenetllm.tasks.fetch import CODELOAD, find

STRICT = ConfigDict(extra="forbid")


class ProfileData(Protocol):
    """A profile for each pair of query and size."""

    name: str

    @property
    def queries(self) -> tuple[int, ...]: ...

    @property
    def sizes(self) -> tuple[str, ...]: ...

    def profiles(self) -> list[Profile]:
        """All queries of the first size, then of the next: the one of (query, size) is at `index(query, size)`."""
        ...

    def index(self, query: int, size: str) -> int:
        """Raises ValueError for a query or size that is not there."""
        ...


class _TpchGrid:
    """The queries and sizes of TPC-H, size by size."""

    @property
    def queries(self) -> tuple[int, ...]:
        return QUERIES

    @property
    def sizes(self) -> tuple[str, ...]:
        return SIZES

    def index(self, query: int, size: str) -> int:
        return SIZES.index(size) * len(QUERIES) + QUERIES.index(query)


@dataclass(config=STRICT)
class Tpch(_TpchGrid):
    """`data=tpch`: measured profiles of the TPC-H queries, found under `data_dir` or fetched to there."""

    name: str
    data_dir: Path
    base_url: str = CODELOAD  # where archives are fetched from

    def profiles(self) -> list[Profile]:
        return list(_read(self.data_dir / "cjs/tpch", self.base_url))


@dataclass(config=STRICT)
class SyntheticDags(_TpchGrid):
    """`data=synthetic_dags`: generated profiles, no download."""

    name: str
    seed: NonNegativeInt

    def profiles(self) -> list[Profile]:
        return list(_generate(self.seed))


@lru_cache(maxsize=2)
def _read(folder: Path, base_url: str) -> tuple[Profile, ...]:
    return tuple(read_profiles(find(folder, SOURCES["cjs/tpch"], base_url)))


@lru_cache(maxsize=8)
def _generate(seed: int) -> tuple[Profile, ...]:
    return tuple(generate(seed))
