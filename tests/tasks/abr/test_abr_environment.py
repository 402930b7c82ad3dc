"""The vectorised environment: the simulator, many episodes at once."""

from dataclasses import replace

import numpy as np
import pytest

from edgenetllm.experience.rollout import play as roll_out
from edgenetllm.tasks.abr.data.synthetic import generate_video
from edgenetllm.tasks.abr.data.videos import Videos, generate_videos
from edgenetllm.tasks.abr.policies.mpc import Mpc
from edgenetllm.tasks.abr.simulator.core import play
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import BITRATES_MBPS, FORMS

DECISIONS = 47


@pytest.fixture(scope="module")
def videos():
    """Three tables, of which seeds draw the last two, or a video of their own."""
    return Videos(np.stack([generate_video(seed) for seed in range(3)]), drawn=(1, 2), generated=True)


def run(environment, seeds, actions):
    """Rewards (episodes, steps), records (episodes, steps) and last `done` of fixed actions (episodes, steps)."""
    environment.reset(seeds)
    rewards, records = [], []
    for step in range(actions.shape[1]):
        _, reward, done = environment.step(actions[:, step])
        rewards.append(reward)
        records.append(environment.record())
    return np.stack(rewards, 1), {name: np.stack([record[name] for record in records], 1) for name in records[0]}, done


@pytest.mark.parametrize("qoe", ["lin", "log", "hd"])
def test_equals_play(traces, video, qoe):
    environment = AbrEnvironment(traces, video, FORMS[qoe], random_start=False)
    seeds = np.arange(12)
    actions = np.random.default_rng(0).integers(0, 6, (12, DECISIONS))
    rewards, record, done = run(environment, seeds, actions)
    assert done.all()
    for seed in seeds:
        rows = slice(traces.offsets[seed], traces.offsets[seed + 1])
        levels = np.concatenate([[0], actions[seed]])
        chunks = play(traces.time_s[rows], traces.mbps[rows], video, levels, traces.starts[seed])
        np.testing.assert_array_equal(record["rebuffer_s"][seed], chunks.rebuffer_s[1:])
        np.testing.assert_array_equal(record["buffer_s"][seed], chunks.buffer_s[1:])
        np.testing.assert_array_equal(record["delay_s"][seed], chunks.delay_ms[1:] / 1000)
        expected = FORMS[qoe].reward(levels[1:], levels[:-1], chunks.rebuffer_s[1:])
        np.testing.assert_allclose(rewards[seed], expected, rtol=0, atol=1e-12)


def test_reward_is_the_formula_of_the_issue(environment):
    actions = np.random.default_rng(1).integers(0, 6, (12, DECISIONS))
    rewards, record, _ = run(environment, np.arange(12), actions)
    expected = record["bitrate_mbps"] - 4.3 * record["rebuffer_s"] - record["smoothness_mbps"]
    np.testing.assert_allclose(rewards, expected, atol=1e-12)


def test_observation_tells_what_a_player_knows(environment, video):
    seen = environment.reset(np.arange(5))
    assert (seen["last_quality"] == 0).all()
    assert (seen["chunk_index"] == 1).all()
    assert (seen["chunks_left"] == DECISIONS).all()
    np.testing.assert_allclose(seen["next_sizes_mb"], np.tile(video[:, 1] / 1e6, (5, 1)))
    np.testing.assert_allclose(seen["throughput_mbps"], video[0, 0] * 8 / 1e6 / seen["delay_s"])
    seen, _, _ = environment.step(np.full(5, 3))
    assert (seen["last_quality"] == 3).all()
    assert (seen["chunks_left"] == DECISIONS - 1).all()


def test_record_is_consistent(environment):
    actions = np.random.default_rng(2).integers(0, 6, (12, DECISIONS))
    _, record, _ = run(environment, np.arange(12), actions)
    np.testing.assert_array_equal(record["chunk_index"], np.tile(np.arange(1, 48), (12, 1)))
    np.testing.assert_array_equal(record["bitrate_mbps"], BITRATES_MBPS[actions])
    assert (np.diff(record["clock_s"]) >= record["delay_s"][:, 1:] - 1e-9).all()
    assert (record["bandwidth_mbps"] > record["throughput_mbps"]).all()  # headers and round trip cost something
    assert all(column.shape == actions.shape for column in record.values())


