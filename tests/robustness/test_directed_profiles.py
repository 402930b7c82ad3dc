"""Job profiles and lists of jobs that ask for too much on purpose, and those that may ask for as much."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contained import Limits, directed
from played import profile_plays
from test_job_profiles import EDGES, JOB, STAGES, WAVES, npy, write

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.data import limits
from edgenetllm.tasks.cjs.data.datasets import Folder
from edgenetllm.tasks.cjs.data.folder import read_profile as read_json_profile
from edgenetllm.tasks.cjs.data.npy import numbers
from edgenetllm.tasks.cjs.data.pickled import check_instructions
from edgenetllm.tasks.cjs.data.tpch import read_profile
from edgenetllm.tasks.cjs.policies.baselines import fair
from edgenetllm.tasks.cjs.policies.rollout import run_rule
from edgenetllm.tasks.cjs.simulator.jobs import Job, read_recorded
from edgenetllm.tasks.cjs.simulator.profiles import tabulate
from edgenetllm.tasks.cjs.simulator.state import Rules, new_state


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory):
    """Compile before the first case: the time of a compilation is not that of a file."""
    profile_plays(read_profile(write(tmp_path_factory.mktemp("good")), 1, "2g"))


def pickled(body: bytes) -> bytes:
    """An array file of one object, with a pickle of our choice."""
    return npy({})[:128] + body


def stages(**waves: object) -> bytes:
    return npy({0: {**WAVES, **waves}, 1: WAVES, 2: WAVES})


def with_itself() -> dict[int, Any]:
    tables: dict[int, Any] = {}
    tables[0] = dict.fromkeys(WAVES, tables)
    return tables


ROW = [1] * 100_000
TABLE: dict[int, list[int]] = {executors: [] for executors in range(1, 10_000)}
PICKLES = {
    "a place in memory of gigabytes": pickled(b"\x80\x02}r\xff\xff\xff\x1f."),
    "a text of gigabytes": pickled(b"\x80\x04X\xff\xff\xff\xff"),
    "a text of exabytes": pickled(b"\x80\x04\x8d" + b"\x00" * 7 + b"\x10"),
    "bytes of exabytes": pickled(b"\x80\x05\x96" + b"\x00" * 7 + b"\x10"),
    "a frame of exabytes": pickled(b"\x80\x04\x95" + b"\x00" * 7 + b"\x10"),
    "a number of gigabytes": pickled(b"\x80\x02\x8b\xff\xff\xff\x7f"),
    "nested tuples": pickled(b"\x80\x02)" + b"\x85" * 500_000 + b"."),
    "nested tuples as a key": pickled(b"\x80\x02})" + b"\x85" * 500_000 + b"Ns."),
    "nested lists": pickled(b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b"."),
    "nested dictionaries": pickled(b"\x80\x02" + b"}K\x00" * 100_000 + b"}" + b"s" * 100_000 + b"."),
    "nested states": pickled(b"\x80\x02" + b"cnumpy\ndtype\n)R" * 50_000 + b"b" * 49_999 + b"."),
    "marks": pickled(b"\x80\x02" + b"(" * 500_000 + b"."),
    "lists without number": pickled(b"\x80\x02" + b"]" * 500_000 + b"."),
    "dictionaries without number": pickled(b"\x80\x02" + b"}" * 500_000 + b"."),
    "a table that holds itself": npy(with_itself()),
    "one table a thousand times": npy(dict.fromkeys(range(1000), dict.fromkeys(WAVES, TABLE))),
    "one row a thousand times": npy({n: dict.fromkeys(WAVES, dict.fromkeys(range(1, 2), ROW)) for n in range(1000)}),
    "a large file": npy({0: {**WAVES, "rest_wave": {2: [10**6] * 400_000}}}),
    "negative milliseconds": stages(rest_wave={2: [-5], 10: [1]}),
    "10^30 milliseconds": stages(rest_wave={2: [10**30], 10: [1]}),
    "-3 executors": stages(fresh_durations={-3: [5]}),
    "10^30 executors": stages(fresh_durations={10**30: [5]}),
    "no tasks": stages(first_wave={2: [], 10: []}, rest_wave={2: [], 10: []}),
    "nothing but zeros": stages(fresh_durations={2: [0]}, first_wave={2: [0]}, rest_wave={2: [0]}),
    "truth values": stages(rest_wave={2: [True], 10: [1]}),
    "a stage of True": npy({0: WAVES, True: WAVES, 2: WAVES}),
    "a header of a billion objects": npy(STAGES).replace(b"()", b"(1000000000,)", 1),
    "a header that is nested": b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 0x2000,
    "a header that subtracts": b"\x93NUMPY\x01\x00\x00\x20" + b"-" * 0x1FFF + b"1",
    "a header that is not there": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{}",
}


@pytest.mark.robustness
def test_directed_pickles_are_refused_at_once():
    directed("pickles", PICKLES, lambda data, folder: tabulate([read_profile(write(folder, data), 1, "2g")]), "refused")


MATRICES = {
    "an exabyte": npy(EDGES).replace(b"(3, 3)", b"(999999999, 999999999)").replace(b" " * 16, b"", 1),
    "a shape that is nested": b"\x93NUMPY\x01\x00\x00\x20" + b"[" * 0x2000,
    "an object": npy({}),
    "a circle": npy(EDGES + EDGES.T),
    "a stage that waits for itself": npy(np.eye(3)),
    "twice": npy(2 * EDGES),
    "too short": npy(EDGES)[:-1],
    "too long": npy(EDGES) + b"\x00",
    "records": npy(np.zeros((3, 3), [("a", "f8")])),
    "empty": b"",
}


@pytest.mark.robustness
def test_directed_matrices_are_refused_at_once():
    def attempt(data: bytes, folder: Path) -> None:
        tabulate([read_profile(write(folder, matrix=data), 1, "2g")])

    directed("matrices", MATRICES, attempt, "refused")


@pytest.mark.parametrize("type_name", ["<f8", ">f8", "<i4", "|u1", "|b1", "<f4", ">i2"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_those_that_numpy_wrote(type_name, shape, order):
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2, type_name, order=order)
    read = numbers(npy(array))
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_of_every_protocol_are_read(tmp_path, protocol):
    write(tmp_path, durations=npy(STAGES, protocol))
    assert [stage.rest for stage in read_profile(tmp_path, 1, "2g").stages] == [
        STAGES[n]["rest_wave"] for n in range(3)
    ]
    check_instructions(pickle.dumps(STAGES, protocol))


def stage(**changed: object) -> dict[str, Any]:
    return {"tasks": 1, "durations_ms": [5], **changed}


JOBS = {
    "nested": b'{"stages":' + b"[" * 100_000,
    "a number of 5000 digits": b'{"stages": ' + b"1" * 5000 + b"}",
    "too many stages": json.dumps({"stages": {f"s{n}": stage() for n in range(limits.MOST_STAGES + 1)}}).encode(),
    "too many tasks": json.dumps({"stages": {f"s{n}": stage(tasks=1_000_000) for n in range(2)}}).encode(),
    "too many durations": json.dumps({"stages": {"s": stage(durations_ms=[5] * (limits.MOST_DURATIONS + 1))}}).encode(),
    "a large file": b'{"stages": {"s": "' + b"x" * limits.LARGEST_FILE + b'"}}',
    "every stage needs every name": json.dumps(
        {"stages": {f"s{n}": stage(needs=[f"t{m}" for m in range(100)]) for n in range(1000)}}).encode(),
    "a circle of a thousand": json.dumps(
        {"stages": {f"s{n}": stage(needs=[f"s{(n + 1) % 1000}"]) for n in range(1000)}}).encode(),
    "lists without number": b'{"stages": [' + b"[]," * 1_380_000 + b"[]]}",
    "objects without number": b'{"stages": [' + b"{}," * 1_380_000 + b"{}]}",
    "numbers without number": b'{"stages": [' + b"1," * 2_090_000 + b"1]}",
    "keys without number": json.dumps({"stages": {f"s{n}": 1 for n in range(200_000)}}).encode(),
    "the same key": b'{"stages": {' + b",".join(b'"s": 1' for _ in range(100_000)) + b"}}",
    "a key of a megabyte": json.dumps({"stages": {"s": stage(), "t": {"task" * 250_000: 1}}}).encode(),
    "a name with an escape": json.dumps({"stages": {"\x1b[2J": stage(tasks=0)}}).encode(),
    "a name of a megabyte": json.dumps({"stages": {"x" * 1_000_000: stage(tasks=0)}}).encode(),
    "half a character": b'{"stages": {"\\ud800": {"tasks": 0, "durations_ms": [1]}}}',
    "10^400 ms": b'{"stages": {"s": {"tasks": 1, "durations_ms": [1' + b"0" * 400 + b"]}}}",
    "1e400 ms": b'{"stages": {"s": {"tasks": 1, "durations_ms": [1e400]}}}',
    "not text": b"\xff\xfe{}",
}  # fmt: skip


@pytest.mark.robustness
def test_directed_json_profiles_are_refused_at_once():
    def attempt(data: bytes, folder: Path) -> None:
        (folder / "job.json").write_bytes(data)
        read_json_profile(folder / "job.json")

    directed("JSON", JOBS, attempt, "refused")


LARGE = {
    "as many stages and edges as may be": {
        f"s{n}": stage(needs=[f"s{m}" for m in range(max(0, n - 20), n)]) for n in range(limits.MOST_STAGES)
    },
    "as many tasks as may be": {"s": stage(tasks=limits.MOST_TASKS)},
    "as many durations as may be": {"s": stage(durations_ms=[5] * limits.MOST_DURATIONS)},
    "as long as may be": {"s": stage(tasks=100, durations_ms=[limits.LONGEST_MS])},
    "hardly any time": {"s": stage(tasks=100, durations_ms=[5e-324])},
}


@pytest.mark.robustness
def test_profiles_at_the_bounds_are_read_and_played():
    def attempt(stages: dict[str, Any], folder: Path) -> None:
        (folder / "job.json").write_text(json.dumps({"stages": stages}))
        tables = tabulate([read_json_profile(folder / "job.json")])
        state = new_state([[Job(0, 0.0)] * 2], np.zeros(1, np.int64), tables, Rules(5))
        assert np.isfinite(run_rule(state, tables, fair().kind, fair().weights)).all()

    directed("profiles at the bounds", LARGE, attempt, "accepted", Limits(seconds=10.0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"profile,arrival_ms\njob,1e300\n", "line 2: arrival_ms is 1e300"),
        (b"profile,arrival_ms\njob,1_000\n", "line 2: arrival_ms is 1_000, not a number"),
        (b"profile,arrival_ms\njob," + b"1" * 5000 + b"\n", "line 2: arrival_ms is 111"),
        (b'profile,arrival_ms\n"job,1\n' + b"x" * 90_000 + b"\n" + b"x" * 90_000, "not a CSV"),
        (b"profile,arrival_ms\n" + b"job,1\n" * 100_001, "more than 100,000 jobs"),
        (b"\x1b[2J" * 1000, "expected the header"),
        (b"\xff", "not a text file"),
    ],
)  # fmt: skip
def test_directed_lists_are_refused(tmp_path, text, says):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "job.json").write_text(json.dumps(JOB))
    (tmp_path / "jobs.csv").write_bytes(text)
    with pytest.raises(UserError, match=says) as error:
        read_recorded(tmp_path / "jobs.csv", Folder(name="folder", setting="tiny", path=tmp_path / "profiles"))
    assert len(str(error.value)) < 600
