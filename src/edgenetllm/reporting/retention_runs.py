"""The runs of a retention study: found below folders, read from their two files, and checked to belong together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from edgenetllm.errors import UserError
from edgenetllm.reporting.episode_values import metric_by_episode
from edgenetllm.reporting.layers import place_of
from edgenetllm.reporting.replay_file import REPLAY_FILE, episodes_of, read_replay
from edgenetllm.reporting.results import RESULTS_FILE, Results, metric_key
from edgenetllm.tasks.task import Metric

STAGES = ("train", "prune")
SAME = 1e-6  # relative: replay and results of one run, and the dense parent of the runs of one adaptation
NEAR = 5e-3  # relative: dense parents of one adaptation, replayed with another number of threads or on another machine


@dataclass(frozen=True, eq=False)
class PlayedRun:
    """A finished run and the main metric of each test episode."""

    folder: Path
    results: Results
    episodes: list[str]
    values: dict[str, npt.NDArray[np.float64]]  # policy -> (episodes,)

    @property
    def name(self) -> str:
        return folder_name(self.folder)


def backbone_weights(results: Results) -> int | None:
    """Weights in the pruned matrices of the decoder blocks, which say how large the model is; None where it is not known."""
    layers = (results.pruning or {}).get("layers")
    if not isinstance(layers, dict) or not layers:
        return None
    # Methods may also prune encoder and head: only the decoder blocks say which model it is.
    blocks = [entry for name, entry in layers.items() if place_of(name)[0] is not None]
    return sum(int(str(entry["weights"])) for entry in blocks if isinstance(entry, dict))


def main_metric(results: Results) -> Metric:
    """The first of the results' metrics, which the task optimises."""
    return next(iter(results.metrics.values()))


def folder_name(folder: Path) -> str:
    """The run's folder without what lies above it; a job of a sweep has a number only, so the sweep's folder too."""
    return f"{folder.parent.name}/{folder.name}" if folder.name.isdigit() else folder.name


def method_of(results: Results) -> str | None:
    """The pruning's label, or the name of a method without one; None for a dense run, and where nothing was pruned."""
    if results.sparsity == 0:
        return None
    label = (results.pruning or {}).get("label") or (results.pruning or {}).get("method")
    return None if label is None else str(label)


def recovery_of(results: Results) -> str | None:
    """The recovery's label, or the method of one without; None without recovery."""
    method = (results.recovery or {}).get("label") or (results.recovery or {}).get("method")
    return None if method in (None, "none") else str(method)


def cell_of(results: Results) -> tuple[str | None, str | None, float]:
    """Method, recovery, sparsity: what the runs of a cell share. At 100 % sparsity no method matters."""
    sparsity = round(results.sparsity, 6)
    return (None if sparsity == 1 else method_of(results)), recovery_of(results), sparsity


def read_runs(folders: Sequence[Path]) -> tuple[list[PlayedRun], list[str]]:
    """The train and prune runs below the folders, at any depth, oldest first, and notes on what was left out.

    Of two runs with the same cell and training seed the newer one (by name) is kept. Raises UserError when there are none,
    when they are of several tasks, models, data sets, sizes or episodes, when the two files of a run do not belong
    together, and when the runs of a training seed have different dense parents.
    """
    found = {folder: Results.load(folder / RESULTS_FILE) for folder in run_folders(folders)}
    found = {folder: results for folder, results in found.items() if results.stage in STAGES}
    if not found:
        raise UserError(f"{_listed(folders)}: no {RESULTS_FILE} of a train or prune run below")
    _check_same_study(found)
    kept, notes = newest(found)
    runs = [play(folder, results) for folder, results in kept.items()]
    for run in runs[1:]:
        if run.episodes != runs[0].episodes:
            raise UserError(f"{runs[0].folder} and {run.folder} were tested on different episodes")
    return runs, notes + _check_parents(runs)


