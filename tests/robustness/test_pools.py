"""Damaged and hostile pools, stored episodes and decision logs: refused with file and place, or made again with a warning."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from robustness.contained import campaign, check
from robustness.pool_cases import (
    bomb,
    episodes_attempt,
    log_attempt,
    log_lines,
    played_episodes,
    pool_attempt,
    refused,
)
from small import make_task

from edgenetllm.errors import UserError
from edgenetllm.experience.actions import check_actions
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.episodes_file import pack_episodes, unpack_episodes
from edgenetllm.experience.log_files import log_files, read_rows
from edgenetllm.experience.pool import read_pool, write_pool
from edgenetllm.experience.recorded import recorded_episodes
from edgenetllm.files import sha256_of
from edgenetllm.stages.logs import TaskForm
from edgenetllm.stored_arrays import arrays_once
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.task import CjsTask

CASES = int(os.environ.get("ROBUSTNESS_CASES", "20000"))
KINDS = {"pool": pool_attempt, "episodes": episodes_attempt, "log": log_attempt}
ROWS, ONES = np.zeros((4, 2)), np.ones((3, 47), np.int32)
HEADER = b"\x93NUMPY\x01\x00\x76\x00"  # of version 1.0, with a description of 118 characters


@pytest.mark.parametrize("kind", KINDS)
def test_altered_files_are_read_or_refused(kind):
    check(campaign(kind, range(200), KINDS[kind]()))


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("kind", KINDS)
def test_many_altered_files_are_read_or_refused(kind):
    """ROBUSTNESS_CASES of each kind, from ROBUSTNESS_FIRST on."""
    first = int(os.environ.get("ROBUSTNESS_FIRST", "0"))
    check(campaign(kind, range(first, first + CASES), KINDS[kind]()))


@pytest.fixture
def pool(tmp_path) -> Path:
    write_pool(tmp_path / "pool", [played_episodes()], {"schema": 4, "task": "abr"})
    return tmp_path / "pool"


def change(pool: Path, alter: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Alter the columns of a pool, which is described as if it had been written so."""
    with np.load(pool / "columns.npz") as stored:
        columns = {name: stored[name] for name in stored.files}
    alter(columns)
    np.savez(pool / "columns.npz", **columns)
    described(pool, {"sha256": sha256_of(pool / "columns.npz")})


def described(pool: Path, changes: dict[str, Any]) -> None:
    info = json.loads((pool / "pool.json").read_text())
    (pool / "pool.json").write_text(json.dumps({**info, **changes}))


def put(column: str, place: tuple[int, ...], value: float) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda columns: columns[column].__setitem__(place, value)


COLUMNS: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], str]] = {
    "a reward that is none": (put("reward", (1, 2), np.nan), "column reward, episode 1, step 2: nan is no finite number"),
    "a reward without end": (put("reward", (0, 3), np.inf), "column reward, episode 0, step 3: inf"),
    "an observation that is none": (put("observation.buffer_s", (2, 4), np.nan), "observation.buffer_s, episode 2, step 4"),
    "a step that comes after the end": (put("valid", (0, 5), False), "column valid: episode 0"),
    "no reward": (lambda columns: columns.pop("reward"), "column reward is missing"),
    "no action": (lambda columns: columns.pop("action"), "column action is missing"),
    "rewards of other episodes": (lambda c: c.update(reward=c["reward"][:-1]), "column reward is float64 (2, 47)"),
    "actions of text": (lambda c: c.update(action=c["action"].astype("U3")), "values of type <U3, not numbers"),
    "actions of objects": (lambda c: c.update(action=c["action"].astype(object)), "values of type object, not numbers"),
    "truth values that are numbers": (lambda c: c.update(valid=c["valid"].astype(int)), "column valid is int64"),
    "an unknown column": (lambda c: c.update(extra=np.zeros(3)), "column extra is unknown"),
    "rows that are not counted": (lambda c: c.update({"ragged.x": np.zeros((4, 2))}), "its number of rows in each step"),
    "a count without rows": (lambda c: c.update({"count.x": ONES}), "its rows, ragged.x, are missing"),
    "a count of other rows": (lambda c: c.update({"ragged.x": ROWS, "count.x": ONES}), "counts other rows than the 4"),
    "a count below zero": (lambda c: c.update({"ragged.x": ROWS, "count.x": -ONES}), "counts other rows"),
    "a reference of 0": (lambda c: c.update(reference=np.zeros(3)), "column reference has the shape (3,) or a 0"),
    "targets of other steps": (lambda c: c.update(target=np.zeros((3, 9, 6), np.float32)), "column target is float32"),
    "no episode": (lambda c: c.update(valid=c["valid"][:0], reward=c["reward"][:0], action=c["action"][:0]), "column valid"),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_a_pool_with_a_wrong_column_is_refused(pool, name):
    alter, sentence = COLUMNS[name]
    change(pool, alter)
    message = refused(lambda: read_pool(pool))
    assert sentence in message
    assert "columns.npz" in message


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (6, "column action, episode 1, step 2: 6 must be from 0 to 5"),
        (-1, "-1 must be from 0 to 5"),
        (2**40, "1099511"),
    ],
)
def test_an_action_out_of_range_is_refused(pool, action, sentence):
    change(pool, put("action", (1, 2), action))
    assert sentence in refused(lambda: check_actions(read_pool(pool), make_task(), pool))


