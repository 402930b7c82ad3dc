"""What became of the jobs of a sweep, said at its end: a table, and each error once more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgenetllm.run import STATE_FILE
from edgenetllm.sweeps.job import ERROR_FILE
from edgenetllm.sweeps.plan import PLAN_FILE, differing, print_plan, typed_overrides

ENDED = ("finished", "stopped")
failed_jobs: list[str] = []  # of the sweep that has just ended in this process


class SweepReport(Callback):
    """Hydra calls it when all jobs of a `-m` have ended."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir))
        if any(folder.glob(f"*/{PLAN_FILE}")):
            failed_jobs[:] = print_plan(folder)
            shutil.rmtree(folder)
            return
        rows = jobs(folder)
        failed_jobs[:] = [row["job"] for row in rows if row["status"] not in ENDED]
        print_report(folder, rows)


def jobs(folder: Path) -> list[dict[str, Any]]:
    """Of every job in a sweep's folder, by number: job, overrides, status, objective, error."""
    rows = []
    numbered = [path.parent for path in folder.glob(f"*/{STATE_FILE}")]
    for job in sorted(numbered, key=lambda path: (len(path.name), path.name)):
        state = json.loads((job / STATE_FILE).read_text())
        facts = {"job": job.name, "overrides": typed_overrides(job), "folder": str(job)}
        rows.append({"status": "unknown", **state, **facts})
    return rows


def print_report(folder: Path, rows: list[dict[str, Any]], console: Console | None = None) -> None:
    """The table and, below it, how to go on."""
    console = console or Console()
    table = Table(title=escape(f"{folder}: {len(rows)} jobs"), title_justify="left", box=None, padding=(0, 1))
    for name in ("job", "what differs", "status", "objective"):
        table.add_column(name, overflow="fold")
    for row, differs in zip(rows, differing([row["overrides"] for row in rows]), strict=True):
        status = "done before" if "done_in" in row else row["status"]
        objective = row.get("objective")
        table.add_row(row["job"], escape(differs), status, "" if objective is None else f"{objective:.4f}")
    console.print(table)
    for row in rows:
        if row["status"] not in ENDED:
            error = row.get("error") or row["status"]
            console.print(escape(f"job {row['job']}: {error} ({Path(row['folder']) / ERROR_FILE})"), style="red")
    if any(row["status"] not in ENDED for row in rows):
        console.print("the same command with resume=true runs these again, and only these")
