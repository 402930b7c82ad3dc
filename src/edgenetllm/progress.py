"""Progress bars; where standard error is no terminal, a whole line every half minute and the last state."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm as _Bar

EVERY_S = 30.0


class tqdm(_Bar):
    def __init__(self, *args: Any, **options: Any) -> None:
        self._lines = not getattr(options.get("file") or sys.stderr, "isatty", lambda: False)()
        self._said_at, self._said = time.monotonic(), 0.0
        super().__init__(*args, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if not self._lines:
            super().display(msg, pos)
        elif time.monotonic() - self._said_at >= EVERY_S:
            self._say()

    def close(self) -> None:
        if self._lines and not self.disable:
            if self.n != self._said and self.leave:
                self._say()
            self.delay = float("inf")  # the bar itself was never shown, and needs no cleaning up
        super().close()

    def _say(self) -> None:
        self._said_at, self._said = time.monotonic(), self.n
        self.fp.write(f"{self}\n")
        self.fp.flush()
