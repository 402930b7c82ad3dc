"""Recorded data as an environment: a question is one decision, only `truth` sees labels, forecasts follow each other."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_series import series, viewers, write_wave

from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.common.truth import Truth
from edgenetllm.tasks.supervised.angles import difference
from edgenetllm.tasks.supervised.simulator.recorded import Recorded
from edgenetllm.tasks.task import LabelledEnvironment


def right_or_wrong(given, right):
    return (given == right).astype(np.float64), {"right": given == right}


def classes() -> Recorded:
    rng = np.random.default_rng(0)
    return Recorded({"x": rng.normal(size=(7, 2))}, rng.integers(0, 3, 7), right_or_wrong, choices=3)


def test_a_question_is_an_episode_of_one_decision_and_truth_knows_the_answer():
    environment = classes()
    assert isinstance(environment, LabelledEnvironment)
    played = play(environment, np.array([3, 0, 6]), Truth(), keep_observations=True)
    assert played.reward.tolist() == [[1.0], [1.0], [1.0]]
    assert played.target.tolist() == np.eye(3)[environment.right[[3, 0, 6]]][:, None].tolist()
    assert set(played.observation) == {"x"}  # the answers are in no observation
    _, reward, done = environment.step(environment.right[[3, 0, 6]])
    assert reward.tolist() == [0, 0, 0]
    assert done.all()


def test_truth_is_refused_without_answers_and_outside_of_a_roll_out():
    from toy_room import Room

    with pytest.raises(UserError, match="no answers"):
        play(Room(), np.arange(2), Truth())
    with pytest.raises(UserError, match="does not hold the answers"):
        Truth().act({"x": np.zeros(1)})


def test_the_pool_has_the_right_answers_of_any_policy(tmp_path):
    task = viewers(tmp_path)
    pool = collect(task, [PoolEntry("truth", None), PoolEntry("still", 5)], 0, tmp_path / "pools", workers=1)
    questions = task.training_set
    assert len(pool.valid) == questions + 5
    environment = task.environment("train")
    answers = {row.tobytes() for row in environment.right.astype(np.float32)}
    assert {row.tobytes() for row in pool.target[:questions, 0, :-1].reshape(-1, 20, 3)} == answers  # each exactly once
    np.testing.assert_array_equal(
        pool.action[:questions, 0].astype(np.float32), pool.target[:questions, 0, :-1].reshape(-1, 20, 3)
    )
    assert (pool.action[questions:] == pool.action[questions:, :, :1]).all()  # still: the same row again and again
    assert {row.tobytes() for row in pool.target[questions:, 0, :-1].reshape(-1, 20, 3)} <= answers
    assert (pool.target[..., -1] == 1).all()
    few = collect(task, [PoolEntry("truth", 4)], 0, tmp_path / "pools", workers=1)
    assert len({row.tobytes() for row in few.observation["history"]}) == 4


def test_a_task_without_an_end_needs_a_number_of_episodes(tmp_path):
    from toy_room import RoomTask

    with pytest.raises(UserError, match="give a number"):
        collect(RoomTask(), [PoolEntry("teacher", None)], 0, tmp_path, workers=1)


def test_an_answer_is_one_decision_and_the_reward_is_minus_its_error(tmp_path):
    task = viewers(tmp_path)
    seeds = task.seeds("test")
    played = play(task.environment("test"), seeds, task.baselines()["still"])
    assert played.action.shape == (len(seeds), 1, 20, 3)
    figures = task.summarise(played.record, played.reward, played.valid)
    np.testing.assert_allclose(figures["error_deg"], -played.reward[:, 0])
    truth = play(task.environment("test"), seeds, Truth())
    assert task.summarise(truth.record, truth.reward, truth.valid)["error_deg"].max() == 0


def test_a_longer_horizon_goes_on_from_the_own_answers(tmp_path):
    """By hand: the second answer of `velocity` starts from the history whose end is its first."""
    task = viewers(tmp_path, horizon=30)
    assert task.max_steps == 2
    velocity, environment = task.baselines()["velocity"], task.environment("test")
    seeds = task.seeds("test")[:4]
    first = environment.reset(seeds)["history"]
    one = velocity.act({"history": first})
    second = environment.step(one)[0]["history"]
    np.testing.assert_array_equal(second, one[:, -10:])
    played = play(task.environment("test"), seeds, velocity)
    np.testing.assert_array_equal(played.action[:, 1], velocity.act({"history": second}))
    # Of the second answer, the first ten rows count, and the mean is over thirty.
    assert played.record["rows"].tolist() == [[20, 10]] * 4
    assert not played.record["error"][:, 1, 10:].any()
    figures = task.summarise(played.record, played.reward, played.valid)
    np.testing.assert_allclose(figures["error_deg"], -played.reward.sum(1))
    truth = play(task.environment("test"), seeds, Truth())
    assert not truth.record["error"].any()


def test_teacher_forcing_feeds_true_answers_with_noise(tmp_path):
    task = viewers(tmp_path, answer_rows=5, noise=0.1)
    assert task.max_steps == 4
    environment = task.environment("train")
    seeds = np.arange(200) % task.training_set
    environment.reset(seeds)
    right = environment.answers()
    noisy = environment.step(right)[0]["history"][:, -5:]
    spread = np.abs(difference(noisy, right, environment.answer_periods))
    change = task._statistics.change.mean(0)
    assert (spread.mean((0, 1)) / (0.1 * change) > 0.4).all()
    assert (spread.mean((0, 1)) / (0.1 * change) < 1.2).all()
    again = task.environment("train")
    again.reset(seeds)
    np.testing.assert_array_equal(again.step(right)[0]["history"][:, -5:], noisy)  # a function of the seed
    test = task.environment("test")
    test.reset(np.arange(3))
    np.testing.assert_array_equal(test.step(test.answers())[0]["history"][:, -5:], test.right[:3, :5])


def test_inputs_that_are_not_said_stay_as_they_were(tmp_path):
    task = series(write_wave(tmp_path / "wave.csv"), answer_rows=2)
    environment = task.environment("test")
    first = environment.reset(np.arange(3))["history"]
    second = environment.step(np.full((3, 2, 1), 7.0))[0]["history"]
    assert (second[:, -2:, 0] == 7.0).all()
    assert (second[:, -2:, 1] == first[:, -1:, 1]).all()


def test_a_longer_history_is_for_those_that_can_read_it(tmp_path):
    observation = viewers(tmp_path, history=20).environment("test").reset(np.arange(2))
    assert observation["history"].shape == (2, 10, 3)
    np.testing.assert_array_equal(observation["long_history"][:, -10:], observation["history"])
