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
from contained import Limits, campaign, check
from mutations import altered_bytes, altered_numbers, altered_text, altered_tree

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.data import limits
from edgenetllm.tasks.cjs.data.datasets import Folder
from edgenetllm.tasks.cjs.data.folder import read_profile as read_json_profile
from edgenetllm.tasks.cjs.data.npy import numbers
from edgenetllm.tasks.cjs.data.pickled import check_instructions
from edgenetllm.tasks.cjs.data.tpch import read_profile
from edgenetllm.tasks.cjs.policies.baselines import Random, fair
from edgenetllm.tasks.cjs.policies.rollout import run_rule
from edgenetllm.tasks.cjs.simulator.environment import CjsEnvironment
from edgenetllm.tasks.cjs.simulator.jobs import Job, read_recorded
from edgenetllm.tasks.cjs.simulator.profiles import Profile, Stage, tabulate
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


def plays_to_its_end(profile: Profile) -> None:
    """Four jobs on five executors under a compiled rule, and at random step by step, with and without moving time."""
    tables = tabulate([profile])
    jobs = [Job(0, 0.0), Job(0, 0.0), Job(0, 1000.0), Job(0, 1e6)]
    for moving_ms in (0.0, 2000.0):
        rules = Rules(5, moving_ms, 1000.0)
        jct = run_rule(new_state([jobs], np.zeros(1, np.int64), tables, rules), tables, fair().kind, fair().weights)
        assert np.isfinite(jct).all()
        environment = CjsEnvironment(lambda seed: jobs, tables, rules)
        policy, total = Random(), 0.0
        policy.start(1)
        observation = environment.reset(np.zeros(1, np.int64))
        for _ in range(20_000):
            observation, reward, done = environment.step(policy.act(observation))
            total += reward[0]
            if done.all():
                break
        assert done.all()
        jct_ms = environment.state.jobs["completed_ms"] - environment.state.jobs["arrival_ms"]
        assert np.isfinite(jct_ms).all()
        assert np.isfinite(total)


def npy(content: Any, protocol: int = 4) -> bytes:
    """What numpy writes of an object or an array; of an object with a chosen protocol of its pickle."""
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
    plays_to_its_end(read_profile(write(folder, durations=data), 1, "2g"))


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
    plays_to_its_end(read_profile(write(folder, matrix=data), 1, "2g"))


def attempt_json(number: int, folder: Path) -> None:
    chance = random.Random(f"json {number}")
    text = json.dumps(JOB, indent=chance.choice((None, 1))).encode()
    tree = json.dumps(altered_tree(JOB, chance)).encode()
    (folder / "job.json").write_bytes(chance.choice((tree, altered_text(text, chance))))
    plays_to_its_end(read_json_profile(folder / "job.json"))


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
    plays_to_its_end(read_profile(write(tmp_path_factory.mktemp("good")), 1, "2g"))
    for number in range(10):
        attempt_schedule(number, Path())


