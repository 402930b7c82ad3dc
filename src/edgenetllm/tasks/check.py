"""Check a task against the protocol: `python -m edgenetllm.tasks.check task=... data=...`, with the words of train.py.

One line per check: `ok`, or what is wrong. Exit code 1 when anything is wrong, 2 for words that are not understood.
This is a program, which nothing else imports: what it runs is `stages/conformance.py`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from edgenetllm import cli
from edgenetllm.errors import JobsFailed
from edgenetllm.printable import say

if TYPE_CHECKING:
    from edgenetllm.config import Config


def main() -> None:
    if {"-m", "--multirun"} & set(sys.argv):
        sys.exit("error: the check takes one configuration: leave -m away")
    cli.main("train", check)


def check(config: Config, run: Any) -> None:
    """Print a line per check of each task of the configuration. Raises JobsFailed when a check fails."""
    from edgenetllm.stages.conformance_report import check_all

    wrong = 0
    for one in config.tasks.values():
        for name, problem in check_all(one.task, one.settings):
            line = f"{name}: ok" if problem is None else f"{name}: {problem}"
            say(f"{one.task.name} {line}")
            wrong += problem is not None
    if wrong:
        raise JobsFailed(f"{wrong} checks failed")


if __name__ == "__main__":
    main()
