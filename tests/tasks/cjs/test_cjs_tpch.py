"""Reading TPC-H profiles: the public ones as the public simulator sees them, and nothing but numbers from anybody."""

import csv
import os
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.data.datasets import Tpch
from edgenetllm.tasks.cjs.data.sources import SOURCES
from edgenetllm.tasks.cjs.data.tpch import QUERIES, SIZES, read_profile, read_profiles
from edgenetllm.tasks.cjs.simulator.profiles import LEVELS, check, tabulate
from edgenetllm.tasks.fetch import content_hash

ONE = {"fresh_durations": {2: [9]}, "first_wave": {2: [9, 5]}, "rest_wave": {2: [1, 2, 3]}}


@pytest.fixture(scope="session")
def cjs_shared():
    """The folder of golden cases (golden/cjs) and public data (data/cjs)."""
    folder = Path(os.environ.get("EDGENETLLM_SHARED", Path(__file__).parents[4] / "shared"))
    if not (folder / "data" / "cjs" / "tpch").is_dir():
        pytest.skip("no TPC-H profiles: EDGENETLLM_SHARED names their folder")
    return folder


@pytest.fixture
def write(tmp_path):
    """Writes both files of query 1 at 2g; the durations as an object, or as raw bytes."""

    def write(durations, edges=((0, 1), (0, 0))):
        (tmp_path / "2g").mkdir(exist_ok=True)
        np.save(tmp_path / "2g" / "adj_mat_1.npy", np.array(edges, float))
        path = tmp_path / "2g" / "task_duration_1.npy"
        if isinstance(durations, bytes):
            path.write_bytes(durations)
        else:
            np.save(path, np.array(durations, dtype=object), allow_pickle=True)
        return path

    return write


def read(tmp_path):
    return read_profile(tmp_path, 1, "2g")


