"""Splits: a planted leak is found, groups stay together, the test set stays whole."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from small import ROOT

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.datasets import Folder, Public
from edgenetllm.tasks.abr.data.splits import groups, split
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.abr.task import AbrTask


def trace(name, mbps):
    return Trace(name, np.arange(len(mbps), dtype=float), np.asarray(mbps, float))


def recordings(count, rows=100, seed=0):
    rng = np.random.default_rng(seed)
    return [trace(f"r{number}", rng.uniform(0.1, 5, rows)) for number in range(count)]


def runs(traces, length=40):
    """Every run of samples, as exact bytes: the slow and obvious way to see a leak."""
    return {t.mbps[i : i + length].tobytes() for t in traces for i in range(len(t.mbps) - length + 1)}


def test_a_shared_run_makes_a_group_and_one_sample_less_does_not():
    a, b, c = (t.mbps.copy() for t in recordings(3))
    b[7:47] = a[50:90]  # 40 samples, elsewhere in the file
    c[0:39] = a[20:59]
    label = groups([trace("a", a), trace("b", b), trace("c", c)])
    assert label[0] == label[1] != label[2]


def test_groups_are_transitive():
    a, b, c, d = (t.mbps.copy() for t in recordings(4))
    b[:40], c[:40] = a[:40], b[50:90]
    label = groups([trace(n, v) for n, v in zip("abcd", (a, b, c, d), strict=True)])
    assert label[0] == label[1] == label[2] != label[3]


def with_stretch(stretch, count=3, seed=0):
    """Unrelated recordings with the same stretch of samples somewhere in the middle."""
    return [
        trace(t.name, np.concatenate([t.mbps[: 20 + 7 * number], stretch, t.mbps[20 + 7 * number :]]))
        for number, t in enumerate(recordings(count, seed=seed))
    ]


@pytest.mark.parametrize(
    "stretch",
    [
        np.zeros(45),  # an outage
        np.full(60, 100.0),  # a plan's cap
        np.concatenate([np.zeros(45), [25.0, 50.0], np.full(60, 100.0)]),  # one after the other
        np.tile([100.0, 99.9], 30),
        np.repeat([5.0, 1.0, 5.0], 30),
    ],
)
def test_stretches_without_information_prove_nothing(stretch):
    assert len(set(groups(with_stretch(stretch)).tolist())) == 3


def test_a_copy_of_steps_is_a_copy():
    """30 s on each of ten rates: no 40 samples in a row have more than three, all of them together do."""
    steps = np.repeat(np.random.default_rng(3).uniform(1, 9, 10), 30)
    label = groups(
        [trace("a", steps), trace("b", steps[60:250]), *with_stretch(steps[30:200], 2), trace("c", steps[:70])]
    )
    assert len(set(label[:4].tolist())) == 1
    assert label[4] != label[0]


def test_constant_and_short_traces_do_not_break_it():
    constant, other = np.full(500, 2.0), np.full(300, 3.0)
    short, few = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([1.0, 2.0, 3.0, 2.0, 3.0])
    traces = [constant, constant[:60], other, short, short, short[:4], few, few, np.array([4.0, 4.0])]
    label = groups([trace(str(n), v) for n, v in enumerate(traces)]).tolist()
    assert label[3] == label[4]
    assert len(set(label)) == len(traces) - 1
    assert len(set(groups([trace("a", constant), trace("b", constant)]).tolist())) == 2


def test_what_leaks_is_dropped_and_test_stays_whole():
    pool, test = recordings(30), recordings(5, seed=1)
    leaky = trace("leak", np.concatenate([pool[0].mbps[:30], test[2].mbps[10:60]]))
    parts = split([[*pool, leaky]], test, validation=6, seed=0)
    assert parts.dropped == 1
    assert parts.test == test
    assert leaky not in [*parts.train, *parts.val]
    assert len(parts.val) == 6
    assert len(parts.train) == 24
    assert "dropped 1" in parts.describe()


def test_groups_do_not_straddle_train_and_validation():
    pool = recordings(30)
    twins = [trace(f"twin{n}", pool[n].mbps[20:80]) for n in range(30)]
    parts = split([[*pool, *twins]], recordings(2, seed=1), validation=20, seed=0)
    assert len(parts.val) >= 20
    assert not runs(parts.train) & runs(parts.val)


def test_the_choice_depends_on_the_seed_alone():
    def names(seed):
        return [t.name for t in split([recordings(30)], recordings(2, seed=1), 8, seed).val]

    assert names(0) == names(0)
    assert names(0) != names(1)


def mixed(pieces, seed):
    """Two folders of training traces, a test set and another one, cut at random from a few common recordings."""
    rng = np.random.default_rng(seed)
    common = recordings(6, rows=300, seed=seed)

    def cut(count, prefix):
        made = []
        for number in range(count):
            fresh, start = rng.uniform(0.1, 5, 60), int(rng.integers(0, 260))
            known = common[rng.integers(6)].mbps[start : start + int(rng.integers(30, 90))]
            made.append(trace(f"{prefix}{number}", np.concatenate([fresh, known]) if rng.random() < 0.6 else fresh))
        return made

    return [cut(pieces, "a"), cut(pieces, "b")], cut(8, "test"), cut(8, "also")


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_shared_with_any_test_set_whatever_the_mix(seed):
    """By exact bytes: also what leaks through a third trace is gone, and what is dropped had a reason."""
    folders, test, also = mixed(60, seed)
    parts = split(folders, test, [6, 4], seed, also)
    sides = [runs(parts.train), runs(parts.val), runs(parts.test), runs(also)]
    for one, other in ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3)):
        assert not sides[one] & sides[other]
    kept = {t.name for t in [*parts.train, *parts.val]}
    reached, gone, pool = runs([*test, *also]), set(), [t for folder in folders for t in folder]
    while found := [t for t in pool if t.name not in gone and runs([t]) & reached]:
        gone |= {t.name for t in found}
        reached |= runs(found)
    assert kept == {t.name for t in pool} - gone
    assert parts.dropped + parts.dropped_also == len(gone) > 0
    alone = split(folders, test, 0, seed)
    assert 0 < alone.dropped <= parts.dropped < len(gone)  # the other set costs traces of its own
    assert [sum(t.name.startswith(name) for t in parts.val) for name in "ab"] == [6, 4]


def test_one_validation_number_for_each_folder():
    with pytest.raises(
        UserError, match=r"data\.validation=\[1, 2\]: give one number, or one for each of the 3 folders"
    ):
        Public("x", Path("."), train=["a", "b", "c"], test="d", validation=[1, 2], seed=0, video="video1")


def own_folder(path, allow_shared=False, **parts):
    """`data=folder` over cooked files written to `path`."""
    for part, traces in parts.items():
        (path / part).mkdir()
        for number, t in enumerate(traces):
            lines = [f"{time} {rate}" for time, rate in zip(t.time_s.tolist(), t.mbps.tolist(), strict=True)]
            (path / part / f"{number}").write_text("\n".join(lines))
    return Folder("folder", path, "cooked", "synthetic", allow_shared=allow_shared)


def test_own_traces_that_share_a_run_with_test_are_dropped(tmp_path):
    a, b, c, d = recordings(4)
    parts = own_folder(tmp_path, train=[a, b], val=[c, d], test=[a]).splits()
    assert [len(parts.train), len(parts.val), len(parts.test), parts.dropped] == [1, 2, 1, 1]


def test_own_traces_do_not_leak_into_validation(tmp_path):
    a, b, c, d = recordings(4)
    parts = own_folder(tmp_path, train=[a, b], val=[b, c], test=[d]).splits()
    assert not runs(parts.train) & runs(parts.val)


def task_on(data, tmp_path):
    return AbrTask("abr", data, tmp_path, "lin", "fused", noise=True, temperature=0.1)


def test_shared_recordings_can_be_allowed_and_the_results_say_so(tmp_path):
    a, b, c, d = recordings(4)
    data = own_folder(tmp_path, allow_shared=True, train=[a, b], val=[c, d], test=[a])
    task = task_on(data, tmp_path)
    assert [len(part) for part in (data.splits().train, data.splits().val, data.splits().test)] == [2, 2, 1]
    assert len(task.notes()) == 1
    assert task.notes()[0].startswith("1 training and validation traces share 40 or more samples in a row")
    assert "dropped 0" in task.describe_data()[0]
    assert task.notes()[0] in task.describe_data()[0]
    data.allow_shared = False
    assert task_on(data, tmp_path).notes() == []


def test_an_empty_split_says_what_can_be_done(tmp_path):
    a, b = recordings(2)
    task = task_on(own_folder(tmp_path, train=[a], val=[b], test=[a]), tmp_path)
    with pytest.raises(UserError, match=r"has no train traces: 1 were dropped.*data\.allow_shared=true") as error:
        task.environment("train")
    assert "data.validation" not in str(error.value)


def test_a_public_set_can_be_kept_whole():
    pool, test = recordings(30), recordings(5, seed=1)
    leaky = trace("leak", np.concatenate([pool[0].mbps[:30], test[2].mbps[10:60]]))
    parts = split([[*pool, leaky]], test, validation=6, seed=0, allow_shared=True)
    assert (parts.dropped, parts.kept_shared) == (0, 1)
    assert len(parts.train) + len(parts.val) == 31
    assert "1 training and validation traces share" in parts.describe()


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("fcc", (1541, 100, 100, 93, 0)),
        ("fcc_norway", (8323, 122, 100, 132, 0)),
        ("norway", (97, 30, 142, 0, 0)),
        ("puffer", (120, 30, 100, 0, 0)),
        ("oboe", (0, 0, 428, 0, 0)),
    ],
)
def test_the_splits_of_the_public_sets_stay_as_they_are(shared, name, counts):
    node = yaml.safe_load((ROOT / f"conf/data/{name}.yaml").read_text())
    del node["defaults"], node["_target_"]
    parts = Public(**{**node, "data_dir": shared / "data"}).splits()
    assert (len(parts.train), len(parts.val), len(parts.test), parts.dropped, parts.dropped_also) == counts


@pytest.mark.shared
@pytest.mark.parametrize(
    ("train", "test", "validation"),
    [
        (["abr/fcc/train", "abr/merina/train"], "abr/fcc/test", 100),
        (["abr/norway/train"], "abr/norway/test", 30),
        (["abr/puffer-211017/train"], "abr/puffer-211017/test", 30),
        ([], "abr/oboe/test", 0),
    ],
)
def test_public_sets_do_not_leak(shared, train, test, validation):
    """Also checks the local copies against the pinned hashes, which `find` does for every folder."""
    data = Public(
        name="set", data_dir=shared / "data", train=train, test=test, validation=validation, seed=0, video="video1"
    )
    parts = data.splits()
    sides = [runs(parts.train), runs(parts.val), runs(parts.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert len(parts.val) >= validation
    assert parts.dropped_also == 0
    assert len(parts.test) == len(list((shared / "data" / test).iterdir()))


@pytest.mark.slow
@pytest.mark.shared
def test_the_union_knows_nothing_of_any_public_test_set(shared):
    node = yaml.safe_load((ROOT / "conf/data/fcc_norway.yaml").read_text())
    del node["defaults"], node["_target_"]
    data = Public(**{**node, "data_dir": shared / "data"})
    parts = data.splits()
    tests = [trace for folder in [data.test, *data.also_test] for trace in data._read(folder)]
    assert len(data.also_test) == 3
    assert not runs(parts.train) & runs(parts.val)
    assert not runs([*parts.train, *parts.val]) & runs(tests)
    names = {folder: {t.name for t in data._read(folder)} for folder in data.train}
    counts = [sum(t.name in names[folder] for t in parts.val) for folder in data.train]
    assert all(count >= wanted for count, wanted in zip(counts, data.validation, strict=True))
    assert f"dropped {parts.dropped} that share" in parts.describe()
    assert f"{parts.dropped_also} with one of abr/norway/test, abr/oboe/test, " in parts.describe()