def test_an_action_that_a_scheduler_cannot_take_is_refused(tmp_path):
    data = SyntheticDags(name="synthetic_dags", setting="tiny", seed=0)
    task = CjsTask("cjs", data, "pointer", window=5, segment=16, validation=3, test=4)  # type: ignore[arg-type]
    pool = collect(task, [PoolEntry("teacher", 2), PoolEntry("fifo", 1, 0.5)], 0, tmp_path, workers=1)
    check_actions(pool, task, tmp_path)  # what the simulator took
    pool.action[1, 3, 0] = 10_000
    assert "episode 1, step 3: it cannot be taken: stage 10000" in refused(lambda: check_actions(pool, task, tmp_path))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"episodes": 4}, "its episodes are 3, and 4 in pool.json"),
        ({"decisions": 1}, "its decisions are 141, and 1 in pool.json"),
        ({"sha256": "0" * 64}, "sha256 differs"),
        ({"sha256": 3}, "pool.json is damaged: sha256"),
        ({"return_bounds": "x"}, "pool.json is damaged: return_bounds"),
        ({"schema": 3}, "this version reads 4"),
    ],
)
def test_a_pool_with_a_wrong_description_is_refused(pool, changes, sentence):
    described(pool, changes)
    assert sentence in refused(lambda: read_pool(pool))


def test_a_damaged_pool_is_collected_again_with_a_warning(tmp_path, capsys):
    task, entries = make_task(), [PoolEntry("bba", 2)]
    first = collect(task, entries, 0, tmp_path, workers=1)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for damage in (
        lambda: (folder / "pool.json").write_text("["),
        lambda: (folder / "columns.npz").write_bytes(b"PK"),
        lambda: change(folder, put("reward", (0, 0), np.nan)),
        lambda: change(folder, put("action", (0, 0), 99)),
    ):
        damage()
        again = collect(task, entries, 0, tmp_path, workers=1)
        np.testing.assert_array_equal(again.action, first.action)
        assert (
            f"warning: stored before, but damaged or altered, and collected again: {folder}" in capsys.readouterr().err
        )


def header(shape: str, kind: str = "<f8") -> bytes:
    described = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return HEADER + described.encode()


def test_arrays_that_claim_more_than_the_file_has_are_not_made(tmp_path):
    """Arrays of 2^40 numbers, and of zeros that are compressed a thousand times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", header("(1099511627776,)") + bytes(32))
    assert "of shape (1099511627776,) does not fit its 160 bytes" in refused(lambda: unpack_episodes(buffer.getvalue()))
    bomb(tmp_path / "bomb.npz", "reward.npy", header("(134217728,)"), 2**30)
    assert (tmp_path / "bomb.npz").stat().st_size < 2 * 2**20
    message = refused(lambda: unpack_episodes((tmp_path / "bomb.npz").read_bytes()))
    assert "claim more bytes than the file can hold" in message


def test_stored_arrays_and_episodes_are_made_again(tmp_path, capsys):
    from edgenetllm.hashed import store_file

    path = tmp_path / "bounds.npz"
    for damage in (b"", b"PK\x03\x04", pack_episodes(played_episodes(1))[:500]):
        store_file(path, damage)  # with its hash
        assert arrays_once(path, lambda: {"x": np.ones(2)}, "bounds")["x"].tolist() == [1, 1]
        assert "warning: stored before, but damaged or altered, and made again" in capsys.readouterr().err
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([1.0, np.nan]))
    store_file(path, buffer.getvalue())
    assert arrays_once(path, lambda: {"x": np.ones(2)}, "bounds")["x"].tolist() == [1, 1]


LOGGED: dict[str, tuple[str, str]] = {  # what is appended to a log of two episodes, and what is said of its line 95
    "a text": ("decision", "not a JSON object"),
    "a number": ("3", "a JSON object is needed"),
    "nesting without end": ("[" * 100_000, "nested too deep"),
    "a whole number without end": ('{"step": ' + "9" * 30 + "}", "a whole number has more than 64 bits"),
    "half of a character": ('{"task": "\\ud800"}', "half of a character"),
    "no session": ('{"task": "abr", "step": 0, "action": 1, "reward": 1}', "column session, or episode, is missing"),
    "a reward that is none": ('{"task": "abr", "session": "s", "step": 0, "reward": NaN}', "line 95: column"),
}


@pytest.mark.parametrize("name", LOGGED)
def test_a_wrong_line_of_a_log_is_named(tmp_path, name):
    task = make_task()
    line, sentence = LOGGED[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(log_lines(task, played_episodes(2))) + line.encode())
    message = refused(lambda: recorded_episodes(read_rows(path), TaskForm(task), "keep", 1.0))
    assert sentence in message
    assert f"{path}, line 95" in message


def test_a_line_longer_than_any_decision_is_not_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b" " * (17 * 2**20))
    assert "longer than the 16 MiB" in refused(lambda: list(read_rows(path)))


def test_parquet_that_claims_more_than_it_has_is_not_read(tmp_path):
    """A hundred million equal numbers take a few bytes in a file, and a gigabyte in memory."""
    path = tmp_path / "a.parquet"
    ones = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000_000, np.int8)), pa.array([1.0]))
    pq.write_table(pa.table({"reward": ones}), path)
    assert path.stat().st_size < 500_000
    assert "more than a file of its size holds" in refused(lambda: list(read_rows(path)))
    (tmp_path / "b.parquet").mkdir()
    with pytest.raises(UserError, match=r"b\.parquet: not a file"):
        log_files(tmp_path)
