"""Sections of a comparison page: only runs on the same test episodes stand side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from edgenetllm.errors import UserError
from edgenetllm.reporting.page_groups import Group, Runs, bundle_number, bundle_values, make_group
from edgenetllm.reporting.results import Estimate, Results, metric_key
from edgenetllm.reporting.retention_runs import (
    NEAR,
    PlayedRun,
    backbone_weights,
    cell_of,
    folder_name,
    main_metric,
    newest,
    play,
)
from edgenetllm.tasks.task import Metric

THREADS = 4  # for reading replays, most of which happens outside Python's lock


@dataclass(frozen=True, eq=False)
class Section:
    """All runs of a task on the same test episodes."""

    task: str
    data: str
    data_hash: str
    metric: Metric
    groups: list[Group]  # of sparse models, by model, method, recovery and sparsity; controls last
    dense: list[Group]  # the dense parents, one group per model
    baselines: dict[str, Estimate]  # with bounds; each as the newest run that has it reports it
    runs: Runs  # oldest first
    models: dict[Path, str]  # as they are named in this section
    older: set[Path]  # runs that a newer one of the same group and seed replaces
    notes: list[str]


@dataclass(frozen=True, eq=False)
class _Draft:
    """A section before its figures are known."""

    runs: dict[Path, Results]
    models: dict[Path, str]
    sparse: list[dict[Path, Results]]
    dense: list[dict[Path, Results]]
    notes: list[str]

    @property
    def kept(self) -> dict[Path, Results]:
        kept = {folder for group in (*self.sparse, *self.dense) for folder in group}
        return {folder: results for folder, results in self.runs.items() if folder in kept}


def make_sections(runs: Runs, resamples: int = 10_000) -> list[Section]:
    """One per task, data set and test episodes, those with most runs first. `runs` are sorted by age."""
    places: dict[tuple[str, str, str, str], dict[Path, Results]] = {}
    for folder, results in runs.items():
        place = (results.task, results.data, results.data_hash, metric_key(main_metric(results)))
        places.setdefault(place, {})[folder] = results
    drafts = [_draft(members) for members in places.values()]
    played = _play(group for draft in drafts for group in (*draft.sparse, *draft.dense))
    sections = [_section(draft, played, resamples) for draft in drafts]
    return sorted(sections, key=lambda section: (-len(section.runs), section.task, section.data, section.data_hash))


def _draft(runs: dict[Path, Results]) -> _Draft:
    models = _models(runs)
    parts: dict[
        tuple[str, str | None], dict[Path, Results]
    ] = {}  # `newest` looks at method, recovery, sparsity and seed
    for folder, results in runs.items():
        parts.setdefault((models[folder], bundle_values(results)), {})[folder] = results
    sparse: dict[object, dict[Path, Results]] = {}
    dense: dict[str, dict[int, Path]] = {}
    notes = []
    for (model, values), members in parts.items():
        kept, older = newest(members)
        notes += older
        for folder, results in kept.items():
            method, _, sparsity = cell_of(results)
            if method is not None or sparsity == 1:
                sparse.setdefault((model, values, *cell_of(results)), {})[folder] = results
            dense.setdefault(model, {})[results.seed] = folder
        notes += _different_parents(model, kept)
    parents = [{folder: runs[folder] for folder in seeds.values()} for seeds in dense.values()]
    return _Draft(runs, models, list(sparse.values()), parents, notes)


def _models(runs: Runs) -> dict[Path, str]:
    """Name of each run's model; with its size where the models of one name have several."""
    weights = {folder: backbone_weights(one) or bundle_number(one, "weights") for folder, one in runs.items()}
    sizes: dict[str, set[float]] = {}
    for folder, results in runs.items():
        sizes.setdefault(results.model, set()).update(size for size in [weights[folder]] if size)
    names = {}
    for folder, results in runs.items():
        size = weights[folder]
        suffix = f" ({size / 1e6:.3g} M weights)" if size else " (size unknown)"
        names[folder] = results.model + (suffix if len(sizes[results.model]) > 1 else "")
    return names


def _different_parents(model: str, runs: Runs) -> list[str]:
    """Runs of one training seed have the same dense parent, unless they come from different adaptations."""
    by_seed: dict[int, dict[Path, float]] = {}
    for folder, results in runs.items():
        mean = results.policies["dense"][metric_key(main_metric(results))].mean
        by_seed.setdefault(results.seed, {})[folder] = mean
    notes = []
    for seed, means in sorted(by_seed.items()):
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        if not math.isclose(means[low], means[high], rel_tol=NEAR):
            notes.append(
                f"{model}, seed {seed}: the dense parents reach from {means[low]:.6g} ({folder_name(low)}) to "
                f"{means[high]:.6g} ({folder_name(high)}), so these runs come from different adaptations: compare their "
                "retention rather than their means"
            )
    return notes


def _play(groups: Iterable[Runs]) -> dict[Path, PlayedRun | UserError]:
    """The episodes of the runs in groups of several: those of a single run say nothing that its results do not."""
    wanted = list({folder: one for group in groups if len(group) > 1 for folder, one in group.items()}.items())
    with ThreadPoolExecutor(THREADS) as pool:
        played = pool.map(lambda item: _try_play(*item), wanted)
        bar = tqdm(played, "replays", len(wanted), leave=False, disable=None, delay=1)
        return {folder: run for (folder, _), run in zip(wanted, bar, strict=True)}


def _try_play(folder: Path, results: Results) -> PlayedRun | UserError:
    try:
        return play(folder, results, policies=("dense", "sparse"))
    except UserError as error:
        return error


def _section(draft: _Draft, played: dict[Path, PlayedRun | UserError], resamples: int) -> Section:
    last = list(draft.runs.values())[-1]

    def name(group: Runs) -> str:
        return draft.models[next(iter(group))]

    sparse = [make_group(group, name(group), "sparse", played, resamples) for group in draft.sparse]
    dense = []
    for parents in draft.dense:
        model = name(parents)
        timed = {folder: one for folder, one in draft.kept.items() if draft.models[folder] == model}  # all measured it
        dense.append(make_group(parents, model, "dense", played, resamples, timed))
    reasons = dict.fromkeys(g.figures.note for g in (*sparse, *dense) if g.figures.note is not None)
    return Section(
        task=last.task,
        data=last.data,
        data_hash=last.data_hash,
        metric=main_metric(last),
        groups=sorted(sparse, key=_order),
        dense=sorted(dense, key=lambda group: group.model),
        baselines=_baselines(list(draft.runs.values())),
        runs=draft.runs,
        models=draft.models,
        older=set(draft.runs) - set(draft.kept),
        notes=draft.notes + [f"intervals over seeds only: {reason}" for reason in reasons],
    )


def _order(group: Group) -> tuple[str, bool, str, str, str, float]:
    control = group.sparsity == 1
    return group.model, control, group.method or "", group.recovery or "", group.values or "", group.sparsity


def _baselines(results: list[Results]) -> dict[str, Estimate]:
    key = metric_key(main_metric(results[-1]))
    found: dict[str, Estimate] = {}
    for one in reversed(results):
        for name, figures in one.policies.items():
            if name not in ("dense", "sparse") and key in figures:
                found.setdefault(name, figures[key])
    return found
