"""Other ladders, chunk lengths, numbers of chunks and QoE weights: everything that decides and counts follows them."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import ARCHITECTURES, make_policy

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play as roll_out
from edgenetllm.models.session import Session
from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.data.ladder import PUBLIC, Ladder
from edgenetllm.tasks.abr.data.synthetic import generate, generate_video
from edgenetllm.tasks.abr.data.traces import join
from edgenetllm.tasks.abr.data.videos import Videos
from edgenetllm.tasks.abr.expert.counterfactual import CounterfactualSearch
from edgenetllm.tasks.abr.policies.mpc import HORIZON, Mpc
from edgenetllm.tasks.abr.policies.optimum import FIRST_LEVEL, SLACK, solve
from edgenetllm.tasks.abr.simulator.core import play
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.gym import AbrGym
from edgenetllm.tasks.abr.simulator.qoe import FORMS, qoe_of
from edgenetllm.tasks.abr.task import AbrTask

LADDERS = [
    Ladder((400.0, 2500.0), 1.5),
    Ladder((250.5, 700.0, 1500.0, 4000.0), 6.0),
    Ladder(tuple(range(300, 3000, 300)), 2.0),
]


@pytest.fixture
def make(tmp_path):
    def make(ladder: Ladder = LADDERS[1], chunks: int | None = 20, **options: object) -> AbrTask:
        video = {"bitrates_kbps": list(ladder.bitrates_kbps), "chunk_s": ladder.chunk_s, "chunks": chunks}
        data = Synthetic(name="synthetic", seed=0, seconds=320, train=20, val=4, test=6, **video)
        typed = {"qoe": "lin", "tokens": "fused", "noise": True, "temperature": 0.1, **options}
        return AbrTask(name="abr", data=data, data_dir=tmp_path, **typed)

    return make


@st.composite
def sessions(draw):
    """Any short trace that carries data, a video of any number of levels, chunks of any length."""
    rows, chunks, levels = draw(st.integers(2, 12)), draw(st.integers(1, 30)), draw(st.integers(1, 9))
    gaps = draw(st.lists(st.floats(0.1, 20), min_size=rows, max_size=rows))
    rate = st.one_of(st.just(0.0), st.floats(0.05, 60))
    mbps = draw(st.lists(rate, min_size=rows, max_size=rows).filter(lambda values: max(values[1:]) > 0))
    size = st.integers(10_000, 3_000_000)
    sizes = draw(st.lists(st.lists(size, min_size=chunks, max_size=chunks), min_size=levels, max_size=levels))
    actions = draw(st.lists(st.integers(0, levels - 1), min_size=chunks, max_size=chunks))
    time_s = np.concatenate([[0.0], np.cumsum(gaps[1:])])
    chunk_s = draw(st.sampled_from([0.5, 1.0, 2.002, 4.0, 6.0, 10.0, 20.0]))
    return time_s, np.array(mbps), np.array(sizes), np.array(actions), draw(st.integers(1, rows - 1)), chunk_s


@given(sessions())
@settings(max_examples=150, deadline=None)
def test_the_simulator_equals_the_oracle(session):
    time_s, mbps, sizes, actions, start, chunk_s = session
    expected = oracle.play(time_s.tolist(), mbps.tolist(), sizes.tolist(), actions.tolist(), start, chunk_s)
    np.testing.assert_allclose(np.column_stack(play(*session)), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("ladder", LADDERS)
def test_the_environment_plays_rewards_and_records_as_the_oracle(ladder):
    traces = join(generate(8, 320, seed=7), np.arange(1, 9))
    sizes = generate_video(3, 30, ladder)
    form = qoe_of("lin", ladder, 6.5, 0.25)
    environment = AbrEnvironment(traces, Videos(sizes[None], ladder=ladder), form, random_start=False)
    rng, actions, rewards, records = np.random.default_rng(0), [np.zeros(8, int)], [], []
    environment.reset(np.arange(8))
    done = np.zeros(8, bool)
    while not done.all():
        actions.append(environment.sample(rng))
        _, reward, done = environment.step(actions[-1])
        rewards.append(reward)
        records.append(environment.record())
    assert {level for chosen in actions[1:] for level in chosen.tolist()} == set(range(ladder.levels))
    mbps = np.array(ladder.bitrates_kbps) / 1000
    for episode, (begin, end) in enumerate(itertools.pairwise(traces.offsets)):
        chosen = np.array(actions)[:, episode]
        trace = [column[begin:end].tolist() for column in (traces.time_s, traces.mbps)]
        rows = oracle.play(*trace, sizes.tolist(), chosen.tolist(), traces.starts[episode], ladder.chunk_s)
        rebuffer = np.array(rows)[1:, 3]
        expected = mbps[chosen[1:]] - 6.5 * rebuffer - 0.25 * np.abs(np.diff(mbps[chosen]))
        np.testing.assert_allclose(np.array(rewards)[:, episode], expected, atol=1e-9)
        np.testing.assert_array_equal([record["bitrate_mbps"][episode] for record in records], mbps[chosen[1:]])
        np.testing.assert_allclose([r["buffer_s"][episode] for r in records], np.array(rows)[1:, 2], atol=1e-9)


@pytest.mark.parametrize("ladder", LADDERS)
def test_mpc_finds_the_best_plan(ladder):
    """Its values against every plan of its horizon, one by one."""
    sizes, form = generate_video(1, 8, ladder), qoe_of("log", ladder, 3.0, 2.0)
    policy = Mpc("mpc", Videos(sizes[None], ladder=ladder), form)
    assert policy.horizon == (HORIZON if ladder.levels <= 8 else 4)
    chunk, last, buffer_s, mbps = 2, 1, 5.0, 1.7
    policy.start(1)
    observation = {
        "throughput_mbps": [mbps],
        "video": [0],
        "chunk_index": [chunk],
        "last_quality": [last],
        "buffer_s": [buffer_s],
    }
    action = policy.act({name: np.array(value) for name, value in observation.items()})
    best = np.full(ladder.levels, -np.inf)
    for plan in itertools.product(range(ladder.levels), repeat=policy.horizon):
        buffer, before, value = buffer_s, last, 0.0
        for step, level in enumerate(plan):
            download = sizes[level, chunk + step] * 8 / 1e6 / mbps
            change = abs(form.quality[level] - form.quality[before])
            value += form.quality[level] - 3.0 * max(download - buffer, 0) - 2.0 * change
            buffer, before = max(buffer - download, 0) + ladder.chunk_s, level
        best[plan[0]] = max(best[plan[0]], value)
    np.testing.assert_allclose(policy.values[0], best, rtol=1e-9)
    assert action[0] == best.argmax()
    assert policy.targets({}).shape == (1, ladder.levels)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rebuffer", "switch"), [(4.3, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_the_optimum_is_that_of_every_plan(seed, rebuffer, switch):
    ladder = LADDERS[1]
    rng = np.random.default_rng(seed)
    time_s, mbps = np.cumsum(rng.uniform(0.2, 3, 60)), rng.gamma(0.7, 2, 60)
    sizes, form = generate_video(seed, 7, ladder), qoe_of("lin", ladder, rebuffer, switch)

    def earned(actions):
        rows = oracle.play(time_s.tolist(), mbps.tolist(), sizes.tolist(), actions, 3, ladder.chunk_s)
        chosen = np.array(actions)
        return float(form.reward(chosen[1:], chosen[:-1], np.array(rows)[1:, 3]).mean())

    found = solve(time_s, mbps, sizes, 3, form, ladder.chunk_s)
    best = max(earned([FIRST_LEVEL, *plan]) for plan in itertools.product(range(ladder.levels), repeat=6))
    assert best - SLACK <= found.mean_reward <= best + 1e-9
    assert found.upper_bound >= best - 1e-9
    assert found.mean_reward == pytest.approx(earned(found.actions.tolist()))


@pytest.mark.parametrize("ladder", LADDERS)
def test_every_baseline_plays_and_none_exceeds_the_optimum(make, ladder):
    task = make(ladder)
    assert task.max_steps == 19
    baselines = task.baselines()
    assert not any(name.startswith("pensieve") for name in baselines)
    assert any("no row of Pensieve" in note for note in task.notes())
    bound = task.bounds("test")["optimum"]["qoe"]
    for policy in baselines.values():
        episodes = roll_out(task.environment("test"), task.seeds("test"), policy)
        assert episodes.reward.shape == (6, 19)
        assert episodes.action.max() < ladder.levels
        qoe = task.summarise(episodes.record, episodes.reward, episodes.valid)["qoe"]
        assert (qoe <= bound + SLACK).all()
    highest = max(
        episodes.action.max() for episodes in [roll_out(task.environment("test"), task.seeds("test"), baselines["bba"])]
    )
    assert highest == ladder.levels - 1


@pytest.mark.parametrize("tokens", ["fused", "per_feature"])
@pytest.mark.parametrize("features", ["raw", "plain"])
def test_a_model_decides_among_all_levels(make, tokens, features):
    task = make(LADDERS[2], chunks=12, tokens=tokens, features=features)
    policy = make_policy(task, ARCHITECTURES["llama"])
    episodes = roll_out(
        task.environment("test"), task.seeds("test"), Session(policy, 20.0, "test", 3), keep_observations=True
    )
    assert episodes.action.shape == (6, 11)
    assert policy.head.linear.out_features == policy.encoder.actions.num_embeddings == 9
    hidden, target, mask = torch.randn(1, 2, 32), torch.zeros(1, 2, 9), torch.ones(1, 2, dtype=torch.bool)
    target[..., 8] = 1
    taken, other = torch.tensor([[8, 8]]), torch.tensor([[0, 0]])
    assert policy.head.loss(hidden, {}, taken, None, mask) == policy.head.loss(hidden, {}, other, target, mask)


def test_a_small_policy_is_searched_for_and_stored_with_its_levels(make, tmp_path):
    task = make(LADDERS[0], chunks=8)
    options = CounterfactualSearch(
        members=1, clone_episodes=8, clone_epochs=1, iterations=2, episodes=4, horizon=3, updates=2, validate_every=1
    )
    policy, curve = options.search(task, 1, tmp_path / "part", progress=False)
    observation = task.environment("val").reset(task.seeds("val"))
    assert policy.targets(observation).shape == (4, 2)
    assert options.load(policy.state_dict()).identity() == policy.identity()
    assert len(curve) == 4
    again, _ = options.search(task, 1, tmp_path / "part", progress=False)
    assert again.identity() == policy.identity()


def test_the_gymnasium_view_has_the_ladder(make):
    view = AbrGym(make(LADDERS[2]).environment("test"))
    observation, _ = view.reset(seed=1)
    assert view.action_space.n == 9
    assert observation.shape == view.observation_space.shape == (14,)
    view.step(np.int64(8))


def test_what_differs_is_in_the_identity_and_said(make):
    plain = make(PUBLIC, chunks=None)
    assert plain.notes() == []
    assert "48 chunks" not in plain.describe_data()[0]
    same = make(PUBLIC, chunks=48, rebuffer_penalty=4.3, switch_penalty=1.0)
    assert same.data_hash() == plain.data_hash()
    others = [
        make(PUBLIC, chunks=47), make(Ladder((300, 750, 1200, 1850, 2850, 4301), 4.0), chunks=None), make(LADDERS[0]),
        make(PUBLIC, chunks=None, rebuffer_penalty=4.0), make(PUBLIC, chunks=None, switch_penalty=0.0),
    ]  # fmt: skip
    assert len({task.data_hash() for task in [plain, *others]}) == 6
    assert all(task.notes() for task in others)
    assert "takes off 4 for a second of stalling and 1 times" in others[3].notes()[0]
    assert "20 chunks: 400, 2500 kbps, chunks of 1.5 s" in others[2].describe_data()[0]
    # a plan depends on all of it, too
    assert len({task.baselines()["robustmpc"].identity() for task in [plain, *others]}) == 6


def test_a_form_that_does_not_fit_the_ladder_is_refused(make):
    with pytest.raises(UserError, match=r"task\.qoe=hd is a table of the public bitrates"):
        make(LADDERS[0], qoe="hd")
    with pytest.raises(UserError, match=r"task\.train_videos=\['generated'\] have .* type task\.train_videos=\[\]"):
        make(PUBLIC, chunks=40, train_videos=["generated"])
    assert make(PUBLIC, chunks=None, train_videos=["generated"], qoe="hd").max_steps == 47


def test_the_weights_of_a_form_are_those_of_the_paper_until_typed():
    assert [(f.rebuffer_penalty, f.switch_penalty) for f in FORMS.values()] == [(4.3, 1), (2.66, 1), (8, 1)]
    typed = qoe_of("log", PUBLIC, switch_penalty=0.5)
    assert (typed.rebuffer_penalty, typed.switch_penalty) == (2.66, 0.5)
    level, last, stall = np.array([5, 0]), np.array([0, 0]), np.array([1.0, 2.0])
    np.testing.assert_allclose(
        dataclasses.replace(typed, rebuffer_penalty=0).reward(level, last, stall), [np.log(43 / 3) / 2, 0]
    )


@pytest.mark.parametrize("rates", [(300,), (300, 300), (750, 300), (0, 300), (300, float("inf")), (float("nan"), 300)])
def test_a_ladder_ascends(rates):
    with pytest.raises(ValueError, match="bitrates_kbps"):
        Ladder(rates, 4.0)
