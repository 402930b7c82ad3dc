"""Signals that ask the process to end: one exception that carries the signal, and the exit code 128 + its number.

Python turns only SIGINT into an exception. SIGTERM, which schedulers, containers and `kill` send, and SIGHUP of a closed
terminal would end the process where it stands, with the run's state and the experiment logger left open.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
SAME_REQUEST_S = 1.0  # `timeout` and some schedulers send their signal to the process and to its group


class Interrupted(BaseException):
    """A signal asked this process to end. No Exception, so that no `except Exception` takes it for a failure.

    It is no KeyboardInterrupt either, which Lightning turns into exit code 1. `resume` is the folder of the run or sweep that
    goes on from here, None where nothing has begun.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = int(signum)
        self.resume: Path | None = None

    @property
    def exit_code(self) -> int:
        return 128 + self.signum

    def __str__(self) -> str:
        return signal.Signals(self.signum).name


class _Listener:
    """The handler of one process. `before_raising` is called once, in the handler, at the first signal."""

    def __init__(self) -> None:
        self.received_at: float | None = None
        self.before_raising: Callable[[], None] | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received_at is None:
            self.received_at = now
            if self.before_raising is not None:
                self.before_raising()
            raise Interrupted(signum)
        if now - self.received_at > SAME_REQUEST_S:  # asked again, while closing: end at once
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)


_listener = _Listener()


@contextmanager
def listening() -> Iterator[None]:
    """Inside, the first signal of SIGNALS raises Interrupted, and a later one ends the process at once.

    Handlers of others (a launcher's) stay, as does a signal that is ignored (`nohup`). Outside the main thread, which alone
    receives signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    replaced = {signum: handler for signum, handler in before.items() if handler in DEFAULTS}
    if replaced:
        _listener.received_at = None
    try:
        for signum in replaced:
            signal.signal(signum, _listener)
        yield
    finally:
        for signum, handler in replaced.items():
            signal.signal(signum, handler)


@contextmanager
def first(call: Callable[[], None]) -> Iterator[None]:
    """Inside, `call` runs when a signal arrives, before Interrupted is raised."""
    _listener.before_raising = call
    try:
        yield
    finally:
        _listener.before_raising = None


def in_workers(launcher: str) -> bool:
    """True where this launcher runs the jobs of a sweep in processes that the sweep's own starts and has to end."""
    return launcher == "joblib"


def is_interruption(error: BaseException) -> bool:
    """True where a run that ended by this error can go on as if nothing had happened: it did not fail.

    A closed output (`python train.py | head`) is one too: other programs end there by SIGPIPE.
    """
    return isinstance(error, Interrupted | KeyboardInterrupt | SystemExit | BrokenPipeError)
