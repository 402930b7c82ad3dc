"""Make tables and plots again from the files of one run or of many.

Installed by pip, it is also `edgenetllm-compare`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgenetllm import console
from edgenetllm.compare.runs import is_run
from edgenetllm.errors import UserError
from edgenetllm.printable import say
from edgenetllm.report.draw import draw
from edgenetllm.report.results import results_folders
from edgenetllm.report.text import count

DESCRIPTION = """Make tables and plots again from the files of one run or of many.

`%(prog)s RUN` makes the tables and the plots of that run again, of each of its tasks.
`%(prog)s logs` compares all runs below the folders on one HTML page, logs/comparison.html.
"""


@console.with_exit_code
def main(arguments: list[str] | None = None, prog: str = "python -m edgenetllm.compare") -> None:
    """Make the tables and plots. Raises UserError when there is no run with usable results."""
    parser = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a run, or where to look for runs")
    parser.add_argument("--out", type=Path, metavar="PAGE.html", help="the comparison page, also of a single run")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="whose plot of an episode may be drawn of a run"
    )
    options = parser.parse_args(arguments)
    alone = options.folders[0] if len(options.folders) == 1 and options.out is None else None
    if alone is not None and is_run(alone):
        for folder in results_folders(alone) or [alone]:
            draw(folder, trusted=options.trust)
    else:
        _compare(options.folders, options.out)


def _compare(folders: Sequence[Path], out: Path | None) -> None:
    # Imports plotly, which a single run does not need.
    from edgenetllm.compare.page import PAGE_FILE, write_page

    if out is None and len(folders) > 1:
        raise UserError("several folders: name the page with --out PAGE.html")
    out = out or folders[0] / PAGE_FILE
    if out.is_dir():
        raise UserError(f"--out {out}: a folder; name a file in it, such as {out / PAGE_FILE}")
    shown, left_out = write_page(folders, out)
    say(f"{out}: {count(shown, 'run')} compared, {left_out} left out")


if __name__ == "__main__":
    console.program(main)