def test_an_episode_that_is_done_ignores_its_action(environment):
    run(environment, np.arange(3), np.zeros((3, DECISIONS), int))
    before = environment.record()
    seen, reward, done = environment.step(np.array([5, 5, 99]))
    assert done.all()
    assert (reward == 0).all()
    assert (seen["next_sizes_mb"] == 0).all()
    for name, value in environment.record().items():
        np.testing.assert_array_equal(value, before[name])


def test_clones_are_independent(training):
    training.reset(np.arange(8))
    for _ in range(5):
        training.step(np.full(8, 2))
    twin = training.clone()
    other = training.clone()
    first = [twin.step(np.full(8, 5))[1] for _ in range(4)]
    other.step(np.zeros(8, int))
    second = [training.step(np.full(8, 5))[1] for _ in range(4)]
    np.testing.assert_array_equal(first, second)


def test_a_seed_fixes_its_episode_whatever_is_played_with_it(training):
    seeds = np.array([3, -5, 2**40, 17])
    actions = np.random.default_rng(3).integers(0, 6, (4, DECISIONS))
    together, _, _ = run(training, seeds, actions)
    alone = np.concatenate([run(training, seeds[i : i + 1], actions[i : i + 1])[0] for i in range(4)])
    np.testing.assert_array_equal(together, alone)
    assert len(np.unique(together.sum(1))) == 4


def test_training_noise_scales_the_delay(traces, video):
    quiet = AbrEnvironment(traces, video, FORMS["lin"], random_start=True)
    noisy = AbrEnvironment(traces, video, FORMS["lin"], random_start=True, noise=True)
    seeds = np.arange(2000)
    ratio = noisy.reset(seeds)["delay_s"] / quiet.reset(seeds)["delay_s"]
    assert 0.9 <= ratio.min() < 0.91
    assert 1.09 < ratio.max() <= 1.1


def test_training_seeds_reach_every_trace_and_legal_rows(training, traces):
    training.reset(np.arange(3000))
    state = training.clone()._state
    assert set(state.first.tolist()) == set(traces.offsets[:-1].tolist())


@pytest.mark.parametrize("actions", [np.array([0, 6]), np.array([-1, 0]), np.array([0])])
def test_illegal_actions_are_refused(environment, actions):
    environment.reset(np.arange(2))
    with pytest.raises(ValueError, match="actions"):
        environment.step(actions)


def test_a_seed_beyond_the_traces_is_refused(environment):
    with pytest.raises(ValueError, match="trace indices"):
        environment.reset(np.array([12]))


def test_samples_are_legal(environment):
    environment.reset(np.zeros(1000, int))
    drawn = environment.sample(np.random.default_rng(0))
    assert set(drawn.tolist()) == set(range(6))


def alone(traces, table, seed, actions):
    """The slow and obvious way: one episode with its video as the only one; rewards (steps,) and chunk sizes seen."""
    environment = AbrEnvironment(traces, table, FORMS["lin"], random_start=True, noise=True)
    seen, rewards = [environment.reset(np.array([seed]))["next_sizes_mb"][0]], []
    for action in actions:
        observation, reward, _ = environment.step(np.array([action]))
        seen.append(observation["next_sizes_mb"][0])
        rewards.append(reward[0])
    return np.array(rewards), np.array(seen)


