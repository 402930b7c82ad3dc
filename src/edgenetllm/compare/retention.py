"""`python -m edgenetllm.compare.retention FOLDER... --out docs/retention_abr`: what pruning costs, method by method.

Reads every finished train and prune run below the folders (of one task, data set and adaptation; any pruning, recovery,
sparsity and training seed) and writes OUT.md, OUT.png, and OUT.json, from which `--redraw OUT.json` makes the others again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgenetllm import console
from edgenetllm.compare.retention_plot import draw_study
from edgenetllm.compare.retention_runs import read_runs
from edgenetllm.compare.retention_study import Study, make_study
from edgenetllm.compare.retention_table import study_markdown
from edgenetllm.errors import UserError
from edgenetllm.files import write_atomic


def write_study(study: Study, out: str) -> list[Path]:
    """Write OUT.md and OUT.png, made from nothing but the study."""
    text, picture = Path(f"{out}.md"), Path(f"{out}.png")
    write_atomic(text, study_markdown(study).encode())
    draw_study(study, picture)
    return [text, picture]


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 with one line on stderr when the runs make no study."""
    parser = argparse.ArgumentParser(prog="python -m edgenetllm.compare.retention", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="runs are looked for below it")
    parser.add_argument("--out", help="where to write, without ending: docs/retention_abr")
    parser.add_argument(
        "--redraw", type=Path, metavar="OUT.json", help="make OUT.md and OUT.png again, without the runs"
    )
    options = parser.parse_args(arguments)
    if options.redraw is None and not (options.folders and options.out):
        parser.error("give folders and --out, or --redraw")
    if options.redraw is not None and (options.folders or options.out):
        parser.error("--redraw takes neither folders nor --out")
    try:
        if options.redraw is not None:
            written = write_study(Study.load(options.redraw), str(options.redraw).removesuffix(".json"))
        else:
            found = read_runs(options.folders)
            for note in found.notes:
                print(f"note: {note}", file=sys.stderr)
            study = make_study(found)
            study.save(f"{options.out}.json")
            written = [Path(f"{options.out}.json"), *write_study(study, options.out)]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    console.program(main)
