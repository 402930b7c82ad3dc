"""Numba's cache of compiled code, made harmless: one that is damaged, foreign or cannot be written to is as none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from numba.core.caching import FunctionCache

from edgenetllm.printable import say


class TolerantCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of a function, without which the function is compiled: whatever goes wrong with it is no error."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a truncated or foreign file may raise anything when it is unpickled
            self.save(self.flush)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        self.save(super().save_overload, sig, data)

    def save(self, write: Callable[..., None], *args: Any) -> None:
        try:
            write(*args)
        except Exception as error:
            note_unwritable(str(self.cache_path), str(error))


NOTED: set[str] = set()  # folders about which `note_unwritable` has said something


def note_unwritable(folder: str, problem: str) -> None:
    """Say once why the next process has to compile again."""
    if folder not in NOTED:
        NOTED.add(folder)
        say(f"note: compiled code cannot be kept in {folder} ({problem})", file=sys.stderr)
