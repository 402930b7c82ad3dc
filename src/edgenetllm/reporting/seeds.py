"""`python -m edgenetllm.reporting.seeds RUN... [--against RUN...]`: one table of several training seeds.

Each policy's mean over test episodes and training seeds, and how far the sparse model is from it on the same episodes.
`--against` adds the dense models of other runs over the same episodes, say with another backbone, as one row more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.reporting.bootstrap import Estimate, crossed_difference_ci, crossed_mean_ci
from edgenetllm.reporting.markdown import markdown_table
from edgenetllm.reporting.results import RESULTS_FILE, Results
from edgenetllm.reporting.retention_runs import PlayedRun, main_metric, play
from edgenetllm.reporting.table import policy_order


def read(folders: Sequence[Path]) -> list[PlayedRun]:
    """One finished run a folder. Raises UserError where one is none, or played other episodes than the first."""
    runs = []
    for folder in folders:
        if not (folder / RESULTS_FILE).is_file():
            raise UserError(f"{folder}: no {RESULTS_FILE}; name the folders of finished runs")
        runs.append(play(folder, Results.load(folder / RESULTS_FILE)))
    first = runs[0]
    for run in runs[1:]:
        if (run.results.data, run.episodes) != (first.results.data, first.episodes):
            raise UserError(f"{first.folder} and {run.folder} were tested on different episodes")
    return runs


def seeds_markdown(runs: Sequence[PlayedRun], against: Sequence[PlayedRun] = ()) -> str:
    """Rows are policies that all runs have, then the dense models of `against`.

    Training seeds and episodes are drawn again; within a run the policies are compared with its own sparse model.
    """
    metric = main_metric(runs[0].results)
    shared = [name for name in policy_order(list(runs[0].values)) if all(name in run.values for run in runs)]
    played = {name: np.stack([run.values[name] for run in runs]) for name in shared}
    rows = [(name, values, crossed_mean_ci(played["sparse"] - values)) for name, values in played.items()]
    if against:
        other = np.stack([run.values["dense"] for run in against])
        label = f"{against[0].results.model}, dense, of the others"
        rows.append((label, other, crossed_difference_ci(played["sparse"], other)))
    cells = [
        (
            name,
            _interval(crossed_mean_ci(values)),
            " / ".join(f"{mean:.3f}" for mean in values.mean(1)) if (values != values[0]).any() else "",
            "" if name == "sparse" else _interval(difference),
        )
        for name, values, difference in rows
    ]
    unit = f" [{metric.unit}]" if metric.unit else ""
    numbers = ", ".join(str(run.results.seed) for run in runs)
    header = ["policy", f"{metric.label}{unit}", "by training seed", "sparse − this"]
    return "\n".join(
        [f"Training seeds {numbers}, {len(runs[0].episodes)} episodes.", "", *markdown_table(header, cells)]
    )


def _interval(estimate: Estimate) -> str:
    low, high = estimate["ci95"]
    return f"{estimate['mean']:.3f} [{low:.3f}, {high:.3f}]"


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 with one line on stderr when the runs make no table."""
    parser = argparse.ArgumentParser(
        prog="python -m edgenetllm.reporting.seeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="the same run with other training seeds")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="RUN", help="runs of another model")
    options = parser.parse_args(arguments)
    try:
        runs = read([*options.folders, *options.against])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    count = len(options.folders)
    print(seeds_markdown(runs[:count], runs[count:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
