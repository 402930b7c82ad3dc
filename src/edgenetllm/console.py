"""The console: characters that it cannot show, a reader that has gone, and messages of libraries that say nothing."""

from __future__ import annotations

import functools
import logging
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec

from edgenetllm.disk import explain_disk
from edgenetllm.errors import UserError
from edgenetllm.printable import printable, say, say_error

P = ParamSpec("P")

NOISE = (
    "GPU available:",
    "TPU available:",
    "HPU available:",
    "LOCAL_RANK:",
    "Initializing distributed:",
    "--------------------",  # around the number of processes
    "💡 Tip:",
    "Using bfloat16 Automatic Mixed Precision",
    "`Trainer.fit` stopped: `max_epochs",
    "`Trainer.fit` stopped: `max_steps",
)
WARNINGS = (  # of libraries about other libraries, or about what is so on purpose
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"`broadcast_buffers` is deprecated",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
)


class _Useful(logging.Filter):
    """Lets through what is not in NOISE, its control characters escaped."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        record.msg, record.args = printable(message), ()
        return not message.lstrip().startswith(NOISE)


_useful = _Useful()


def prepare() -> None:
    """Called once in every process that runs a stage; a second call changes nothing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # tables have arrows and dashes, which not every terminal can show
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_useful)
    warnings.showwarning = _show_warning
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)
    if not sys.stderr.isatty():  # bars of libraries; our own print lines (progress.py)
        os.environ.setdefault("TQDM_MININTERVAL", "30")


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Python's own, with control characters escaped: a library's warning may name a file of a run."""
    (file or sys.stderr).write(printable(warnings.formatwarning(message, category, filename, lineno, line)))


def output_is_closed() -> bool:
    """True where nobody reads the standard output any more (`| head`). Then what is still to be written goes nowhere."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # no file, as inside of a notebook
        return False
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    try:
        sys.stdout.flush()
    except OSError:  # it is a file on a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        sys.stdout.flush()
    return closed


def with_exit_code(main: Callable[P, None]) -> Callable[P, int]:
    """`main` as a function that returns 0, or after a UserError, which it prints on stderr, 2."""

    @functools.wraps(main)
    def returning(*arguments: P.args, **options: P.kwargs) -> int:
        try:
            main(*arguments, **options)
        except UserError as error:
            say_error(error)
            return 2
        return 0

    return returning


def program(main: Callable[[], int | None]) -> NoReturn:
    """Run `main`, a whole program, and exit with the code that it returns (None: 0).

    Exit code 128 + SIGPIPE, without a message, when nobody reads the output any more; 128 + SIGINT after Ctrl-C; 2, with one
    sentence, where a file cannot be written.
    """
    prepare()
    code: str | int | None
    try:
        code = main()
        sys.stdout.flush()
    except SystemExit as end:  # argparse, after --help or words that it does not understand
        code = end.code if end.code or not output_is_closed() else 128 + signal.SIGPIPE
    except BrokenPipeError:
        if not output_is_closed():
            raise
        code = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception as error:
        message = explain_disk(error)
        if message is None:
            raise
        output_is_closed()
        say(f"error: {message}", file=sys.stderr)
        code = 2
    sys.exit(code)