@pytest.mark.robustness
@pytest.mark.parametrize("kind", ATTEMPTS)
def test_altered_profiles_are_read_or_refused(kind):
    check(campaign(kind, range(FEW), ATTEMPTS[kind]))


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("kind", ATTEMPTS)
def test_many_altered_profiles_are_read_or_refused(kind):
    check(campaign(kind, range(CASES), ATTEMPTS[kind]))


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
    "marks": pickled(b"\x80\x02" + b"(" * 1_000_000 + b"."),
    "lists without number": pickled(b"\x80\x02" + b"]" * 1_000_000 + b"."),
    "dictionaries without number": pickled(b"\x80\x02" + b"}" * 1_000_000 + b"."),
    "a table that holds itself": npy(with_itself()),
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
    names = list(PICKLES)

    def attempt(number: int, folder: Path) -> str:
        profile = read_profile(write(folder, durations=PICKLES[names[number]]), 1, "2g")
        tabulate([profile])
        return f"accepted {names[number]}"

    tally = campaign("directed pickles", range(len(names)), attempt)
    check(tally)
    assert tally.ends == {"refused": len(names)}


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
    names = list(MATRICES)

    def attempt(number: int, folder: Path) -> str:
        tabulate([read_profile(write(folder, matrix=MATRICES[names[number]]), 1, "2g")])
        return f"accepted {names[number]}"

    tally = campaign("directed matrices", range(len(names)), attempt)
    check(tally)
    assert tally.ends == {"refused": len(names)}


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
    names = list(JOBS)

    def attempt(number: int, folder: Path) -> str:
        (folder / "job.json").write_bytes(JOBS[names[number]])
        read_json_profile(folder / "job.json")
        return f"accepted {names[number]}"

    tally = campaign("directed JSON", range(len(names)), attempt)
    check(tally)
    assert tally.ends == {"refused": len(names)}


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
    names = list(LARGE)

    def attempt(number: int, folder: Path) -> None:
        (folder / "job.json").write_text(json.dumps({"stages": LARGE[names[number]]}))
        tables = tabulate([read_json_profile(folder / "job.json")])
        state = new_state([[Job(0, 0.0)] * 2], np.zeros(1, np.int64), tables, Rules(5))
        assert np.isfinite(run_rule(state, tables, fair().kind, fair().weights)).all()

    tally = campaign("profiles at the bounds", range(len(names)), attempt, Limits(seconds=10.0))
    check(tally)
    assert tally.ends == {"accepted": len(names)}


def attempt_schedule(number: int, _: Path) -> None:
    """Any graph of stages, cluster and policy, also one that leaves executors idle or waits: the episode ends.

    The bound is that of events.py; a wait can make a decision void, once for each of its stages.
    """
    chance = random.Random(f"schedule {number}")
    stages = chance.randrange(1, 7)
    edges = tuple((i, j) for j in range(stages) for i in range(j) if chance.random() < chance.choice((0.2, 0.7)))
    durations = {
        "fresh": {},
        "first": {5: [chance.choice((0, 5e-324, 1, 1000, 1e9))]},
        "rest": {5: [chance.choice((0, 7))]},
    }
    profile = Profile("p", "p", tuple(Stage(chance.randrange(1, 6), **durations) for _ in range(stages)), edges)
    tables = tabulate([profile])
    jobs = sorted((Job(0, chance.choice((0.0, 1.0, 5000.0, 1e12))) for _ in range(chance.randrange(1, 5))),
                  key=lambda job: job.arrival_ms)  # fmt: skip
    executors = chance.randrange(1, 9)
    rules = Rules(executors, chance.choice((0.0, 2000.0, 1e15)), chance.choice((0.0, 1000.0)))
    environment = CjsEnvironment(lambda seed: jobs, tables, rules)
    environment.reset(np.zeros(1, np.int64))
    leaves, waits = chance.choice((0, 0.3, 0.9, 1)), chance.choice((0, 0, 0.5))
    tasks = sum(stage.tasks for stage in profile.stages) * len(jobs)
    most = (executors + 1) * (len(jobs) + 2 * tasks) * (1 if not waits else 1 + stages * len(jobs))
    generator = np.random.default_rng(number)
    for _ in range(most + 1):
        actions = environment.sample(generator)
        if chance.random() < leaves:
            actions[:, 0] = -1
        if chance.random() < waits:
            environment.wait(np.array([chance.choice((1e-9, 0.5, 3.0, 1e6))]))
        _, _, done = environment.step(actions)
        if done.all():
            break
    assert done.all()
    assert np.isfinite(environment.state.jobs["completed_ms"]).all()


@pytest.mark.robustness
def test_the_cluster_ends_whatever_is_decided():
    check(campaign("schedules", range(FEW), attempt_schedule))


@pytest.mark.slow
@pytest.mark.robustness
def test_the_cluster_ends_whatever_is_decided_in_many_episodes():
    check(campaign("schedules", range(CASES), attempt_schedule))


def test_tables_with_a_stage_that_never_ends_are_refused():
    tables = tabulate([Profile("p", "p", (Stage(1, {}, {5: [1]}, {}),), ())])
    tables.stages["tasks"] = 0
    with pytest.raises(ValueError, match="at least one task"):
        new_state([[Job(0, 0.0)]], np.zeros(1, np.int64), tables, Rules(1))


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
