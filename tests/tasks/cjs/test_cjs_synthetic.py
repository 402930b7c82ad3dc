"""Generated profiles: always runnable, a function of the seed, and in the range of the measured ones."""

import numpy as np
import pytest

from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.data.synthetic import generate
from edgenetllm.tasks.cjs.simulator.profiles import LEVELS, check, tabulate


@pytest.mark.parametrize("seed", range(5))
def test_every_profile_can_run_and_ends_in_one_stage(seed):
    for profile in generate(seed):
        check(profile)
        assert 2 <= len(profile.stages) <= 18
        inputs = {i for i, _ in profile.edges}
        assert set(range(len(profile.stages))) - inputs == {len(profile.stages) - 1}
        assert all(i < j for i, j in profile.edges)
        assert all(type(value) is int for stage in profile.stages for value in stage.first[LEVELS[-1]])


def test_a_function_of_seed_query_and_size():
    assert generate(3) == generate(3)
    assert tabulate(generate(3)).sha256() != tabulate(generate(4)).sha256()
    assert generate(3, queries=2, sizes=("50g",)) == generate(3)[4 * 22 : 4 * 22 + 2]


def test_a_query_keeps_its_shape_at_every_size():
    profiles = generate(0)
    for query in range(22):
        sizes = profiles[query::22]
        assert len({profile.edges for profile in sizes}) == 1
        work = [profile.work_ms() for profile in sizes]
        assert work[0] < work[-1] < 100 * work[0]


@pytest.mark.parametrize("seed", range(5))
def test_in_the_range_of_tpc_h(seed):
    """Measured: 9.2 stages, 889 s of work a job, rest 0.4 of first at 5 executors, 1.9 and 3.0 times as long at 100."""
    profiles = generate(seed)
    tables = tabulate(profiles)
    assert 6.5 < np.mean([len(profile.stages) for profile in profiles]) < 12
    assert 500e3 < tables.work_ms.mean() < 1500e3
    assert 0.3 < (tables.stages["parents"] == 0).mean() < 0.5
    mean_ms = tables.rows["mean_ms"]
    first, rest = mean_ms[:, 1], mean_ms[:, 2]
    both = (first[:, 0] > 0) & (rest[:, 0] > 0)
    assert 0.3 < (rest[both, 0] / first[both, 0]).mean() < 0.55
    assert 1.5 < np.median((first[:, -1] / np.maximum(first[:, 0], 1))[first[:, 0] > 0]) < 2.3
    both = (rest[:, 0] > 0) & (rest[:, -1] > 0)
    assert 2.3 < np.median(rest[both, -1] / rest[both, 0]) < 3.7


def test_the_data_set_finds_a_profile_by_query_and_size():
    data = SyntheticDags(name="synthetic_dags", setting="default", seed=2)
    profiles = data.profiles()
    assert len(profiles) == len(data.known_queries) * len(data.known_sizes) == 154
    for query, size in ((1, "2g"), (22, "2g"), (7, "20g"), (22, "100g")):
        assert profiles[data.index(query, size)].name == f"query {query} at {size}"
    profiles.clear()
    assert len(data.profiles()) == 154  # what callers do to the list does not matter
