"""Threads that wait for work, for decisions with a deadline: the caller can go on without an engine that is late."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

MOST = max(4, os.cpu_count() or 1)


class Workers:
    """Up to `count` threads, started as they are needed; they end with the process, also one whose engine never returns."""

    def __init__(self, count: int = MOST) -> None:
        self.count, self.started, self.waiting = count, 0, 0
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], None]) -> None:
        """Let a thread call this, which must not raise."""
        with self._lock:
            start = self.waiting == 0 and self.started < self.count
            self.started += start
            self.waiting -= not start
        self._work.put(work)
        if start:
            threading.Thread(target=self._run, daemon=True, name=f"edgenetllm-engine-{self.started}").start()

    def _run(self) -> None:
        while True:
            self._work.get()()
            with self._lock:
                self.waiting += 1
