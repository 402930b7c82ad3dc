"""Decision logs: what an agent saw and did, a JSON object a line, in files that appear whole (docs/logs.md has the form).

A decision never waits for the disk: `write` leaves the line to a thread, which writes it, and rotates the file when it is
large or old enough. Several processes may write into one folder. Where the disk takes nothing, decisions go on, and the log
counts those that are lost.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgenetllm.disk import room
from edgenetllm.edge.agent.log_file import LogFile, recover
from edgenetllm.errors import UserError
from edgenetllm.tasks.observation import Ragged

BACKLOG_BYTES = 8 << 20  # lines that wait for the disk
LONGEST_WAIT_S = 600.0  # of the thread, for nothing
RETRY_S = 10.0  # until the disk is tried again, after it took nothing

log = logging.getLogger(__name__)


class DecisionLog:
    """The log of one process in `folder`; `write` and `close` may be called from any thread.

    A file is published when it has `rotate_bytes`, when its first line is `rotate_seconds` old, and by `close`. `written`
    counts the decisions in files, `lost` those that the disk did not take or that came faster than it took them; `problem` is
    a sentence while the disk takes nothing, else None. Memory is bounded: at most BACKLOG_BYTES wait for the disk, and as
    many are on their way to it.

    Raises UserError for a folder that cannot be written to, and for limits that are not positive.
    """

    def __init__(self, folder: Path | str, rotate_bytes: int = 16 << 20, rotate_seconds: float = 3600.0) -> None:
        if not rotate_bytes > 0 or not rotate_seconds > 0:
            raise UserError(f"a decision log rotates at positive limits, not {rotate_bytes} bytes, {rotate_seconds} s")
        self.folder, self.rotate_bytes, self.rotate_seconds = Path(folder), rotate_bytes, rotate_seconds
        self.written = self.lost = 0
        self.problem: str | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.recovered = recover(self.folder)
            self._file: LogFile | None = LogFile(self.folder)
        except OSError as error:
            reason = f"{error.strerror or error} ({room(self.folder)})"
            raise UserError(f"decision log: {self.folder} cannot be written to: {reason}") from None
        # Shared with the thread, under the condition's lock.
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._closing = False
        self._retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name="decision log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, record: Mapping[str, Any], *, wait: bool = False) -> None:
        """Hand over the record of one decision, whose values are plain, arrays or Ragged of one episode.

        It is encoded at once, so that its arrays may be used again. Where the disk is slower than the decisions, it is lost,
        or waits for its turn (`wait`, for a caller who decides nothing). Raises ValueError after `close`.
        """
        line = encode(record)
        with self._wake:
            if self._closing:
                raise ValueError("the decision log is closed")
            if wait:
                self._room.wait_for(lambda: self._has_room(line))
            if not self._has_room(line):
                self.lost += 1
                return
            self._waiting.append(line)
            self._bytes += len(line)
            self._wake.notify()

    def close(self) -> None:
        """Write all that waits, publish the file and end the thread. Once closed, it does nothing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _has_room(self, line: bytes) -> bool:
        return not self._waiting or self._bytes + len(line) <= BACKLOG_BYTES

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._wake:
                self._wake.wait_for(
                    lambda: self._waiting or self._closing, timeout=self._until_rotation(LONGEST_WAIT_S)
                )
                lines, self._waiting, self._bytes = self._waiting, deque(), 0
                closing = self._closing
                self._room.notify_all()
            for line in lines:
                self._append(line)
            file = self._file
            if file is not None and (closing or (file.size and self._until_rotation(1.0) == 0)):
                self._publish(file)

    def _until_rotation(self, longest: float) -> float | None:
        """Seconds until the open file is old enough, or the `longest`; None while it is empty."""
        if self._file is None or not self._file.size:
            return None
        return min(max(0.0, self._file.since + self.rotate_seconds - time.monotonic()), longest)

    def _append(self, line: bytes) -> None:
        """Write a line, into a new file where the old one is full; what the disk does not take is lost."""
        if time.monotonic() < self._retry_at:
            self._lose()
            return
        try:
            if self._file is not None and self._file.size and self._file.size + len(line) > self.rotate_bytes:
                self._publish(self._file)
            if self._file is None:
                self._file = LogFile(self.folder)
            if not self._file.size:
                self._file.since = time.monotonic()
            self._file.append(line)
        except OSError as error:
            self._lose()
            self._say(error)
            return
        self.written += 1
        if self.problem is not None:
            log.warning("decision log: %s is written to again; %d decisions were lost", self.folder, self.lost)
            self.problem = None

    def _lose(self) -> None:
        with self._lock:  # the other thread counts too
            self.lost += 1

    def _publish(self, file: LogFile) -> None:
        """Give a file its name; one that the disk does not flush keeps its own, until the next start in this folder."""
        self._file = None
        try:
            file.publish()
        except OSError as error:
            self._say(error)

    def _say(self, error: OSError) -> None:
        """Say once what is wrong, and leave the disk alone for a while."""
        self._retry_at = time.monotonic() + RETRY_S
        if self.problem is None:
            self.problem = (
                f"decision log: {self.folder}: {error.strerror or error} ({room(self.folder)}): decisions go on and are not "
                "logged; make room, or choose another folder"
            )
            log.warning(self.problem)


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as one line of JSON: arrays are lists, what is no finite number or no JSON is null (not known)."""
    try:
        text = json.dumps(record, default=_plain, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError):  # NaN or infinity somewhere
        text = json.dumps(_finite(dict(record)), allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def _plain(value: Any) -> Any:
    """Numbers, arrays and the rows of a Ragged of one episode as JSON has them; None for anything else."""
    if isinstance(value, Ragged):
        return np.asarray(value.values)[0][: int(value.count[0])].tolist()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return None


def _finite(value: Any) -> Any:
    """The same with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else _finite(_plain(value))
