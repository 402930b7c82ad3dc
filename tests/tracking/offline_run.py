"""Read back what W&B wrote offline: the file that `wandb sync` uploads, record by record.

W&B stores it as a LevelDB log (https://github.com/google/leveldb/blob/main/doc/log_format.md) with a header of its own.
"""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import ArtifactRecord, Record

BLOCK, HEADER = 32768, 7


@dataclass
class Offline:
    """One sitting of a run."""

    id: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[ArtifactRecord] = field(default_factory=list)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    exit_code: int | None = None

    def made(self) -> dict[str, str]:
        """Name -> digest of what the run says that it made; without W&B's own, such as the files of a table."""
        return {a.name: a.digest for a in self._ours() if not a.use_after_commit}

    def used(self) -> dict[str, str]:
        return {a.name: a.digest for a in self._ours() if a.use_after_commit}

    def artifact(self, kind: str) -> tuple[dict[str, Any], list[str]]:
        """Metadata and names of the files of the one artifact of a kind."""
        (found,) = [a for a in self.artifacts if a.type == kind]
        return json.loads(found.metadata), [entry.path for entry in found.manifest.contents]

    def _ours(self) -> list[ArtifactRecord]:
        return [a for a in self.artifacts if a.type in ("pool", "adaptation", "pruned", "bundle")]


def sittings(run: Path) -> list[Offline]:
    """Every sitting of the run in this folder, the first one first; all of them are closed.

    W&B's service may still be writing the last records when `wandb.finish` returns: each ends with an exit code.
    """
    deadline = time.monotonic() + 30
    while True:
        found = [_read(path) for path in sorted((run / "wandb").glob("offline-run-*/*.wandb"))]
        if all(offline.exit_code is not None for offline in found):
            return found
        assert time.monotonic() < deadline, f"a run in {run} was not closed"
        time.sleep(0.1)


def _read(path: Path) -> Offline:
    offline = Offline()
    for data in _payloads(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            offline.id, offline.group, offline.job_type = run.run_id, run.run_group, run.job_type
            offline.name, offline.tags = run.display_name, list(run.tags)
            offline.config |= {item.key: json.loads(item.value_json) for item in run.config.update}
        elif kind == "config":
            offline.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "summary":
            for item in record.summary.update:
                offline.summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        elif kind == "history":
            for item in record.history.item:
                offline.summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        elif kind == "artifact":
            offline.artifacts.append(record.artifact)
        elif kind == "alert":
            offline.alerts.append((record.alert.level, record.alert.title, record.alert.text))
        elif kind == "files":
            offline.files += [item.path for item in record.files.files]
        elif kind == "exit":
            offline.exit_code = record.exit.exit_code
    return offline


def _payloads(data: bytes) -> list[bytes]:
    assert data[:4] in (b":W&B", b"")
    payloads, parts, at = [], [], 7
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        parts.append(data[at + HEADER : at + HEADER + length])
        at += HEADER + length
        if kind in (1, 4):  # whole, last; 2 and 3 are the first and middle parts
            payloads.append(b"".join(parts))
            parts = []
    return payloads
