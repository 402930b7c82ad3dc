"""Altered pools, stored episodes and decision logs, and the functions that read them: an attempt for each kind of file."""

from __future__ import annotations

import functools
import io
import json
import random
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from robustness.mutations import altered_bytes, altered_text, altered_tree
from small import make_task

from edgenetllm.edge.agent.decision_log import encode
from edgenetllm.edge.agent.logged import decision_record
from edgenetllm.errors import UserError
from edgenetllm.experience.actions import check_actions
from edgenetllm.experience.episodes_file import pack_episodes, unpack_episodes
from edgenetllm.experience.log_files import read_rows
from edgenetllm.experience.pool import read_pool, write_pool
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.experience.recorded import recorded_episodes
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.files import sha256_of
from edgenetllm.stages.logs import TaskForm

Attempt = Callable[[int, Path], str | None]
Arrays = dict[str, np.ndarray]


@functools.cache
def played_episodes(episodes: int = 3) -> Episodes:
    """A few episodes of streaming with all that is recorded of them."""
    task = make_task()
    return play(
        task.environment("train"), np.arange(episodes), task.baselines()["bba"], keep_observations=True, limit=None
    )


def pool_attempt(_: Path | None = None) -> Attempt:
    """A pool whose description or columns are altered, with the right hash; what is accepted is finite and in range."""
    task = make_task()
    with tempfile.TemporaryDirectory() as folder:
        write_pool(Path(folder) / "pool", [played_episodes()], {"schema": 4, "task": "abr"})
        data = (Path(folder) / "pool/columns.npz").read_bytes()
        base = json.loads((Path(folder) / "pool/pool.json").read_text())

    def attempt(number: int, place: Path) -> str | None:
        chance = random.Random(number)
        (place / "pool").mkdir()
        columns, described = place / "pool/columns.npz", place / "pool/pool.json"
        way = chance.random()
        if way < 0.4:
            columns.write_bytes(altered_bytes(data, chance))
        else:
            columns.write_bytes(_npz(altered_arrays(_arrays(data), chance)) if way < 0.8 else data)
        info = {**base, "sha256": sha256_of(columns)}
        if 0.8 <= way < 0.9:
            info = altered_tree(info, chance)
        text = json.dumps(info).encode()
        described.write_bytes(altered_text(text, chance) if way >= 0.9 else text)
        pool = read_pool(place / "pool")
        check_actions(pool, task, place / "pool")
        assert np.isfinite(pool.reward).all()
        assert np.isfinite(pool.return_to_go()).all()
        assert ((pool.action >= 0) & (pool.action < 6)).all()
        return None

    return attempt


def episodes_attempt(_: Path | None = None) -> Attempt:
    """Stored episodes of a replay, altered."""
    data = pack_episodes(played_episodes())

    def attempt(number: int, place: Path) -> str | None:
        chance = random.Random(number)
        changed = (
            altered_bytes(data, chance) if chance.random() < 0.5 else _npz(altered_arrays(_arrays(data), chance), True)
        )
        episodes = unpack_episodes(changed)
        assert np.isfinite(episodes.reward).all()
        return None

    return attempt


def _arrays(data: bytes) -> Arrays:
    with np.load(io.BytesIO(data)) as stored:
        return {name: stored[name] for name in stored.files}


def _npz(arrays: Arrays, compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=True, **arrays)  # type: ignore[operator]
    return buffer.getvalue()


def altered_arrays(arrays: Arrays, chance: random.Random) -> Arrays:
    """One or two of the arrays with an odd number, another shape or type, another name, or none at all."""
    arrays = dict(arrays)
    for _ in range(chance.choice((1, 1, 2))):
        name = chance.choice(sorted(arrays))
        array = arrays[name]
        way = chance.randrange(8)
        if way <= 2 and array.size:
            changed = array.copy()
            odd = [float("nan"), float("inf"), -1, 6, 1e300, 10**9] if array.dtype.kind == "f" else [-1, 6, 2**31, 0, 1]
            with np.errstate(over="ignore"):
                changed.reshape(-1)[chance.randrange(array.size)] = np.array(chance.choice(odd)).astype(array.dtype)
            arrays[name] = changed
        elif way == 3 and array.ndim:
            shapes = [array[:-1], array.reshape(-1), array[None], array.T, array[:0], array[..., :0]]
            arrays[name] = chance.choice(shapes)
        elif way == 4 and array.dtype.kind != "U":
            kinds = ["float32", "int8", "bool", "complex64", "U3", "object", ">f8", "float64"]
            with np.errstate(all="ignore"):
                arrays[name] = array.astype(chance.choice(kinds))
        elif way == 5:
            del arrays[name]
        elif way == 6:
            arrays[
                chance.choice([f"{name}x", "observation.new", "ragged.x", "count.y", "target", "reference", "../x"])
            ] = array
        else:
            arrays[name] = np.array(chance.choice([0.0, 1, True, None, "text"]))
        if not arrays:
            return arrays
    return arrays


def log_attempt(_: Path | None = None) -> Attempt:
    """A decision log, as lines or as parquet, altered; what is accepted is finite."""
    task = make_task()
    form = TaskForm(task)
    lines = log_lines(task, played_episodes(2))
    table = pa.Table.from_pylist([json.loads(line) for line in lines])

    def attempt(number: int, place: Path) -> str | None:
        chance = random.Random(number)
        way = chance.random()
        if way < 0.3:
            path, data = place / "a.jsonl", altered_text(b"".join(lines), chance)
        elif way < 0.7:
            rows: list[Any] = [json.loads(line) for line in lines]
            at = chance.randrange(len(rows))
            rows[at] = altered_tree(rows[at], chance)
            path, data = place / "a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        else:
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            path, data = place / "a.parquet", altered_bytes(buffer.getvalue(), chance)
        path.write_bytes(data)
        recorded = recorded_episodes(read_rows(path), form, "keep", 1.0)
        assert np.isfinite(recorded.episodes.reward).all()
        assert ((recorded.episodes.action >= 0) & (recorded.episodes.action < 6)).all()
        assert all(np.isfinite(column).all() for column in recorded.episodes.observation.values())
        return None

    return attempt


def log_lines(task: Any, played: Episodes) -> list[bytes]:
    """The decisions of some episodes as an agent logs them, a line each."""
    lines = []
    for episode, step in np.argwhere(played.valid).tolist():
        observation = {
            name: column.rows(episode, step, step + 1) if isinstance(column, RaggedColumn) else column[episode, step]
            for name, column in played.observation.items()
        }
        done = step == int(played.valid[episode].sum()) - 1
        record = decision_record(
            task.name, f"session{episode}", step, observation, played.action[episode, step],
            reward=played.reward[episode, step], done=done,
        )  # fmt: skip
        lines.append(encode(record))
    return lines


def bomb(path: Path, member: str, header: bytes, size: int) -> None:
    """A zip file whose member claims `size` bytes of zeros after its header, compressed to almost nothing."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(member, "w", force_zip64=True) as file,
    ):
        file.write(header)
        for _ in range(size // 2**20):
            file.write(bytes(2**20))


def refused(read: Callable[[], object]) -> str:
    """The sentence with which something is refused; it must be."""
    try:
        read()
    except UserError as error:
        return str(error)
    raise AssertionError("it was accepted")
