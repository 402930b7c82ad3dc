"""The comparison of a finished run with a replay of it: which decisions and figures differ, and why they may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from edgenetllm.report.results import Git
from edgenetllm.report.text import markdown_table
from edgenetllm.tasks.task import Metric

INDEX = ["episode", "step"]
TIMED = ["decision_ms"]  # columns that are another time in every replay


@dataclass(frozen=True)
class Compared:
    """One policy of one task: its recorded decisions, and those of now that are not the same."""

    task: str
    policy: str
    decisions: int
    differing: int
    first: str | None  # which decision, and what was recorded
    metric: str
    recorded: float
    now: float
    episodes_differing: int  # of whose metrics at least one is another number

    @property
    def same(self) -> bool:
        return self.differing == 0 and self.episodes_differing == 0


@dataclass
class Verification:
    """The comparison of a whole run; `hashes` are name -> recorded and now, None where nothing was recorded."""

    run: str
    policies: list[Compared] = field(default_factory=list)
    hashes: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # policy -> why it was not replayed
    reasons: list[str] = field(default_factory=list)  # what is not as it was when the run was made

    @property
    def differing_hashes(self) -> list[str]:
        return [name for name, (recorded, now) in self.hashes.items() if recorded not in (None, now)]

    @property
    def same(self) -> bool:
        return all(one.same for one in self.policies) and not self.differing_hashes

    def __str__(self) -> str:
        """A table of the policies, the hashes, what was not replayed, and what changed since."""
        rows = [
            [one.task, one.policy, f"{one.decisions:,}", f"{one.differing:,}", f"{one.recorded:.6g} {one.metric}",
             f"{one.now:.6g}", str(one.episodes_differing)]
            for one in self.policies
        ]  # fmt: skip
        header = ["task", "policy", "decisions", "differing", "recorded", "now", "episodes with other figures"]
        lines = markdown_table(header, rows, left=2)
        lines += [f"{name}: {_compared(*both)}" for name, both in self.hashes.items()]
        lines += [f"{name}: not replayed, {why}" for name, why in self.skipped.items()]
        lines += [f"first difference of {one.policy} ({one.task}): {one.first}" for one in self.policies if one.first]
        if self.reasons:
            lines.append("not as it was when the run was made: " + "; ".join(self.reasons))
        return "\n".join(lines)


def compare(
    task: str,
    policy: str,
    recorded: pa.Table,
    now: pa.Table,
    metric: Metric,
    figures: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Compared:
    """Compare two replays of a policy row by row, and its metrics (name -> (episodes,)) episode by episode.

    A decision differs where any of its columns does, but for times.
    """
    before, after = _rows_of(recorded, policy), _rows_of(now, policy)
    columns = [name for name in before.column_names if name not in (*TIMED, "policy") and name in after.column_names]
    old, new = (
        {tuple(row[key] for key in INDEX): row for row in one.select(columns).to_pylist()} for one in (before, after)
    )
    differing = sorted(key for key in {*old, *new} if not _equal(old.get(key), new.get(key)))
    recorded_figures, new_figures = figures
    return Compared(
        task=task,
        policy=policy,
        decisions=len(old),
        differing=len(differing),
        first=_describe(differing[0], old, new) if differing else None,
        metric=metric.name,
        recorded=float(np.mean(recorded_figures[metric.name])),
        now=float(np.mean(new_figures[metric.name])),
        episodes_differing=_episodes_differing(recorded_figures, new_figures),
    )


def changes(
    versions: tuple[Mapping[str, str], Mapping[str, str]],
    git: tuple[Git | None, Git | None],
    more: Mapping[str, tuple[Any, Any]],
) -> list[str]:
    """The changes since, each in words: versions of packages, the processor, the source, and `more` of then and now."""
    then, now = versions
    found = [f"{name} {then[name]} -> {now.get(name, 'none')}" for name in then if then[name] != now.get(name)]
    before, after = git
    if before is not None and after is not None and before != after:
        found.append(f"source {_revision(before)} -> {_revision(after)}")
    return found + [f"{name} {old} -> {new}" for name, (old, new) in more.items() if old != new]


def _rows_of(table: pa.Table, policy: str) -> pa.Table:
    return table.filter(pc.equal(table["policy"].cast(pa.string()), policy))


def _equal(one: Any, other: Any) -> bool:
    """Equal values of rows, NaN being equal to NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other or (one != one and other != other))


def _describe(key: Any, old: Mapping[Any, Any], new: Mapping[Any, Any]) -> str:
    episode, step = key
    at = f"episode {episode}, decision {step}"
    if key not in new:
        return f"{at} is not reached any more"
    if key not in old:
        return f"{at} was not reached then"
    names = [name for name, value in old[key].items() if not _equal(value, new[key][name])]
    return f"{at}: " + ", ".join(f"{name} {old[key][name]} -> {new[key][name]}" for name in names[:3])


def _episodes_differing(recorded: Mapping[str, npt.NDArray[Any]], now: Mapping[str, npt.NDArray[Any]]) -> int:
    shared = [name for name in recorded if name in now and len(recorded[name]) == len(now[name])]
    if not shared:
        return len(next(iter(recorded.values()), ()))
    return int(np.any([recorded[name] != now[name] for name in shared], axis=0).sum())


def _compared(recorded: str | None, now: str) -> str:
    if recorded is None:
        return f"not recorded then, {now:.16} now"
    return f"{now:.16}, as recorded" if recorded == now else f"{recorded:.16} then, {now:.16} now"


def _revision(git: Git) -> str:
    return git.commit[:10] + (" with changes" if git.dirty else "")
