"""Sessions of a real player next to the simulator: a table, and a parquet file with the difference of every chunk."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from edgenetllm.files import write_atomic
from edgenetllm.printable import say
from edgenetllm.report.text import markdown_table

TABLE_FILE = "player.md"
CHUNKS_FILE = "player_chunks.parquet"
HEADER = [
    "policy",
    "QoE in the player",
    "public protocol",
    "real clock",
    "real clock, same qualities",
    "delay − [ms]",
    "|delay −| [ms]",
    "buffer − [s]",
    "stalls − [s/session]",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ComparedRow:
    """A row of the results: its sessions in the player and in the simulator.

    reward: of each decision in the player, (sessions, decisions). protocol: QoE of each session, (sessions,), in the
    simulator with the policy's own decisions and the public clock. expected: with the real clock, decisions as far away as in
    the player. columns: the player minus the simulator (real clock, the player's qualities and times of decisions), and
    `simulated_reward`, each (sessions, decisions).
    """

    name: str
    cloud_ms: float
    episodes: Sequence[str]
    reward: Floats
    protocol: Floats
    expected: Floats
    columns: dict[str, Floats]


def write_comparison(folder: Path, rows: Sequence[ComparedRow]) -> None:
    """Write `player.md` and `player_chunks.parquet`, and print the table."""
    text = comparison_table(rows)
    write_atomic(folder / TABLE_FILE, text.encode())
    tables = [_chunks(row) for row in rows]
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), buffer, compression="zstd")
    write_atomic(folder / CHUNKS_FILE, buffer.getvalue())
    say("", *text.split("\n"), f"player and simulator, chunk by chunk: {folder / CHUNKS_FILE}")


def comparison_table(rows: Sequence[ComparedRow]) -> str:
    """Markdown: QoE in the player and in the simulator, and means over all chunks of the player minus the simulator."""
    cells = []
    for row in rows:
        delay, buffer, stall = (
            row.columns[f"{name}_minus_simulator"] for name in ("delay_s", "buffer_s", "rebuffer_s")
        )
        cells.append(
            [
                row.name,
                f"{row.reward.mean():.3f}",
                f"{row.protocol.mean():.3f}",
                f"{row.expected.mean():.3f}",
                f"{row.columns['simulated_reward'].mean():.3f}",
                f"{1000 * delay.mean():+.0f}",
                f"{1000 * np.abs(delay).mean():.0f}",
                f"{buffer.mean():+.2f}",
                f"{stall.sum(1).mean():+.2f}",
            ]
        )
    lines = markdown_table(HEADER, cells)
    explained = (
        "Means per decision. Public protocol, real clock: the policy's own decisions in the simulator, at no distance and as "
        "far away as in the player. −: the player minus the simulator with its qualities and the times of its decisions."
    )
    return "\n".join([*lines, "", explained, ""])


def _chunks(row: ComparedRow) -> pa.Table:
    sessions, decisions = row.reward.shape
    return pa.table(
        {
            "policy": pa.array([row.name] * (sessions * decisions)),
            "cloud_ms": pa.array(np.full(sessions * decisions, row.cloud_ms)),
            "episode": pa.array(np.repeat(list(row.episodes), decisions)),
            "step": pa.array(np.tile(np.arange(decisions, dtype=np.int32), sessions)),
            "reward": pa.array(row.reward.ravel()),
            **{name: pa.array(column.ravel()) for name, column in row.columns.items()},
        }
    )
