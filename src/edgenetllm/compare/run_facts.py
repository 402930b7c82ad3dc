"""Facts that the results of a run state: metric, method, recovery, model and stored values, as tables name them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgenetllm.report.layers import place_of
from edgenetllm.report.results import Results, results_folders
from edgenetllm.run import STATE_FILE
from edgenetllm.tasks.task import Metric

CellKey = tuple[str | None, str | None, float]  # method, recovery, sparsity


def main_metric(results: Results) -> Metric:
    """The first of the results' metrics, which the task optimises."""
    return next(iter(results.metrics.values()))


def folder_name(folder: Path) -> str:
    """The run's folder without what lies above it, for results of one of several tasks with the folder of the task.

    A job of a sweep may have a number only, so the sweep's folder is named too.
    """
    run = run_folder(folder)
    name = f"{run.parent.name}/{run.name}" if run.name.isdigit() else run.name
    return f"{name}/{folder.name}" if run != folder and len(results_folders(run)) > 1 else name


def run_folder(folder: Path) -> Path:
    """The folder of the run whose results lie in `folder`: the one around it, unless it is the run's own."""
    is_of_task = not (folder / STATE_FILE).is_file() and (folder.parent / STATE_FILE).is_file()
    return folder.parent if is_of_task else folder


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


def cell_of(results: Results) -> CellKey:
    """Method, recovery, sparsity. At 100 % sparsity no method matters."""
    sparsity = round(results.sparsity, 6)
    return (None if sparsity == 1 else method_of(results)), recovery_of(results), sparsity


def is_pruned(results: Results) -> bool:
    """True where the sparse model of the run is another one than the dense model."""
    method, _, sparsity = cell_of(results)
    return method is not None or sparsity == 1


def describe_cell(results: Results) -> str:
    """`wanda + specialise at 40 %`."""
    method, recovery, sparsity = cell_of(results)
    name = "100 % sparse" if sparsity == 1 else f"{method or 'dense'}"
    name += f" + {recovery}" if recovery else ""
    return name if sparsity == 1 else f"{name} at {100 * sparsity:g} %"


def bundle_values(results: Results) -> str | None:
    """How the bundle stores its non-zeros."""
    values = (results.bundle or {}).get("values")
    return None if values is None else str(values)


def bundle_number(results: Results, key: str) -> float | None:
    """A figure of the bundle; None where the results do not have it."""
    value = (results.bundle or {}).get(key)
    return float(value) if isinstance(value, int | float) else None


def backbone_weights(results: Results) -> int | None:
    """Weights in the pruned matrices of the decoder blocks, which say how large the model is; None where it is not known."""
    layers = (results.pruning or {}).get("layers")
    if not isinstance(layers, dict) or not layers:
        return None
    # Methods may also prune encoder and head: only the decoder blocks say which model it is.
    blocks = [entry for name, entry in layers.items() if place_of(name)[0] is not None]
    return sum(int(str(entry["weights"])) for entry in blocks if isinstance(entry, dict))


def model_names(runs: Mapping[Path, Results]) -> dict[Path, str]:
    """Name of each run's model.

    Results of an older version have no identity: where their models of one name have several sizes, with the size.
    """
    older = {folder: one for folder, one in runs.items() if one.identity is None}
    weights = {folder: backbone_weights(one) or bundle_number(one, "weights") for folder, one in older.items()}
    sizes: dict[str, set[float]] = {}
    for folder, results in older.items():
        sizes.setdefault(results.model, set()).update(size for size in [weights[folder]] if size)
    names = {}
    for folder, results in runs.items():
        several = folder in older and len(sizes[results.model]) > 1
        size = weights.get(folder)
        suffix = f" ({size / 1e6:.3g} M weights)" if size else " (size unknown)"
        names[folder] = results.model + (suffix if several else "")
    return names
