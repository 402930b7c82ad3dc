"""The comparison of a finished run with a replay of it: which decisions and figures differ, and why they may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from edgenetllm.report.bootstrap import Estimate, Retention
from edgenetllm.report.results import (
    Git,
    PerEpisode,
    Results,
    differences,
    estimates,
    fraction_of_bound,
    retention,
)
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
    misstated: list[str] = field(default_factory=list)  # figures of results.json that the replay does not give
    skipped: dict[str, str] = field(default_factory=dict)  # policy -> why it was not replayed
    reasons: list[str] = field(default_factory=list)  # what is not as it was when the run was made

    @property
    def differing_hashes(self) -> list[str]:
        return [name for name, (recorded, now) in self.hashes.items() if recorded not in (None, now)]

    @property
    def same(self) -> bool:
        return all(one.same for one in self.policies) and not self.differing_hashes and not self.misstated

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
        lines += [f"results.json of {figure}" for figure in self.misstated]
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


def misstated(
    results: Results, now: Mapping[str, PerEpisode], bounds: Mapping[str, PerEpisode], metrics: Sequence[Metric]
) -> list[str]:
    """The figures of `results` that do not follow from the episodes of its policies, a sentence each.

    `now` has the policies that were replayed, `bounds` what no policy exceeds, as they were recorded; each policy -> metric
    -> (episodes,).
    """
    found: dict[str, tuple[Estimate | Retention | None, Estimate | Retention | None]] = {}
    for policy, figures in estimates(now, metrics).items():
        stated = results.policies.get(policy, {})
        found |= {f"policies.{policy}.{key}": (stated.get(key), figure) for key, figure in figures.items()}
    if "sparse" in now:
        paired = differences(now, metrics[0])
        found |= {
            f"differences.{name}": (results.differences[name], one)
            for name, one in paired.items()
            if name in results.differences
        }
    if results.retention and {"sparse", "dense"} <= set(now):
        kept = retention(now["sparse"], now["dense"], metrics)
        found |= {f"retention.{key}": (results.retention.get(key), one) for key, one in kept.items()}
    if (stated_bound := results.bound) is not None and stated_bound.name in bounds:
        bound = fraction_of_bound(now, {stated_bound.name: bounds[stated_bound.name]}, metrics[0])
        shares = {} if bound is None else bound.share
        found |= {f"bound.share.{name}": (stated_bound.share.get(name), one) for name, one in shares.items()}
    return [
        f"{results.task}: {name} is {_mean(stated)}, the replay gives {_mean(one)}"
        for name, (stated, one) in found.items()
        if stated != one
    ]


def _mean(figure: Estimate | Retention | None) -> str:
    """A figure with its interval, exactly."""
    return "none" if figure is None else f"{figure.mean:.17g} [{figure.ci95[0]:.17g}, {figure.ci95[1]:.17g}]"


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