def run_folders(folders: Sequence[Path], mark: str = RESULTS_FILE) -> list[Path]:
    """The folders that hold `mark`, at any depth, oldest first. Raises UserError for a folder that is not there."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
    found = {path.parent.resolve(): path.parent for folder in folders for path in folder.rglob(mark)}
    return sorted(found.values(), key=_age)


def _age(folder: Path) -> tuple[str, int, str]:
    """Sorts by the time in the name; the jobs of a sweep, by their number."""
    if folder.name.isdigit():
        return folder.parent.name, int(folder.name), str(folder)
    return folder.name, -1, str(folder)


def _check_same_study(found: Mapping[Path, Results]) -> None:
    kinds: dict[str, list[Path]] = {}
    for folder, results in found.items():
        kinds.setdefault(f"{results.task} {results.model} {results.data}", []).append(folder)
    if len(kinds) > 1:
        listed = "\n".join(f"  {kind}: {_listed(where)}" for kind, where in kinds.items())
        raise UserError(f"a study is about one task, model and data set, but these are several:\n{listed}")
    sizes: dict[int, list[Path]] = {}
    for folder, results in found.items():
        weights = backbone_weights(results)
        if weights is not None:
            sizes.setdefault(weights, []).append(folder)
    if len(sizes) > 1:
        listed = "\n".join(
            f"  {weights:,} weights in the decoder blocks: {_listed(where)}" for weights, where in sizes.items()
        )
        raise UserError(f"a study is about one model, but these have different backbones:\n{listed}")


def newest(found: Mapping[Path, Results]) -> tuple[dict[Path, Results], list[str]]:
    """The last run of each cell and training seed, and notes on the others. `found` is sorted by age."""
    latest: dict[object, Path] = {}
    notes = []
    for folder, results in found.items():
        key = (cell_of(results), results.seed)
        if key in latest:
            notes.append(
                f"seed {results.seed}, {describe_cell(results)}: {folder_name(latest[key])} is older than "
                f"{folder_name(folder)} and left out"
            )
        latest[key] = folder
    kept = set(latest.values())
    return {folder: results for folder, results in found.items() if folder in kept}, notes


def describe_cell(results: Results) -> str:
    """`wanda + specialise at 40 %`."""
    method, recovery, sparsity = cell_of(results)
    name = "100 % sparse" if sparsity == 1 else f"{method or 'dense'}"
    name += f" + {recovery}" if recovery else ""
    return name if sparsity == 1 else f"{name} at {100 * sparsity:g} %"


def play(folder: Path, results: Results, policies: Sequence[str] | None = None) -> PlayedRun:
    """The main metric of each episode and policy (or of some `policies`, which is faster), from the run's replay.

    Raises UserError when it is absent or damaged, or says something else than the results.
    """
    metric = main_metric(results)
    replay = read_replay(folder / REPLAY_FILE, ["policy", "episode", "reward", metric.name])
    if policies is not None:
        replay = replay.filter(pc.is_in(replay["policy"].cast(pa.string()), pa.array(policies)))
    try:
        values = metric_by_episode(replay, metric)
    except UserError as error:
        raise UserError(f"{folder / REPLAY_FILE}: {error}") from None
    missing = {"dense", "sparse"} - set(values)
    if missing:
        raise UserError(f"{folder / REPLAY_FILE}: {' and '.join(sorted(missing))} was not played")
    for policy, figures in values.items():
        estimate = results.policies.get(policy, {}).get(metric_key(metric))
        mean = float(figures.mean())
        if estimate is None or not math.isclose(mean, estimate.mean, rel_tol=SAME, abs_tol=1e-9):
            said = "nothing" if estimate is None else f"{estimate.mean:.9g}"
            raise UserError(
                f"{folder}: {metric.name} of {policy} is {mean:.9g} in {REPLAY_FILE}, but {RESULTS_FILE} says {said}: "
                "the two files are not of the same run"
            )
    return PlayedRun(folder, results, episodes_of(replay), values)


def _check_parents(runs: Sequence[PlayedRun]) -> list[str]:
    """The runs of a training seed share an adaptation, hence the dense parent; small deviations are only noted."""
    notes = []
    by_seed: dict[int, PlayedRun] = {}
    for run in runs:
        first = by_seed.setdefault(run.results.seed, run)
        means = [float(one.values["dense"].mean()) for one in (first, run)]
        if np.allclose(run.values["dense"], first.values["dense"], rtol=SAME, atol=1e-9):
            continue
        text = f"seed {run.results.seed}: the dense parent of {{}} reaches {means[0]:.6g}, that of {{}} {means[1]:.6g}"
        if not math.isclose(*means, rel_tol=NEAR):
            raise UserError(
                f"{text.format(first.folder, run.folder)}: they come from different adaptations; name the folders of one "
                "adaptation per training seed"
            )
        notes.append(text.format(first.name, run.name))
    return notes


def _listed(folders: Iterable[Path]) -> str:
    return ", ".join(map(str, folders))
