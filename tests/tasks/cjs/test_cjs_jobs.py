"""Job sequences: those of the public simulator where nothing is weighted, the asked-for shares, and recorded ones."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.simulator.jobs import Job, Mix

RATE = 4e-5
DATA = SyntheticDags(name="synthetic_dags", setting="default", seed=0)


def name(job):
    return divmod(job.profile, len(DATA.known_queries))


@pytest.mark.shared
@pytest.mark.parametrize("setting", ["small", "large"])
def test_draws_the_sequences_of_the_public_simulator(setting):
    folder = Path(os.environ.get("EDGENETLLM_SHARED", Path(__file__).parents[4] / "shared")) / "golden" / "cjs"
    if not folder.is_dir():
        pytest.skip("no golden cases: EDGENETLLM_SHARED names their folder")
    cases = json.loads((folder / f"jobs_{setting}.json").read_text())
    assert len(cases) >= 2
    for case in cases:
        jobs = Mix(jobs=len(case["query"]), rate_per_ms=RATE).draw(case["seed"], DATA)
        wanted = [DATA.index(query, size) for query, size in zip(case["query"], case["size"], strict=True)]
        assert jobs == [Job(profile, at) for profile, at in zip(wanted, case["arrival_ms"], strict=True)]


def test_draws_in_the_order_query_size_gap():
    """A page of numpy instead of the golden files, where those are absent."""
    rng, at, wanted = np.random.default_rng(5), 0.0, []
    for _ in range(50):
        query, size = DATA.known_queries[rng.integers(22)], str(rng.choice(list(DATA.known_sizes)))
        wanted.append(Job(DATA.index(query, size), at))
        at += rng.exponential(1 / RATE)
    assert Mix(50, RATE).draw(5, DATA) == wanted
    assert Mix(20, RATE).draw(5, DATA) == wanted[:20]
    assert Mix(50, RATE).draw(6, DATA) != wanted


def test_chosen_queries_and_sizes_only():
    jobs = Mix(200, RATE, queries=[3, 21], sizes=["80g"]).draw(0, DATA)
    assert {job.profile for job in jobs} == {DATA.index(3, "80g"), DATA.index(21, "80g")}


def test_weights_are_shares():
    mix = Mix(4000, RATE, queries=[3, 21, 8], query_weights=[1, 0, 3], size_weights=[6, 0, 0, 0, 0, 0, 2])
    jobs = mix.draw(0, DATA)
    queries = Counter(name(job)[1] + 1 for job in jobs)
    sizes = Counter(DATA.known_sizes[name(job)[0]] for job in jobs)
    assert set(queries) == {3, 8}
    assert set(sizes) == {"2g", "100g"}
    assert queries[8] / len(jobs) == pytest.approx(0.75, abs=0.03)
    assert sizes["2g"] / len(jobs) == pytest.approx(0.75, abs=0.03)
    gaps = np.diff([job.arrival_ms for job in jobs])
    assert gaps.mean() == pytest.approx(1 / RATE, rel=0.1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"queries": [1, 23]}, r"data\.queries=\[1, 23\]: data=synthetic_dags has no 23, but 1, 2, .*22"),
        ({"queries": []}, r"data\.queries=\[\]: choose at least one"),
        ({"sizes": ["3g"]}, r"data\.sizes=\['3g'\]: data=synthetic_dags has no 3g, but 2g, .*100g"),
        ({"query_weights": [1.0]}, r"data\.query_weights=\[1\.0\]: 1 weights for 22 "),
        ({"sizes": ["2g"], "size_weights": [1, 2]}, r"data\.size_weights=.*2 weights for 1 "),
        ({"sizes": ["2g"], "size_weights": [0]}, r"data\.size_weights=.*not all zero"),
        ({"sizes": ["2g", "5g"], "size_weights": [2, -1]}, r"data\.size_weights=.*not negative"),
        ({"sizes": ["2g"], "size_weights": [float("nan")]}, r"data\.size_weights=.*finite"),
    ],
)
def test_a_wrong_choice_names_its_override(fields, words):
    with pytest.raises(UserError, match=words):
        Mix(5, RATE, **fields).draw(0, DATA)


@pytest.mark.parametrize("fields", [{"jobs": 0}, {"rate_per_ms": 0}, {"rate_per_ms": float("inf")}, {"rate": 1}])
def test_a_wrong_field_is_refused(fields):
    with pytest.raises(ValidationError):
        Mix(**{"jobs": 5, "rate_per_ms": RATE, **fields})


HEADER = "query,size,arrival_ms\n"


@pytest.fixture
def record(tmp_path):
    def record(text, jobs=2):
        path = tmp_path / "jobs.csv"
        path.write_text(text)
        return path, Mix(jobs, RATE, recorded=path)

    return record


def test_replays_a_record_whatever_the_seed(record):
    _, mix = record(HEADER + "7,20g,0\n22, 100g, 12.5\n1,2g,12.5\n", jobs=3)
    wanted = [Job(DATA.index(7, "20g"), 0.0), Job(DATA.index(22, "100g"), 12.5), Job(DATA.index(1, "2g"), 12.5)]
    assert mix.draw(0, DATA) == mix.draw(1, DATA) == wanted


def test_replays_the_first_jobs_of_a_record_and_wants_enough_of_them(record):
    _, mix = record(HEADER + "7,20g,0\n\n22,100g,12.5\n", jobs=1)
    assert len(mix.draw(0, DATA)) == 1
    path, mix = record(HEADER + "7,20g,0\n", jobs=2)
    with pytest.raises(UserError, match=rf"{path} has 1 jobs, fewer than data\.jobs=2"):
        mix.draw(0, DATA)


def test_the_origin_of_a_record_does_not_matter(record):
    rows = [(7, "20g", 0), (22, "100g", 12.5), (1, "2g", 4000)]
    drawn = []
    for origin in (0, 500, 1_700_000_000_000):
        text = "".join(f"{query},{size},{origin + at}\r\n" for query, size, at in rows)
        _, mix = record("\ufeff# of a Tuesday\r\n\r\n" + HEADER + text, jobs=3)
        drawn.append(mix.draw(0, DATA))
    assert drawn[0] == drawn[1] == drawn[2]
    assert [job.arrival_ms for job in drawn[0]] == [0, 12.5, 4000]


def test_a_record_without_jobs_is_refused(record):
    path, _ = record(HEADER)
    with pytest.raises(UserError, match=f"{path} holds no jobs"):
        SyntheticDags(name="synthetic_dags", setting="small", seed=0, recorded=path).cluster(recorded=True)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("7,20g,-1", "arrival_ms is -1, expected a finite number, not negative"),
        ("7,20g,nan", "arrival_ms is nan, expected a finite"),
        ("7,20g,inf", "arrival_ms is inf, expected a finite"),
        ("7,20g,soon", "arrival_ms is soon, not a number"),
        ("7,20g,", "arrival_ms is , not a number"),
        ("7,20g,1", "it arrives before the job above"),
        ("23,20g,9", "data=synthetic_dags has no query 23, but 1"),
        ("q7,20g,9", "data=synthetic_dags has no query q7"),
        ("7,20,9", "data=synthetic_dags has no size 20, but 2g"),
        ("7,20g", "2 values, expected query,size,arrival_ms"),
    ],
)
def test_a_wrong_row_names_file_and_line(record, row, words):
    path, mix = record(f"{HEADER}7,20g,5\n\n{row}\n")
    with pytest.raises(UserError, match=f"{path}, line 4: {words}"):
        mix.draw(0, DATA)


def test_a_wrong_header_and_a_missing_file_are_named(record, tmp_path):
    path, mix = record("7,20g,0\n")
    with pytest.raises(UserError, match=f"{path}, line 1: expected the header query,size,arrival_ms"):
        mix.draw(0, DATA)
    with pytest.raises(UserError, match=r"data\.recorded=.*absent\.csv cannot be read"):
        Mix(2, RATE, recorded=tmp_path / "absent.csv").draw(0, DATA)
