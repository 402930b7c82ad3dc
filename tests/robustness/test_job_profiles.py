"""Job profiles of any content, pickled, as matrices and as JSON, and lists of jobs: read and played, or refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contained import campaign, check
from mutations import altered_bytes, altered_numbers, altered_text, altered_tree
from played import profile_plays

from edgenetllm.tasks.cjs.data.datasets import Folder
from edgenetllm.tasks.cjs.data.folder import read_profile as read_json_profile
from edgenetllm.tasks.cjs.data.tpch import read_profile
from edgenetllm.tasks.cjs.policies.baselines import fair
from edgenetllm.tasks.cjs.policies.rollout import run_rule
from edgenetllm.tasks.cjs.simulator.jobs import read_recorded
from edgenetllm.tasks.cjs.simulator.profiles import tabulate
from edgenetllm.tasks.cjs.simulator.state import Rules, new_state

CASES = int(os.environ.get("ROBUSTNESS_CASES", "20000"))
FEW = 250

WAVES = {
    "fresh_durations": {2: [9], 10: [7]},
    "first_wave": {2: [9, 5], 10: [7, 6]},
    "rest_wave": {2: [1, 2], 10: [300]},
}
STAGES = {0: WAVES, 1: {**WAVES, "rest_wave": {2: [], 10: [70_000]}}, 2: WAVES}
EDGES = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]], float)
JOB = {"stages": {
    "scan": {"tasks": 4, "durations_ms": [900, 1100, 1000.5]},
    "sort": {"tasks": 2, "needs": ["scan"], "durations_ms": {"first": {"10": [400, 420], "50": [600]}}},
    "count": {"tasks": 3, "needs": ["scan", "sort"], "durations_ms": {"fresh": [700], "first": [90, 5], "rest": [90]}},
}}  # fmt: skip
LIST = b"profile,arrival_ms\njob,0\njob,1500.5\n# later\njob,1500.5\njob,90000\n"
# Instructions of a pickle that claim, nest, call, or repeat what was built.
SPLICES = (
    b"r\xff\xff\xff\x1f", b"r\x00\x00\x01\x00", b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"B\xff\xff\xff\x7f",
    b"\x8b\xff\xff\xff\x7f", b"\x96" + b"\xff" * 8, b"\x95" + b"\xff" * 8, b")" * 300, b"\x85" * 300, b"]" * 300,
    b"(" * 300, b"t", b"e", b"s", b"u", b"a", b"b", b"R", b"cos\nsystem\n", b"c__builtin__\neval\n", b"\x93", b"0", b"2",
    b"h\x00", b"h\x06", b"q\x00", b"\x8a\xff" + b"\xff" * 255, b"J\xff\xff\xff\xff", b"N", b"\x88", b"I01\n", b"F1e400\n",
    b"S'a'\n", b"P1\n", b"Q", b"i__main__\nx\n", b"o", b"\x81", b"\x92", b"\x82\x01", b"g0\n", b"p0\n", b".", b"}", b"\x8f",
)  # fmt: skip


def npy(content: Any, protocol: int = 4) -> bytes:
    """The bytes that numpy writes of an array, or of an object with a chosen protocol of its pickle."""
    file = io.BytesIO()
    np.save(file, content if isinstance(content, np.ndarray) else np.array(content, dtype=object))
    if isinstance(content, np.ndarray):
        return file.getvalue()
    header = file.getvalue()[: 10 + int.from_bytes(file.getvalue()[8:10], "little")]
    return header + pickle.dumps(np.array(content, dtype=object), protocol)


def write(folder: Path, durations: bytes | None = None, matrix: bytes | None = None) -> Path:
    (folder / "2g").mkdir(exist_ok=True)
    (folder / "2g" / "task_duration_1.npy").write_bytes(npy(STAGES) if durations is None else durations)
    (folder / "2g" / "adj_mat_1.npy").write_bytes(npy(EDGES) if matrix is None else matrix)
    return folder


def altered_rows(table: dict[int, list[int]], chance: random.Random) -> dict[int, list[int]]:
    """The same number of durations, now and then other ones."""
    odd = (0, 1, 255, 256, 65_536, 10**6, 10**9, 10**9, -1, 10**9 + 1, 2**31, 2**63, 10**30)
    usual = range(9)
    weights = (chance.random() < 0.05) * odd
    return {n: [chance.choice(weights or (*usual, *odd[:8])) for _ in row] for n, row in table.items()}


def attempt_pickle(number: int, folder: Path) -> None:
    """Bytes altered, instructions put in, or other objects in a whole pickle."""
    chance = random.Random(f"pickle {number}")
    data = npy(STAGES, chance.choice((3, 4, 5)))
    kind = chance.randrange(5)
    if kind == 0:
        data = npy(altered_tree(STAGES, chance), chance.choice((3, 4, 5)))
    elif kind == 1:
        data = npy({stage: {wave: altered_rows(table, chance) for wave, table in WAVES.items()} for stage in range(3)})
    elif kind == 2:
        data = altered_bytes(data, chance)
    else:
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(80, len(data))
            cut = chance.choice((0, 0, 1, 2, 5))
            data = data[:at] + chance.choice(SPLICES) * chance.choice((1, 1, 1, 3, 400)) + data[at + cut :]
    profile_plays(read_profile(write(folder, durations=data), 1, "2g"))


def attempt_matrix(number: int, folder: Path) -> None:
    """Bytes and the header altered, or other arrays."""
    chance = random.Random(f"matrix {number}")
    data = npy(EDGES)
    kind = chance.randrange(3)
    if kind == 0:
        shape = chance.choice(((3, 3), (3, 3), (3, 3), (3,), (), (0, 0), (9,), (2, 3), (1, 3, 3)))
        odd = [0, 1] if chance.random() < 0.6 else [0, 1, -1, 0.5, np.nan, 2**40]
        values = np.random.default_rng(number).choice(odd, shape).astype(float)
        values = np.triu(values, 1) if len(shape) == 2 and chance.random() < 0.6 else values
        type_name = chance.choice(("f8", "f4", "i8", "u1", "b1", ">f8", "c16", "S3"))
        data = npy(np.nan_to_num(values).astype(type_name) if type_name != "f8" else values)
    elif kind == 1:
        data = altered_bytes(data, chance)
    else:
        data = altered_numbers(data[:128], chance) + data[128:]
    profile_plays(read_profile(write(folder, matrix=data), 1, "2g"))


def attempt_json(number: int, folder: Path) -> None:
    chance = random.Random(f"json {number}")
    text = json.dumps(JOB, indent=chance.choice((None, 1))).encode()
    tree = json.dumps(altered_tree(JOB, chance)).encode()
    (folder / "job.json").write_bytes(chance.choice((tree, altered_text(text, chance))))
    profile_plays(read_json_profile(folder / "job.json"))


def attempt_list(number: int, folder: Path) -> None:
    chance = random.Random(f"list {number}")
    (folder / "profiles").mkdir()
    (folder / "profiles" / "job.json").write_text(json.dumps(JOB))
    data = Folder(name="folder", setting="tiny", path=folder / "profiles")
    (folder / "jobs.csv").write_bytes(altered_text(LIST, chance))
    jobs = read_recorded(folder / "jobs.csv", data)
    tables = tabulate(data.profiles())
    state = new_state([jobs], np.zeros(1, np.int64), tables, Rules(5))
    assert np.isfinite(run_rule(state, tables, fair().kind, fair().weights)).all()


ATTEMPTS: dict[str, Callable[[int, Path], None]] = {
    "pickle": attempt_pickle, "matrix": attempt_matrix, "json": attempt_json, "list": attempt_list,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory):
    """Compile before the first case: the time of a compilation is not that of a file."""
    profile_plays(read_profile(write(tmp_path_factory.mktemp("good")), 1, "2g"))


@pytest.mark.robustness
@pytest.mark.parametrize("kind", ATTEMPTS)
def test_altered_profiles_are_read_or_refused(kind):
    check(campaign(kind, range(FEW), ATTEMPTS[kind]))


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("kind", ATTEMPTS)
def test_many_altered_profiles_are_read_or_refused(kind):
    check(campaign(kind, range(CASES), ATTEMPTS[kind]))
