"""Cluster job scheduling (CJS): which stage gets how many executors, decided whenever executors become free."""

from pathlib import Path

COMPILED = ("state.py", "events.py", "observation.py", "rules.py", "rollout.py", "environment.py")


def _forget_stale_code(folder: Path) -> None:
    """Numba's cache notices a change of the file that a function is in, but not of the files whose functions it calls."""
    newest = max((folder / name).stat().st_mtime for name in COMPILED)
    for compiled in (folder / "__pycache__").glob("*.nbi"):  # the index; a process that has read it may want the rest
        if compiled.stat().st_mtime < newest:
            compiled.unlink(missing_ok=True)


_forget_stale_code(Path(__file__).parent)
