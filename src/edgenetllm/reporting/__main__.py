"""`python -m edgenetllm.reporting RUN_DIR`: make table and plots again from results.json and replay.parquet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgenetllm.errors import UserError
from edgenetllm.reporting.draw import draw


def main(arguments: list[str] | None = None) -> int:
    """0, or 1 with one line on stderr when the run has no usable results."""
    parser = argparse.ArgumentParser(prog="python -m edgenetllm.reporting", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="folder of a finished run")
    try:
        draw(parser.parse_args(arguments).run_dir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
