"""`python -m edgenetllm.compare.seeds RUN... [--against RUN...]`: one table of several training seeds.

Each policy's mean over test episodes and training seeds, and how far the sparse model is from it on the same episodes. The
runs differ in nothing but their training seed. `--against` adds the dense models of other runs over the same episodes, say
with another backbone, as one row more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgenetllm import console
from edgenetllm.compare.groups import group_key, notes_of, parent_key, place_of
from edgenetllm.compare.runs import FinishedRun, PlayedRun, one_task_folder, play, read_run
from edgenetllm.errors import UserError
from edgenetllm.plotting import policy_order
from edgenetllm.printable import say
from edgenetllm.report.bootstrap import difference_ci, mean_ci, unpaired_seeds_ci
from edgenetllm.report.run_labels import PRUNING_GROUPS, describe_differences, differing
from edgenetllm.report.text import bracketed, estimate_text, markdown_line, markdown_table


def read(folders: Sequence[Path], against: Sequence[Path] = ()) -> tuple[list[PlayedRun], list[PlayedRun]]:
    """One finished run a folder.

    Raises UserError where one is none, where runs of `folders` (or dense models of those of `against`) differ in more than
    their training seed or repeat one, and where two played other episodes.
    """
    runs = [read_run(one_task_folder(folder)) for folder in folders]
    others = [read_run(one_task_folder(folder)) for folder in against]
    different = "{} and {} were tested on different episodes"
    for run in (*runs, *others):
        if place_of(run) != place_of(runs[0]):
            raise UserError(different.format(folders[0], run.folder))
    _check_group(runs, group_key, [])
    _check_group(others, parent_key, PRUNING_GROUPS)
    played = [play(run) for run in (*runs, *others)]
    for run in played:
        if run.episodes != played[0].episodes:
            raise UserError(different.format(folders[0], run.folder))
    return played[: len(runs)], played[len(runs) :]


def _check_group(runs: Sequence[FinishedRun], key: Callable[[FinishedRun], str], left_out: Sequence[str]) -> None:
    """Raises UserError for two runs that differ in `key`, or do not differ in their seed; keys `left_out` do not count."""
    seeds: dict[int, FinishedRun] = {}
    for run in runs:
        first = runs[0]
        if key(run) != key(first):
            known = [first.identity, run.identity]
            why = describe_differences(known, differing(known, left_out))
            raise UserError(f"{first.folder} and {run.folder} differ in more than their training seed: {why}")
        if (other := seeds.setdefault(run.results.seed, run)) is not run:
            raise UserError(f"{other.folder} and {run.folder} both have the training seed {run.results.seed}")


def seeds_markdown(runs: Sequence[PlayedRun], against: Sequence[PlayedRun] = ()) -> str:
    """Rows are policies that all runs have, then the dense models of `against`.

    Training seeds and episodes are drawn again; within a run the policies are compared with its own sparse model.
    """
    metric = runs[0].results.metric
    shared = [name for name in policy_order(list(runs[0].values)) if all(name in run.values for run in runs)]
    played = {name: np.stack([run.values[name] for run in runs]) for name in shared}
    rows = [(name, values, difference_ci(played["sparse"], values)) for name, values in played.items()]
    if against:
        other = np.stack([run.values["dense"] for run in against])
        label = f"{against[0].results.model}, dense, of the others"
        rows.append((label, other, unpaired_seeds_ci(played["sparse"], other)))
    cells = []
    for name, values, difference in rows:
        by_seed = " / ".join(f"{mean:.3f}" for mean in values.mean(1)) if (values != values[0]).any() else ""
        compared = "" if name == "sparse" else estimate_text(difference)
        cells.append((name, estimate_text(mean_ci(values)), by_seed, compared))
    numbers = ", ".join(str(run.results.seed) for run in runs)
    header = ["policy", f"{metric.label}{bracketed(metric.unit)}", "by training seed", "sparse − this"]
    lines = [f"Training seeds {numbers}, {len(runs[0].episodes)} episodes.", "", *markdown_table(header, cells)]
    missing = [name for run in runs for name in run.values if name not in shared]
    notes = notes_of([*runs, *against])
    notes += [f"not played in every run, and not in the table: {', '.join(dict.fromkeys(missing))}"] if missing else []
    return "\n".join([*lines, *([""] if notes else []), *(f"- {markdown_line(note)}" for note in notes)])


@console.with_exit_code
def main(arguments: list[str] | None = None) -> None:
    """Print the table. Raises UserError when the runs make none."""
    parser = argparse.ArgumentParser(
        prog="python -m edgenetllm.compare.seeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="the same run with other training seeds")
    parser.add_argument("--against", type=Path, nargs="+", default=[], metavar="RUN", help="runs of another model")
    options = parser.parse_args(arguments)
    say(*seeds_markdown(*read(options.folders, options.against)).split("\n"))


if __name__ == "__main__":
    console.program(main)