def npy(body):
    """An array file of one object, with a pickle of our choice."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


@pytest.mark.shared
def test_the_public_profiles_are_the_pinned_ones_and_can_all_run(cjs_shared):
    data = Tpch(name="tpch", setting="default", data_dir=cjs_shared / "data")
    profiles = data.profiles()
    assert len(profiles) == 154
    assert sum(len(profile.stages) for profile in profiles) == 1414
    for profile in profiles:
        check(profile)
    assert profiles[data.index(19, "50g")].name == "query 19 at 50g"
    assert content_hash(cjs_shared / "data" / "cjs/tpch", SOURCES["cjs/tpch"].keep) == SOURCES["cjs/tpch"].sha256


@pytest.mark.shared
def test_cleaning_equals_the_slow_and_obvious_way(cjs_shared):
    folder = cjs_shared / "data" / "cjs" / "tpch"
    for profile, (size, query) in zip(read_profiles(folder), [(s, q) for s in SIZES for q in QUERIES], strict=True):
        published = np.load(folder / size / f"task_duration_{query}.npy", allow_pickle=True).item()
        matrix = np.load(folder / size / f"adj_mat_{query}.npy")
        assert {(i, j) for i, row in enumerate(matrix) for j, one in enumerate(row) if one} == set(profile.edges)
        for number, stage in enumerate(profile.stages):
            first = {key: list(row) for key, row in published[number]["first_wave"].items()}
            key = next(iter(first))
            assert stage.tasks == len(first[key]) + len(published[number]["rest_wave"][key])
            for key, row in first.items():
                for duration in published[number]["fresh_durations"][key]:
                    if duration in row:
                        row.remove(duration)
            keys = sorted(first)
            for before, key in pairwise(keys):
                first[key] = first[key] or first[before]
            assert stage.first == first
            assert stage.fresh == published[number]["fresh_durations"]
            assert stage.rest == published[number]["rest_wave"]


@pytest.mark.shared
def test_the_golden_runs_saw_these_tasks_and_durations(cjs_shared):
    """Every task that the public simulator started under Fair: duration = rounded mean of the list of its wave and key."""
    golden = cjs_shared / "golden" / "cjs"
    data = Tpch(name="tpch", setting="default", data_dir=cjs_shared / "data")
    profiles = data.profiles()
    with open(golden / "jobs_seed0.csv") as file:
        rows = list(csv.DictReader(file))
    jobs = [profiles[data.index(int(row["query_num"]), row["query_size"])] for row in rows]
    counts = [(int(row["num_stages"]), int(row["num_tasks"])) for row in rows]
    assert [(len(job.stages), sum(stage.tasks for stage in job.stages)) for job in jobs] == counts
    tables = [tabulate([job]) for job in jobs]
    with np.load(golden / "fair_seed0_detasc_tasks.npz") as started:
        names = ("job", "stage", "wave", "key", "duration")
        seen = set(zip(*(started[name].tolist() for name in names), strict=True))
    for job, stage, wave, key, duration in seen:
        rows = tables[job].rows["mean_ms"][stage, :, LEVELS.index(key)]
        # What stands in for an empty list; wave 3 is the first wave with the warm-up delay, for want of fresh durations.
        expected = next(rows[w] for w in {0: (0,), 1: (1, 0), 2: (2, 1, 0), 3: (1,)}[wave] if rows[w])
        assert duration == expected + 1000 * (wave == 3)


def test_a_small_profile(write, tmp_path):
    other = {
        "fresh_durations": {10: [7, 7], 5: [4], 20: []},
        "first_wave": {10: [7, 7], 5: [4, 3, 4], 20: [8]},
        "rest_wave": {10: [], 5: [1], 20: []},
    }
    write({0: ONE, 1: other})
    profile = read(tmp_path)
    assert profile.edges == ((0, 1),)
    assert [stage.tasks for stage in profile.stages] == [5, 2]  # the key that comes first, before cleaning
    assert profile.stages[0].first == {2: [5]}
    assert profile.stages[1].first == {5: [3, 4], 10: [3, 4], 20: [8]}  # 10 borrows from 5
    assert profile.stages[1].rough_ms() == pytest.approx((7 + 7 + 4 + 3 + 4 + 3 + 4 + 8 + 1) / 9)


def test_a_first_wave_of_fresh_tasks_only_stays_empty(write, tmp_path):
    write({0: ONE, 1: {**ONE, "first_wave": {2: [9]}}})
    assert read(tmp_path).stages[1].first == {2: []}


class Command:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("place", ["alone", "inside"])
def test_a_pickle_that_runs_a_command_is_refused_and_does_not_run(write, tmp_path, protocol, place):
    target = tmp_path / "ran"
    evil = Command(target)
    if place == "alone":
        file = write(npy(pickle.dumps(evil, protocol)))
    else:
        file = write({0: ONE, 1: {**ONE, "rest_wave": {2: [evil]}}})
    with pytest.raises(UserError, match=rf"{file}: job query 1 at 2g: its pickle asks for (posix|nt)\.system.*not run"):
        read(tmp_path)
    assert not target.exists()
    pickle.loads(pickle.dumps(evil))  # the command does work
    assert target.exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "numpy load", "numpy.core.multiarray scalar", "numpy ndarray.tofile"]
)
def test_only_three_names_of_numpy_pass(write, tmp_path, name):
    write(npy(f"c{name.replace(' ', chr(10), 1)}\n.".encode()))
    with pytest.raises(UserError, match=name.replace(" ", r"\.")):
        read(tmp_path)


@pytest.mark.parametrize(
    ("durations", "words"),
    [
        (b"", "not a dictionary in the form of numpy"),
        (b"\x93NUMPY\x01\x00\xff", "not a dictionary in the form of numpy"),
        (npy(b"garbage"), "not a dictionary in the form of numpy"),
        (npy(pickle.dumps({0: ONE, 1: ONE})), "not a dictionary in the form of numpy"),
        ([1, 2], r"an array of object \(2,\), not one object"),
        ({}, "expected a dictionary with stages"),
        ({0: ONE, 2: ONE}, "expected a dictionary with stages"),
        ({0: ONE, 1: {"first_wave": {}}}, "stage 1 lacks one of fresh_durations"),
        ({0: ONE, 1: {**ONE, "first_wave": {}}}, "stage 1, first_wave: expected lists by number of executors"),
        ({0: ONE, 1: {**ONE, "rest_wave": {2: [1.5]}}}, "its pickle has the instruction b'G'"),
        ({0: ONE, 1: {**ONE, "rest_wave": {5: [1]}}}, "stage 1: first and further wave know different numbers"),
    ],
)
def test_broken_durations_are_named(write, tmp_path, durations, words):
    file = write(durations)
    with pytest.raises(UserError, match=rf"{file}: job query 1 at 2g: .*{words}"):
        read(tmp_path)


@pytest.mark.parametrize("edges", [((0, 1, 0),) * 3, ((0, 2), (0, 0)), ((0, np.nan), (0, 0)), (0, 1)])
def test_broken_edges_are_named(write, tmp_path, edges):
    write({0: ONE, 1: ONE}, edges)
    with pytest.raises(UserError, match=r"adj_mat_1\.npy: job query 1 at 2g: expected zeros and ones for 2 x 2 stages"):
        read(tmp_path)


def test_a_pickled_matrix_is_not_read(write, tmp_path):
    write({0: ONE, 1: ONE})
    np.save(tmp_path / "2g" / "adj_mat_1.npy", np.array([[Command(tmp_path / "ran")]]), allow_pickle=True)
    with pytest.raises(UserError, match=r"adj_mat_1\.npy: job query 1 at 2g: not a matrix"):
        read(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("missing", ["adj_mat_1.npy", "task_duration_1.npy"])
def test_a_missing_file_is_named(write, tmp_path, missing):
    write({0: ONE, 1: ONE})
    (tmp_path / "2g" / missing).unlink()
    with pytest.raises(UserError, match=rf"{missing}: job query 1 at 2g: cannot be read \(No such file"):
        read(tmp_path)
