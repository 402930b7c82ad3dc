"""`run.log`: what was printed in a run, warnings, records of Python's logging, and an error's traceback, with their times."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from edgenetllm.errors import StoppedEarly, UserError
from edgenetllm.interruption import is_interruption

LOG_FILE = "run.log"
LIBRARIES = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "transformers",
)  # some do not hand records on to the root
PRINTED = "edgenetllm.run"  # name of the logger for what is printed


class _Copied:
    """A standard stream, each whole line of which is also logged; of a bar that draws over itself nothing is."""

    def __init__(self, stream: TextIO, logger: logging.Logger, level: int) -> None:
        self.stream, self.logger, self.level, self.line = stream, logger, level, ""

    def write(self, text: str) -> int:
        written = self.stream.write(text)
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            if line.strip() and "\r" not in line:
                self.logger.log(self.level, line.rstrip())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _File(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Silent: a full disk ends the run where something that matters is written; the log must not do so."""

    def close(self) -> None:
        with suppress(OSError):  # of what could not be written before
            super().close()


@contextmanager
def logged(folder: Path, stage: str, words: Sequence[str]) -> Iterator[None]:
    """Append to `run.log` in `folder` while open; loggers and streams are as before afterwards."""
    handlers = _handlers(folder)
    printed = logging.getLogger(PRINTED)
    printed.setLevel(logging.INFO)
    printed.propagate = False  # what is printed is on the console already
    printed.addHandler(handlers[0])
    console, errors = sys.stdout, sys.stderr
    sys.stdout = _Copied(console, printed, logging.INFO)  # type: ignore[assignment]
    sys.stderr = _Copied(errors, printed, logging.INFO)  # type: ignore[assignment]
    sources = _sources()
    for source in sources:
        source.addHandler(handlers[0])
    for handler in handlers[1:]:
        logging.getLogger().addHandler(handler)
    try:
        printed.info("%s.py %s", stage, " ".join(words))
        with _end_of_run(printed):
            yield
    finally:
        for source in (printed, *sources):
            for handler in handlers:
                source.removeHandler(handler)
        sys.stdout, sys.stderr = console, errors
        handlers[0].close()


@contextmanager
def _end_of_run(log: logging.Logger) -> Iterator[None]:
    try:
        yield
    except StoppedEarly as reason:
        log.info("stopped: %s", reason)
        raise
    except UserError as error:
        log.error("%s", error)
        raise
    except BaseException as error:
        if is_interruption(error):
            log.warning("interrupted")
        else:
            log.exception("the run failed")
        raise
    log.info("finished")


def _handlers(folder: Path) -> list[logging.Handler]:
    """The file, and where the root has no handler, one for warnings on the console, as Python has it then."""
    file = _File(folder / LOG_FILE, encoding="utf-8", delay=True)
    file.setFormatter(_formatter())
    if logging.getLogger().hasHandlers():
        return [file]
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.WARNING)
    return [file, console]


def _formatter() -> logging.Formatter:
    """Times in UTC, as in `run.json`."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    return formatter


def _sources() -> list[logging.Logger]:
    """The root, and libraries whose records do not reach it: each record is to be written once."""
    loggers = [logging.getLogger()]
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        if not logger.propagate:
            loggers.append(logger)
    return loggers
