"""Profiles that cannot be run are refused by name, and the flat tables hold what the profiles say."""

import dataclasses

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.simulator.profiles import LEVELS, Profile, Stage, check, tabulate

WAVES = ("fresh", "first", "rest")


def table(*values):
    return {level: list(values) for level in LEVELS}


def stage(tasks=3, fresh=(30,), first=(20, 21), rest=(10,)):
    return Stage(tasks, table(*fresh), table(*first), table(*rest))


def profile(stages, *edges):
    return Profile("query 9 at 2g", "some/file.npy", tuple(stages), edges)


DIAMOND = profile([stage(t, first=(10 * t,)) for t in (1, 2, 30, 4, 5)], (0, 1), (0, 2), (1, 3), (2, 3))


def random_profile(rng, count):
    edges = [(i, j) for j in range(count) for i in range(j) if rng.random() < 0.3]
    number = rng.permutation(count)  # so that stages are not numbered in the order of execution
    stages = [
        Stage(int(rng.integers(1, 50)), *(
            {level: rng.integers(1, 99, rng.integers(wave == "first", 4)).tolist() for level in LEVELS} for wave in WAVES
        ))
        for _ in range(count)
    ]  # fmt: skip
    return Profile(f"random {count}", "none", tuple(stages), tuple((int(number[i]), int(number[j])) for i, j in edges))


def longest_path(profile, number):
    """Every way down, one by one."""
    own = profile.stages[number].tasks * profile.stages[number].rough_ms()
    return own + max((longest_path(profile, j) for i, j in profile.edges if i == number), default=0)


def depth(profile, number):
    return max((1 + depth(profile, j) for i, j in profile.edges if i == number), default=0)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (profile([]), "no stages"),
        (profile([stage()] * 3, (0, 1), (1, 2), (2, 0)), "circle"),
        (profile([stage()], (0, 0)), "circle"),
        (profile([stage()] * 2, (0, 2)), "edge 0 -> 2, but its stages are 0 to 1"),
        (profile([stage()] * 2, (-1, 1)), "edge -1 -> 1"),
        (profile([stage(), stage(0)]), "stage 1 has 0 tasks"),
        (profile([stage(), stage(fresh=(), first=(), rest=(5,))]), "stage 1 has no durations for 5 executors"),
        (profile([stage(rest=(3, -1))]), "stage 0, rest wave, 5 executors: a duration is negative"),
        (profile([stage(fresh=(float("nan"),))]), "stage 0, fresh wave, 5 executors: a duration is .*not finite"),
    ],
)
def test_what_cannot_run_is_refused_by_file_job_and_stage(broken, words):
    with pytest.raises(UserError, match=rf"some/file\.npy: job query 9 at 2g: .*{words}"):
        check(broken)
    with pytest.raises(UserError, match=words):
        tabulate([DIAMOND, broken])


def test_one_of_the_two_waves_is_enough():
    check(profile([stage(fresh=(), rest=()), stage(first=(), rest=())], (0, 1)))


def test_a_level_that_was_not_measured_counts_as_the_largest_that_was():
    odd = {5: [1], 10: [2], 13: [3, 4]}
    tables = tabulate([profile([Stage(1, odd, odd, {5: [6], 13: [7]})])])
    assert tables.rows["mean_ms"][0, 1].tolist() == [1, 2, 4, 4, 4, 4, 4, 4]  # 3.5 is rounded up
    assert tables.rows["mean_ms"][0, 2].tolist() == [6, 0, 7, 7, 7, 7, 7, 7]
    with pytest.raises(UserError, match="stage 0 has no durations for 20 executors"):
        check(profile([Stage(1, {}, {5: [1], 10: [2], 13: []}, odd)]))


@pytest.mark.parametrize("seed", range(5))
def test_tables_hold_the_profiles(seed):
    rng = np.random.default_rng(seed)
    profiles = [DIAMOND, *(random_profile(rng, int(count)) for count in rng.integers(1, 9, 4))]
    tables = tabulate(profiles)
    assert tables.names == tuple(p.name for p in profiles)
    assert np.diff(tables.first).tolist() == [len(p.stages) for p in profiles]
    for number, p in enumerate(profiles):
        assert tables.work_ms[number] == pytest.approx(sum(s.tasks * s.rough_ms() for s in p.stages))
        for index, s in enumerate(p.stages):
            row, entry = tables.first[number] + index, tables.stages[tables.first[number] + index]
            assert entry["tasks"] == s.tasks
            parents = tables.links[entry["first_parent"] :][: entry["parents"]]
            children = tables.links[entry["first_child"] :][: entry["children"]]
            assert parents.tolist() == sorted(i for i, j in p.edges if j == index)
            assert children.tolist() == sorted(j for i, j in p.edges if i == index)
            assert entry["path_ms"] == pytest.approx(longest_path(p, index))
            assert entry["level"] == depth(p, index)
            everything = [v for wave in WAVES for values in getattr(s, wave).values() for v in values]
            assert entry["rough_ms"] == pytest.approx(sum(everything) / len(everything))
            for wave, name in enumerate(WAVES):
                for column, level in enumerate(LEVELS):
                    start, count, mean = tables.rows[row, wave, column]
                    values = getattr(s, name)[level]
                    assert tables.durations[start : start + count].tolist() == values
                    assert mean == (int(sum(values) / len(values) + 0.5) if values else 0)


def test_the_hash_is_of_the_content():
    one, same = tabulate([DIAMOND]), tabulate([dataclasses.replace(DIAMOND, source="elsewhere")])
    other = tabulate([dataclasses.replace(DIAMOND, edges=DIAMOND.edges[1:])])
    assert one.sha256() == same.sha256() != other.sha256()