def test_an_episode_of_a_mixed_batch_is_the_same_episode_alone_with_its_video(traces, videos):
    environment = AbrEnvironment(traces, videos, FORMS["lin"], random_start=True, noise=True)
    seeds = np.arange(40, 70)
    actions = np.random.default_rng(4).integers(0, 6, (30, DECISIONS))
    numbers = environment.reset(seeds)["video"]
    kinds = np.minimum(numbers, 3)
    assert set(kinds.tolist()) == {1, 2, 3}  # table 0 is not drawn
    assert len(set(numbers[kinds == 3].tolist())) == (kinds == 3).sum() > 5  # every generated video is another one
    seen, rewards = [environment.observe()["next_sizes_mb"]], []
    for step in range(DECISIONS):
        observation, reward, _ = environment.step(actions[:, step])
        assert (observation["video"] == numbers).all()
        seen.append(observation["next_sizes_mb"])
        rewards.append(reward)
    for episode, (seed, number) in enumerate(zip(seeds, numbers, strict=True)):
        table = videos.tables[number] if number < 3 else generate_videos(np.array([number - 3]))[0]
        expected, sizes = alone(traces, table, seed, actions[episode])
        np.testing.assert_array_equal(np.array(rewards)[:, episode], expected)
        np.testing.assert_array_equal(np.array(seen)[:, episode], sizes)
    again = AbrEnvironment(traces, videos, FORMS["lin"], random_start=True).reset(seeds[::-1])["video"]
    np.testing.assert_array_equal(again[::-1], numbers)  # of the seed alone


def test_clones_keep_their_videos(traces, videos):
    environment = AbrEnvironment(traces, videos, FORMS["lin"], random_start=True, noise=True)
    environment.reset(np.arange(9))
    rng = np.random.default_rng(5)
    taken = []
    for number in range(3):
        taken.append(environment.clone(np.array([number, 8, 3])))
        environment.step(environment.sample(rng))
    together = AbrEnvironment.together(taken)
    for key in ("video", "next_sizes_mb"):
        expected = np.concatenate([part.observe()[key] for part in taken])
        np.testing.assert_array_equal(together.observe()[key], expected)
    actions = rng.integers(0, 6, (5, 9))
    parts = [[part.step(row[3 * i : 3 * i + 3])[1] for row in actions] for i, part in enumerate(taken)]
    np.testing.assert_array_equal([together.step(row)[1] for row in actions], np.concatenate(parts, axis=1))
    other = environment.clone()
    other.reset(np.arange(9, 12))
    with pytest.raises(ValueError, match="different resets"):
        AbrEnvironment.together([environment, other])


def test_mpc_looks_ahead_in_the_video_of_each_episode(traces, videos):
    """As the teacher of a mixed batch: its plans are those of a planner that knows one video only."""
    environment = AbrEnvironment(traces, videos, FORMS["lin"], random_start=True, noise=True)
    seeds = np.arange(12)
    numbers = environment.reset(seeds)["video"]
    mixed = roll_out(environment, seeds, Mpc("mpc", videos, FORMS["lin"]), keep_observations=True)
    tables, table = videos.look_up(numbers)
    for episode, seed in enumerate(seeds):
        own = AbrEnvironment(traces, tables[table[episode]], FORMS["lin"], random_start=True, noise=True)
        single = Mpc("mpc", tables[table[episode]], FORMS["lin"])
        expected = roll_out(own, np.array([seed]), single, keep_observations=True)
        np.testing.assert_array_equal(mixed.action[episode], expected.action[0])
        np.testing.assert_array_equal(mixed.target[episode], expected.target[0])
    blind = roll_out(environment, seeds, Mpc("mpc", replace(videos, tables=videos.tables[[0, 0, 0]]), FORMS["lin"]))
    fixed = numbers < 3
    assert fixed.any()
    assert (blind.action[fixed] != mixed.action[fixed]).any()  # so the video matters


def test_generated_videos_are_like_the_public_ones():
    sizes = generate_videos(np.arange(500))
    np.testing.assert_array_equal(sizes[[7, 300]], generate_videos(np.array([7, 300])))
    assert (np.diff(sizes, axis=1) > 0).all()  # a higher level is larger
    factor = np.log(sizes / (BITRATES_MBPS * 5e5)[:, None])
    scale = np.exp(factor.mean((1, 2)))
    assert 0.85 < scale.min() < 1.0 < 1.2 < scale.max() < 1.4  # video1 has 1.00, video2 1.18
    change = factor - factor.mean(2, keepdims=True)
    shared = change.mean(1).std(1)
    assert np.quantile(shared, 0.2) < 0.077 < 0.096 < np.quantile(shared, 0.8)  # of video1 and of video2
    assert 0.8 < np.mean([np.corrcoef(one)[2, 4] for one in factor]) < 0.95  # 0.89 and 0.93
