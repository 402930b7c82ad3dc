"""Logs become the pool that was played, and what cannot be right is refused with its file, line, column and reason."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small import make_task
from test_config import settings

from edgenetllm.config import TaskConfig, load_config
from edgenetllm.edge.agent.decision_log import DecisionLog, encode
from edgenetllm.edge.agent.logged import decision_record
from edgenetllm.edge.replay_log import log_episodes
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import EpisodeDataset
from edgenetllm.experience.log_files import Row, log_files, read_rows
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.experience.recorded import Recorded, recorded_episodes
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.stages.logs import TaskForm, check_same_logs, recorded_pool
from edgenetllm.tasks.abr.networks.encoder import FusedEncoder
from edgenetllm.tasks.abr.task import AbrTask
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.task import CjsTask
from edgenetllm.tasks.task import Task


def make_cjs() -> CjsTask:
    data = SyntheticDags(name="synthetic_dags", setting="tiny", seed=0)
    return CjsTask("cjs", data, "pointer", window=5, segment=16, validation=3, test=4)  # type: ignore[arg-type]


POLICIES = [PoolEntry("bba", 2), PoolEntry("robustmpc", 2)]


def log_pool(folder: Path, task: Task, entries: list[PoolEntry], *, reference: bool = False) -> None:
    """Play as `collect` does with seed 1, and leave the decisions as an agent would."""
    with DecisionLog(folder, rotate_bytes=20_000) as log:
        for number, entry in enumerate(entries):
            first = np.random.SeedSequence([1, number]).generate_state(1)[0].astype(np.int64)
            seeds = first + np.arange(entry.episodes)
            played = play(task.environment("train"), seeds, task.baselines()[entry.policy], keep_observations=True)
            references = task.reference_returns(seeds)
            for episode in range(entry.episodes):
                steps = int(played.valid[episode].sum())
                for step in range(steps):
                    more = {"reference": references[episode]} if reference else {}
                    log.write(record_of(task, played, episode, step, f"{entry.policy}{episode}", **more), wait=True)


def record_of(task: Task, played: Episodes, episode: int, step: int, session: str, **more: Any) -> dict[str, Any]:
    observation = {
        name: column.rows(episode, step, step + 1) if isinstance(column, RaggedColumn) else column[episode, step]
        for name, column in played.observation.items()
    }
    done = step == int(played.valid[episode].sum()) - 1
    reward = played.reward[episode, step]
    return decision_record(
        task.name, session, step, observation, played.action[episode, step], reward=reward, done=done, **more
    )


@functools.cache
def composed(name: str) -> TaskConfig:
    words = [f"task={name}", "experience=recorded", "experience.folder=logs"]
    return load_config(settings(*words)).tasks[name]


def config_of(task: Task, folder: Path, cache: Path, **options: Any) -> TaskConfig:
    """A configuration that learns from the logs in `folder`."""
    config = composed(task.name)
    experience = config.experience.model_copy(update={"folder": folder, **options})
    paths = config.paths.model_copy(update={"cache_dir": cache})
    return config.model_copy(update={"task": task, "experience": experience, "paths": paths})


class OtherEncoder(FusedEncoder):
    """An encoder that has no counterpart without torch: it may read all that the simulator shows."""


class OtherTask(AbrTask):
    def encoder(self, width: int) -> OtherEncoder:
        return OtherEncoder(width)


def make_other() -> OtherTask:
    task = make_task()
    return OtherTask(**{field.name: getattr(task, field.name) for field in fields(task)})


@pytest.mark.parametrize(
    ("make", "entries"),
    [(make_task, POLICIES), (make_cjs, [PoolEntry("fair", 2)]), (make_other, POLICIES[:1])],
    ids=["abr", "cjs", "other"],
)
def test_the_pool_of_the_logs_is_the_pool_that_was_played(make, entries, tmp_path):
    task = make()
    log_pool(tmp_path / "logs", task, entries, reference=task.relative_return)
    pool = recorded_pool(config_of(task, tmp_path / "logs", tmp_path))
    played = collect(task, entries, 1, tmp_path / "played", workers=1)
    np.testing.assert_array_equal(pool.valid, played.valid)
    for name in ("action", "reward"):  # what a simulator says after an episode's end is not logged
        np.testing.assert_array_equal(getattr(pool, name)[pool.valid], getattr(played, name)[pool.valid])
    np.testing.assert_array_equal(pool.return_to_go(), played.return_to_go())
    assert pool.target is None
    # Learning sees the same numbers, of all inputs of the encoder.
    one, other = EpisodeDataset(pool, task.segment), EpisodeDataset(played, task.segment)
    assert len(one) == len(other)
    batch, expected = one[list(range(len(one)))], other[list(range(len(other)))]
    assert set(TaskForm(task).inputs) <= set(batch["observation"])
    for name, value in batch["observation"].items():
        seen = expected["observation"][name][batch["valid"]]
        torch.testing.assert_close(value[batch["valid"]], seen, rtol=0, atol=0, check_dtype=False)


Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def forms() -> dict[str, TaskForm]:
    return {"abr": TaskForm(make_task()), "cjs": TaskForm(make_cjs())}


@pytest.fixture(scope="module")
def logged(forms) -> dict[str, Rows]:
    """Two episodes of ABR and one of CJS, as rows of JSON."""
    rows: dict[str, Rows] = {}
    for name, policy, seeds in (("abr", "bba", [3, 4]), ("cjs", "fair", [0])):
        task = forms[name].task_object
        played = play(task.environment("train"), np.array(seeds), task.baselines()[policy], keep_observations=True)
        rows[name] = [
            json.loads(encode(record_of(task, played, episode, step, f"s{episode}")))
            for episode in range(len(seeds))
            for step in range(int(played.valid[episode].sum()))
        ]
    return rows


def read(rows: Rows, form: TaskForm, cut_off: str = "leave_out", best: float = 1.0) -> Recorded:
    numbered = [Row(copy.deepcopy(row), f"a.jsonl, line {number}") for number, row in enumerate(rows, 1)]
    return recorded_episodes(numbered, form, cut_off, best)  # type: ignore[arg-type]


WRONG: list[tuple[str, int, dict[str, Any], str]] = [
    ("abr", 4, {"reward": float("nan")}, "column reward is nan, not a finite number"),
    ("abr", 4, {"reward": "much"}, "column reward is 'much', not a finite number"),
    ("abr", 4, {"reward": ...}, "column reward is missing"),
    ("abr", 4, {"step": 3}, "column step: 3 was logged before, in a.jsonl, line 4"),
    ("abr", 4, {"step": 4.5}, "column step is 4.5, not a whole number"),
    ("abr", 46, {"step": 47}, "column step is 47, not a whole number from 0 on below 47"),
    ("abr", 4, {"action": 6}, "column action: it is 6, and must be from 0 to 5"),
    ("abr", 4, {"action": 1.5}, "column action: it is 1.5, not a whole number"),
    ("abr", 4, {"action": [1]}, r"column action: it has shape \(1,\), not \(\)"),
    ("abr", 4, {"action": None}, "column action: it is None, not numbers"),
    ("abr", 4, {"observation.buffer_s": ...}, "column observation.buffer_s is missing"),
    (
        "abr",
        4,
        {"observation.next_sizes_mb": [1, 2]},
        r"column observation: next_sizes_mb has shape \(2,\), not \(6,\)",
    ),
    ("abr", 4, {"observation.buffer_s": float("inf")}, "column observation: buffer_s holds NaN, infinity"),
    ("abr", 4, {"observation.buffr_s": 3}, "column observation: 'buffr_s' is unknown"),
    ("abr", 4, {"session": None}, "column session, or episode, is missing"),
    ("abr", 4, {"done": "no"}, "column done is 'no', neither true nor false"),
    ("abr", 4, {"done": True}, None),  # type: ignore[list-item]  # what follows an end is not a part of the episode
    ("cjs", 4, {"action": [99, 1]}, "column action: it cannot be taken: stage 99, of"),
    ("cjs", 4, {"action": [0, 0]}, "column action: it cannot be taken: 0 executors, of"),
    ("cjs", 4, {"action": 1}, r"column action: it has shape \(\), not \(2,\)"),
    ("cjs", 4, {"observation.edges": [[0, 99]]}, "column observation: .*edges: a parent or child is a row"),
    ("cjs", 4, {"reference": 0}, "column reference is 0"),
    ("cjs", 4, {"reference": -2e6}, None),  # type: ignore[list-item]  # once is enough
]


@pytest.mark.parametrize(("task", "at", "changes", "reason"), [one for one in WRONG if one[3]])
def test_a_wrong_value_is_refused_with_its_place(task, at, changes, reason, logged, forms):
    rows = copy.deepcopy(logged[task])
    for name, value in changes.items():
        if value is ...:
            del rows[at][name]
        else:
            rows[at][name] = value
    with pytest.raises(UserError, match=rf"^a\.jsonl, line {at + 1}: {reason}"):
        read(rows, forms[task])


def test_logs_of_another_task_are_refused_and_of_others_too_are_counted(logged, forms):
    with pytest.raises(UserError, match=r"no decision of task cjs \(there are: abr\)"):
        read(logged["abr"], forms["cjs"])
    both = read([*logged["cjs"], *logged["abr"]], forms["abr"])
    np.testing.assert_array_equal(both.episodes.action, read(logged["abr"], forms["abr"]).episodes.action)
    assert f"{len(logged['cjs'])} decisions are of other tasks (cjs)" in both.notes


def test_rows_may_come_in_any_order_and_of_any_policy(logged, forms):
    rows = [dict(row, by="fallback", reason="deadline", more="ignored") for row in logged["abr"]]
    mixed = read([*rows[::-2], *rows[-2::-2]], forms["abr"]).episodes
    straight = read(logged["abr"], forms["abr"]).episodes
    np.testing.assert_array_equal(mixed.reward[::-1], straight.reward)  # the last episode comes first
    assert straight.valid.all()


def test_an_episode_is_used_up_to_what_is_not_known(logged, forms):
    def cut(**changes: Any) -> Rows:
        rows = copy.deepcopy(logged["abr"])
        rows[10].update(changes)
        return rows

    gap = [row for number, row in enumerate(logged["abr"]) if number != 10]
    for rows in (gap, cut(reward=None), cut(**{"observation.delay_s": None})):
        assert read(rows, forms["abr"]).episodes.valid.sum(1).tolist() == [47]
        assert read(rows, forms["abr"]).notes == ["1 of 2 logged episodes", "1 that were cut off are left out"]
        kept = read(rows, forms["abr"], "keep").episodes
        assert kept.valid.sum(1).tolist() == [10, 47]
        np.testing.assert_array_equal(kept.reward[0, 10:], 0)
    # Without its first decision it cannot be used, without any it is refused.
    assert read(logged["abr"][1:], forms["abr"], "keep").episodes.valid.shape[0] == 1
    with pytest.raises(UserError, match=r"no episode of task abr is left: 1 lack .* 0 were cut off"):
        read(logged["abr"][1:47], forms["abr"], "keep")


def test_the_end_of_an_episode_is_what_the_log_says_of_it(logged, forms):
    def lengths(rows: Rows) -> list[int]:
        return read(rows, forms["cjs"]).episodes.valid.sum(1).tolist()

    rows, steps = logged["cjs"], len(logged["cjs"])
    unmarked = [{name: value for name, value in row.items() if name != "done"} for row in rows]
    assert lengths(rows) == lengths(unmarked) == [steps]
    assert lengths(unmarked[:5]) == [5]  # nothing says that there was more
    assert lengths([*rows[:-1], {**rows[-1], "reward": None}]) == [steps - 1]  # the end is known, its reward is not
    for cut in (
        rows[:-1],
        [*unmarked[:-1], {**unmarked[-1], "reward": None}],
        [*rows[:-1], {**rows[-1], "done": False}],
    ):
        with pytest.raises(UserError, match=r"1 were cut off before their end \(experience.cut_off=keep"):
            lengths(cut)


def test_the_best_episodes_are_those_of_the_highest_returns(logged, forms):
    rows = [dict(row, session=f"{row['session']}-{copied}", reward=row["reward"] + 0.01 * copied)
            for copied in range(3) for row in logged["abr"]]  # fmt: skip
    everything = read(rows, forms["abr"]).episodes.reward.sum(1)
    assert len(everything) == 6
    best = read(rows, forms["abr"], best=0.5)
    assert best.episodes.reward.sum(1).tolist() == [one for one in everything if one >= np.sort(everything)[3]]
    assert "3 of lower returns are left out" in best.notes
    assert len(read(rows, forms["abr"], best=0.01).episodes.valid) == 1


def test_relative_returns_need_a_reference_of_all_episodes_or_of_none(logged, forms):
    twice = [*logged["cjs"], *(dict(row, session="t", reward=2 * row["reward"]) for row in logged["cjs"])]
    total = sum(row["reward"] for row in logged["cjs"])
    np.testing.assert_allclose(read(twice, forms["cjs"]).reference, [1.5 * total] * 2)
    given = [dict(row, reference=-3e6 if row["session"] == "t" else -2e6) for row in twice]
    np.testing.assert_array_equal(read(given, forms["cjs"]).reference, [-2e6, -3e6])
    given = [dict(row, reference=-2e6) if row["session"] == "t" else row for row in twice]
    with pytest.raises(UserError, match="column reference is missing, and other episodes have it"):
        read(given, forms["cjs"])


def test_parquet_and_json_lines_are_the_same_log(logged, forms, tmp_path):
    pq.write_table(pa.Table.from_pylist(logged["cjs"]), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged["cjs"]) + "\n")
    (tmp_path / ".decisions-1.part").write_text('{"unfinished')
    (tmp_path / "notes.txt").write_text("not a log")
    assert log_files(tmp_path) == [tmp_path / "a.parquet", tmp_path / "b.jsonl"]
    one, other = (recorded_episodes(read_rows(path), forms["cjs"], "keep", 1).episodes for path in log_files(tmp_path))
    np.testing.assert_array_equal(one.action, other.action)
    np.testing.assert_array_equal(one.observation["stages"].values, other.observation["stages"].values)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"step": 0}\n{"step": 1, "ha', r"a\.jsonl, line 1: column task is missing"),
        ("a.jsonl", b'\n{"ha', r"a\.jsonl, line 2: not a JSON object"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl, line 1: a JSON object is needed"),
        ("a.jsonl", b"\xff\xfe\n", r"a\.jsonl, line 1: not a JSON object"),
        ("a.parquet", b"PAR1", r"a\.parquet: not a readable parquet file"),
        ("a.txt", b"", r"no files \.jsonl or \.parquet"),
    ],
)
def test_files_that_are_no_logs_are_refused(name, content, message, forms, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        recorded_episodes((row for path in log_files(tmp_path) for row in read_rows(path)), forms["abr"], "keep", 1)


def test_a_pool_is_kept_by_the_content_of_the_logs(logged, tmp_path):
    task, logs = make_task(), tmp_path / "logs"
    logs.mkdir()
    (logs / "a.jsonl").write_bytes(b"".join(map(encode, logged["abr"][:47])))
    first = recorded_pool(config_of(task, logs, tmp_path))
    (logs / "a.jsonl").rename(logs / "other.jsonl")
    assert recorded_pool(config_of(task, logs, tmp_path)).info == first.info
    assert len(list((tmp_path / "pools").glob("*/pool.json"))) == 1
    check_same_logs({"abr": first}, {"experience.logs.abr": first.info["logs"]}, tmp_path)
    # More logs, or another option: another pool.
    (logs / "more.jsonl").write_bytes(b"".join(map(encode, logged["abr"][47:])))
    second = recorded_pool(config_of(task, logs, tmp_path))
    assert (len(first.valid), len(second.valid)) == (1, 2)
    with pytest.raises(UserError, match=r"are not those that .* learns from: files were added or changed"):
        check_same_logs({"abr": second}, {"experience.logs.abr": first.info["logs"]}, tmp_path)
    config = config_of(task, logs, tmp_path, best=0.5)
    assert len(recorded_pool(config).valid) == 1
    # A damaged pool is made again.
    for path in (tmp_path / "pools").glob("*/columns.npz"):
        path.write_bytes(b"damaged")
    np.testing.assert_array_equal(recorded_pool(config_of(task, logs, tmp_path)).reward, second.reward)


def test_test_episodes_are_logged_but_not_for_a_run_that_is_tested_on_them(tmp_path):
    task = make_task()
    played = play(task.environment("test"), task.seeds("test"), task.baselines()["bba"], keep_observations=True)
    log_episodes(tmp_path / "decisions", task, played, "bba")
    with pytest.raises(UserError, match="column data: the decision was replayed on the test episodes of this very run"):
        recorded_pool(config_of(task, tmp_path / "decisions", tmp_path))
    other = make_task()
    other.data = replace(other.data, seed=4)
    pool = recorded_pool(config_of(other, tmp_path / "decisions", tmp_path))
    np.testing.assert_array_equal(pool.reward, played.reward)
    np.testing.assert_array_equal(pool.action, played.action)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experience=recorded"], "experience.folder is missing"),
        (
            ["experience=recorded", "experience.folder=logs", "experience.shares=[{policy: bba, episodes: 2}]"],
            "experience.folder and experience.shares",
        ),
        (["experience=recorded", "experience.folder=logs", "experience.best=0"], "experience.best=0"),
        (["experience=recorded", "experience.folder=logs", "experience.cut_off=drop"], "experience.cut_off='drop'"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        load_config(settings(*words))
