"""One's own job profiles: the documented form, what it means to the simulator, and what is refused, with file and field."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.cjs.data.datasets import Folder, SyntheticDags
from edgenetllm.tasks.cjs.data.folder import read_folder, read_profile
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.profiles import LEVELS, Stage, tabulate
from edgenetllm.tasks.cjs.task import CjsTask

ETL = {
    "stages": {
        "scan": {"tasks": 6, "durations_ms": [900, 1100, 1000]},
        "filter": {"tasks": 3, "durations_ms": [250.5]},
        "count": {
            "tasks": 8,
            "needs": ["scan", "filter"],
            "durations_ms": {"fresh": [700], "first": {"10": [400, 420], "50": [600]}, "rest": [90, 110, 95]},
        },
        "log": {"tasks": 1, "needs": ["scan"], "durations_ms": [5]},
    }
}
GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide.md"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "jobs"
    path.mkdir()
    (path / "etl.json").write_text(json.dumps(ETL))
    (path / "single.json").write_text(json.dumps({"stages": {"only": {"tasks": 2, "durations_ms": [3000]}}}))
    return path


def everywhere(row: list[float]) -> dict[int, list[float]]:
    return {level: list(row) for level in LEVELS}


def data(path: Path, **options: object) -> Folder:
    return Folder(**{"name": "folder", "path": path, "setting": "tiny", **options})  # type: ignore[arg-type]


def task(path: Path, **options: object) -> CjsTask:
    return CjsTask("cjs", data(path, **options), "pointer", window=5, segment=16, validation=2, test=3)


def test_reads_stages_edges_and_durations(folder):
    etl, single = read_folder(folder)
    assert (etl.name, single.name) == ("etl", "single")
    assert set(etl.edges) == {(0, 2), (1, 2), (0, 3)}
    scan, _, count, _ = etl.stages
    assert scan == Stage(6, {}, everywhere([900, 1100, 1000]), everywhere([900, 1100, 1000]))
    assert (count.fresh, count.rest) == (everywhere([700]), everywhere([90, 110, 95]))
    assert count.first == {level: [400, 420] if level <= 20 else [600] for level in LEVELS}


def test_of_two_measured_counts_as_near_the_smaller_is_taken(folder):
    content = copy.deepcopy(ETL)
    content["stages"]["scan"]["durations_ms"] = {"first": {"60": [3], "20": [1], "200": [9]}}
    (folder / "etl.json").write_text(json.dumps(content))
    first = read_profile(folder / "etl.json").stages[0].first
    assert {level: first[level][0] for level in LEVELS} == {5: 1, 10: 1, 20: 1, 40: 1, 50: 3, 60: 3, 80: 3, 100: 3}


def test_a_job_alone_takes_what_its_file_says(tmp_path):
    """A chain of two stages on as many executors as tasks: the executors come, and each stage finds them fresh."""
    stages = {
        "map": {"tasks": 4, "durations_ms": [1000]},
        "reduce": {"tasks": 4, "needs": ["map"], "durations_ms": [70.25]},
    }
    (tmp_path / "chain.json").write_text(json.dumps({"stages": stages}))
    alone = task(tmp_path, jobs=1, executors=4, moving_ms=300, warmup_ms=50)
    environment = alone.environment("test")
    episodes = play(environment, alone.seeds("test"), alone.baselines()["fifo_uncapped"])
    jct_s = alone.summarise(episodes.record, episodes.reward, episodes.valid)["jct_s"]
    np.testing.assert_allclose(jct_s, (300 + 50 + 1000 + 50 + 70.25) / 1000, rtol=1e-6)


def test_every_baseline_plays_jobs_of_one_s_own(folder):
    own = task(folder)
    bound = own.bounds("test")["lower_bound"]["jct_s"]
    for policy in own.baselines().values():
        episodes = play(own.environment("test"), own.seeds("test"), policy)
        assert (own.summarise(episodes.record, episodes.reward, episodes.valid)["jct_s"] > bound).all()


def test_profiles_written_in_this_form_play_as_the_generated_ones_do(tmp_path):
    """The same tables, so that the simulator cannot tell them apart."""
    profiles = SyntheticDags(name="synthetic_dags", setting="tiny", seed=4).profiles()[:5]
    for number, profile in enumerate(profiles):
        stages = {}
        for place, stage in enumerate(profile.stages):
            waves = {"fresh": stage.fresh, "first": stage.first, "rest": stage.rest}
            lists = {wave: {str(k): row for k, row in table.items() if row} for wave, table in waves.items()}
            needs = [f"s{i}" for i, j in profile.edges if j == place]
            durations = {wave: table for wave, table in lists.items() if table}
            durations.setdefault("first", durations.get("fresh"))
            stages[f"s{place}"] = {"tasks": stage.tasks, "needs": needs, "durations_ms": durations}
        (tmp_path / f"job{number}.json").write_text(json.dumps({"stages": stages}))
    read, made = tabulate(read_folder(tmp_path)), tabulate(profiles)
    for name in ("first", "links", "stages"):
        for field in getattr(made, name).dtype.names or [...]:
            if field not in ("rough_ms", "path_ms"):  # means over the lists, of which the nearest fill gaps
                np.testing.assert_array_equal(getattr(read, name)[field], getattr(made, name)[field])
    filled = made.rows["count"] > 0
    np.testing.assert_array_equal(read.rows["mean_ms"][filled], made.rows["mean_ms"][filled])
    np.testing.assert_array_equal(read.rows["count"][filled], made.rows["count"][filled])


def test_names_and_weights_choose_jobs(folder):
    (folder / "third.json").write_text((folder / "etl.json").read_text())
    drawn = data(folder, names=["third", "etl"], name_weights=[3, 1], jobs=400)
    jobs = [job.profile for job in drawn.cluster().mix.draw(0, drawn)]
    assert set(jobs) == {0, 2}
    assert jobs.count(2) / 400 == pytest.approx(0.75, abs=0.07)
    with pytest.raises(UserError, match=r"data\.names=\['elt'\]: data=folder has no elt, but etl, single, third"):
        task(folder, names=["elt"])
    with pytest.raises(UserError, match=r"data\.name_weights=\[1\.0\]: 1 weights for 3 profile values"):
        task(folder, name_weights=[1])


def test_a_recorded_list_names_profiles(folder, tmp_path):
    recorded = tmp_path / "day.csv"
    recorded.write_text("profile,arrival_ms\nsingle,100\netl,350\n")
    played = data(folder, recorded=recorded)
    assert played.cluster(recorded=True).mix.draw(0, played) == [Job(1, 0.0), Job(0, 250.0)]
    recorded.write_text("profile,arrival_ms\nother,100\n")
    with pytest.raises(UserError, match=r"day\.csv, line 2: data=folder has no profile other, but etl, single"):
        task(folder, recorded=recorded)
    recorded.write_text("query,size,arrival_ms\n1,2g,100\n")
    with pytest.raises(UserError, match=r"day\.csv, line 1: expected the header profile,arrival_ms"):
        task(folder, recorded=recorded)


def test_what_is_in_the_files_is_the_identity_and_not_where_they_lie(folder, tmp_path):
    first = task(folder).data_hash()
    shutil.copytree(folder, tmp_path / "moved")
    assert task(tmp_path / "moved").data_hash() == first
    changed = copy.deepcopy(ETL)
    changed["stages"]["log"]["durations_ms"] = [6]
    (tmp_path / "moved" / "etl.json").write_text(json.dumps(changed))
    assert task(tmp_path / "moved").data_hash() != first
    (folder / "single.json").rename(folder / "renamed.json")
    assert task(folder).data_hash() != first
    (folder / "renamed.json").rename(folder / "single.json")
    assert len({task(folder, **drawn).data_hash() for drawn in ({}, {"names": ["etl"]}, {"name_weights": [2, 1]})}) == 3
    assert task(folder, warmup_ms=999).data_hash() != first == task(folder, warmup_ms=1000).data_hash()


def changed(path: list[str], value: object) -> str:
    content = copy.deepcopy(ETL)
    node = content["stages"]
    for key in path[:-1]:
        node = node[key]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r", line 1: not JSON"),
        ('{"stages": {\n"a" 1}}', r", line 2: not JSON"),
        ("[]", r": the file: expected an object with stages"),
        ("{}", r": the file: stages is missing"),
        ('{"stages": {}}', r": stages: expected an object with at least one stage"),
        ('{"stages": {"a": [], "a": {}}}', r": the key 'a' stands twice"),
        ('{"stages": {}, "size": 3}', r": the file: 'size' is no key here"),
        ('{"stages": {"a": 3}}', r": stages\.a: expected an object with durations_ms, needs, tasks"),
        ('{"stages": {"a": {"tasks": 1, "durations_ms": [NaN]}}}', r": NaN is no number"),
        (changed(["scan", "task"], 4), r": stages\.scan: 'task' is no key here, .*; did you mean tasks\?"),
        (changed(["scan", "tasks"], None), r": stages\.scan: tasks is missing"),
        (changed(["scan", "tasks"], 0), r": stages\.scan\.tasks: 0, expected a whole number from 1"),
        (changed(["scan", "tasks"], 2.0), r": stages\.scan\.tasks: 2\.0, expected a whole number"),
        (changed(["scan", "tasks"], True), r": stages\.scan\.tasks: True, expected a whole number"),
        (
            changed(["scan", "durations_ms"], []),
            r": stages\.scan\.durations_ms: expected a list of milliseconds",
        ),
        (changed(["scan", "durations_ms"], [1, -2]), r"\.durations_ms\[1\]: -2, expected .* not negative"),
        (changed(["scan", "durations_ms"], ["1"]), r"\.durations_ms\[0\]: '1', expected milliseconds"),
        (changed(["scan", "durations_ms"], [True]), r"\.durations_ms\[0\]: True, expected milliseconds"),
        (changed(["scan", "durations_ms"], [1e10]), r"\.durations_ms\[0\]: 10000000000\.0, expected .* at most"),
        (changed(["scan", "durations_ms"], [0, 0]), r": stages\.scan\.durations_ms: every duration is 0"),
        (changed(["scan", "durations_ms"], 5), r": stages\.scan\.durations_ms: expected an object with first"),
        (changed(["count", "durations_ms", "first"], None), r": stages\.count\.durations_ms: first is missing"),
        (changed(["count", "durations_ms", "frist"], [1]), r"'frist' is no key here, .*; did you mean first\?"),
        (changed(["count", "durations_ms", "rest"], {}), r": stages\.count\.durations_ms\.rest: expected a list"),
        (changed(["count", "durations_ms", "first", "ten"], [1]), r"\.first: 'ten' is no number of executors"),
        (changed(["count", "durations_ms", "first", "10"], [-1]), r"\.first\.10\[0\]: -1, expected"),
        (changed(["count", "needs"], "scan"), r": stages\.count\.needs: expected a list of stages"),
        (changed(["count", "needs"], ["scam"]), r": stages\.count\.needs: there is no stage 'scam', but scan, filter"),
        (changed(["count", "needs"], ["scan", "scan"]), r": stages\.count\.needs: scan stands twice"),
        (changed(["scan", "needs"], ["scan"]), r": its stages wait for each other in a circle: scan -> scan"),
        (changed(["scan", "needs"], ["count"]), r": its stages wait for each other in a circle: .*scan"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_field(folder, text, words):
    path = folder / "etl.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}.*{words}"):
        task(folder)


@pytest.mark.parametrize("value", ["1e999", "-1e999", str(10**400)])
def test_a_duration_that_is_no_finite_number_is_refused(folder, value):
    (folder / "etl.json").write_text(f'{{"stages": {{"a": {{"tasks": 1, "durations_ms": [{value}]}}}}}}')
    with pytest.raises(UserError, match=r"etl\.json: stages\.a\.durations_ms\[0\]: "):
        task(folder)


def test_a_folder_with_anything_else_in_it_is_refused(folder, tmp_path):
    (folder / ".hidden").write_text("left out")
    assert len(read_folder(folder)) == 2
    for name in ("notes.txt", "etl.JSON", "my job.json"):
        (folder / name).write_text("{}")
        with pytest.raises(UserError, match=re.escape(f"{folder / name}: a job profile is a file NAME.json")):
            read_folder(folder)
        (folder / name).unlink()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data\.path=.*empty: there is no job profile in it"):
        task(tmp_path / "empty")
    with pytest.raises(UserError, match=r"data\.path=.*absent: there is no such folder"):
        task(tmp_path / "absent")


@given(strategies.data())
@settings(max_examples=25, deadline=None)
def test_any_dag_plays_to_its_end(tmp_path_factory, drawn):
    """Random stages, in an order of the file that need not be that of the work; every task is played once."""
    count = drawn.draw(strategies.integers(1, 7))
    order = drawn.draw(strategies.permutations(range(count)))
    rows = strategies.lists(strategies.integers(1, 3000) | strategies.floats(0.5, 500), min_size=1, max_size=3)
    stages = {}
    for number in order:
        needs = drawn.draw(strategies.sets(strategies.sampled_from(range(number)), max_size=3)) if number else set()
        tasks = drawn.draw(strategies.integers(1, 6))
        stages[f"s{number}"] = {"tasks": tasks, "needs": [f"s{i}" for i in needs], "durations_ms": drawn.draw(rows)}
    path = tmp_path_factory.mktemp("jobs")
    (path / "one.json").write_text(json.dumps({"stages": stages}))
    own = task(path, jobs=2, executors=3, moving_ms=0, warmup_ms=0)
    environment, seeds = own.environment("test"), own.seeds("test")
    episodes = play(environment, seeds, own.baselines()["fair"])
    makespan = own.summarise(episodes.record, episodes.reward, episodes.valid)["makespan_s"] * 1000
    least = sum(stage["tasks"] * min(stage["durations_ms"]) for stage in stages.values())
    assert (makespan >= 2 * least / 3 * (1 - 1e-6)).all()
    assert np.isfinite(makespan).all()


def test_the_example_of_the_guide_is_complete(tmp_path):
    """Every JSON file that the guide shows, as it stands there, is a folder that plays."""
    shown = re.findall(r"^`([\w-]+)\.json`:\n\n```json\n(.*?)```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    for name, text in shown:
        (tmp_path / f"{name}.json").write_text(text)
    own = task(tmp_path)
    assert [profile.name for profile in own.data.profiles()] == sorted(name for name, _ in shown)
    episodes = play(own.environment("val"), own.seeds("val"), own.teacher())
    assert math.isfinite(float(episodes.reward.sum()))
