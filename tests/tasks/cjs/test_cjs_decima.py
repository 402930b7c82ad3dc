"""Decima: decisions of a batch are independent, names of stages and jobs do not matter, and the shipped weights schedule."""

import numpy as np
import pytest
import torch
import train_decima as training
from torch import nn

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.columns import JOB, LEVEL, RECENT, REMAINING, SCHEDULABLE
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.policies.baselines import Random
from edgenetllm.tasks.cjs.policies.decima import (
    EMBEDDING_WIDTH,
    Decima,
    DecimaNet,
    Decisions,
    build_graph,
    chosen_job,
    decide,
    draw,
)
from edgenetllm.tasks.cjs.simulator.environment import CjsEnvironment
from edgenetllm.tasks.cjs.simulator.profiles import tabulate
from edgenetllm.tasks.task import Policy

DATA = SyntheticDags(name="synthetic_dags", setting="small", seed=0, jobs=5)
TABLES = tabulate(DATA.profiles())
SEEDS = np.arange(1_000_000, 1_000_003)


def environment():
    cluster = DATA.cluster()
    return CjsEnvironment(lambda seed: cluster.mix.draw(seed, DATA), TABLES, cluster.rules)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return DecimaNet().eval()


@pytest.fixture(scope="module")
def decisions():
    """Every seventh decision of three random episodes."""
    env, policy, found, done, step = environment(), Random(1), [], np.zeros(len(SEEDS), bool), 0
    observation = env.reset(SEEDS)
    policy.start(len(SEEDS))
    while not done.all():
        if step % 7 == 0:
            found.append(Decisions.of(observation, np.flatnonzero(~done)))
        observation, _, done = env.step(policy.act(observation))
        step += 1
    return Decisions.join(found)


def scores(net, decisions):
    """Logits of the stages (D, n), and of the executors (D, n) for the first stage of the list."""
    graph = build_graph(decisions)
    with torch.no_grad():
        embeddings = net.embed(graph)
        first = chosen_job(graph, torch.zeros(len(decisions.counts), dtype=torch.int64))
        return net.stage_logits(graph, embeddings), net.executor_logits(graph, embeddings, first)


def assert_same_scores(left, right):
    """Up to how far the rows are padded."""
    for a, b in zip(left, right, strict=True):
        for row, other in zip(a, b, strict=True):
            torch.testing.assert_close(row[row.isfinite()], other[other.isfinite()], rtol=1e-4, atol=1e-5)


def test_batched_equals_one_by_one(net, decisions):
    assert len(decisions.counts) > 30
    single = [scores(net, decisions.take(np.array([n]))) for n in range(len(decisions.counts))]
    together = scores(net, decisions)
    assert_same_scores(together, ([stage[0] for stage, _ in single], [executors[0] for _, executors in single]))


def test_take_reorders(net, decisions):
    order = np.random.default_rng(0).permutation(len(decisions.counts))
    stages, executors = scores(net, decisions)
    assert_same_scores(scores(net, decisions.take(order)), (stages[order], executors[order]))


def plain_scores(net, decisions):
    """Section 5 of the paper, for one decision, stage by stage: logits of the schedulable stages, and of the executors of
    the first one's job."""
    stages, (left, source, cluster) = decisions.stages, decisions.heads[0]
    is_source = np.arange(len(decisions.supply)) == source
    caps = [
        int(left if at else np.clip(cluster - s, 0, left)) for at, s in zip(is_source, decisions.supply, strict=True)
    ]
    x = torch.tensor(
        [
            [
                caps[int(row[JOB])] / cluster,
                1.0 if row[JOB] == source else -1.0,
                decisions.supply[int(row[JOB])] / cluster,
                row[REMAINING] / 200,
                row[REMAINING] * row[RECENT] / 1e5,
            ]
            for row in stages
        ],
        dtype=torch.float32,
    )
    prepared, embedding = net.prepare(x), {}
    for n in np.argsort(stages[:, LEVEL], kind="stable"):
        children = [child for parent, child in decisions.edges if parent == n]
        if not len(decisions.edges):
            embedding[n] = prepared[n]
        elif not children:
            embedding[n] = net.update(prepared[n])
        else:
            embedding[n] = prepared[n] + net.update(sum(net.message(embedding[child]) for child in children))
    jobs = [
        sum(net.to_job(torch.cat([x[n], embedding[n]])) for n in np.flatnonzero(stages[:, JOB] == j))
        for j in range(len(caps))
    ]
    everything = sum(net.to_cluster(job) for job in jobs)
    chosen = np.flatnonzero(stages[:, SCHEDULABLE])
    logits = [net.stage_score(torch.cat([x[n], embedding[n], jobs[int(stages[n, JOB])], everything])) for n in chosen]
    job = int(stages[chosen[0], JOB])
    own = x[chosen[0], :3]
    counts = [
        net.executor_score(torch.cat([own, jobs[job], everything, torch.tensor([k / cluster], dtype=torch.float32)]))
        for k in range(caps[job])
    ]
    return torch.cat(logits)[None], torch.cat(counts)[None]


def test_agrees_with_the_formulas_written_plainly(net, decisions):
    for n in range(0, len(decisions.counts), 5):
        one = decisions.take(np.array([n]))
        with torch.no_grad():
            assert_same_scores(scores(net, one), plain_scores(net, one))


def renamed(decisions, rng):
    """One decision with its jobs and its stages in another order; returns also the old row of each new one."""
    stages, jobs = len(decisions.stages), len(decisions.supply)
    old_job, old_stage = rng.permutation(jobs), rng.permutation(stages)
    new_job, new_stage = np.argsort(old_job), np.argsort(old_stage)
    rows = decisions.stages[old_stage].copy()
    rows[:, JOB] = new_job[rows[:, JOB].astype(int)]
    heads = decisions.heads.copy()
    if heads[0, 1] >= 0:
        heads[0, 1] = new_job[heads[0, 1]]
    edges = new_stage[decisions.edges][rng.permutation(len(decisions.edges))].astype(np.int32)
    return Decisions(rows, decisions.supply[old_job], edges.reshape(-1, 2), decisions.counts, heads), old_stage


def test_names_of_stages_and_jobs_do_not_matter(net, decisions):
    rng = np.random.default_rng(0)
    for n in range(0, len(decisions.counts), 5):
        one = decisions.take(np.array([n]))
        other, old_stage = renamed(one, rng)
        before, _ = scores(net, one)
        after, _ = scores(net, other)
        listed = np.flatnonzero(one.stages[:, SCHEDULABLE])
        now_listed = old_stage[np.flatnonzero(other.stages[:, SCHEDULABLE])]
        place = torch.from_numpy(np.searchsorted(listed, now_listed))
        torch.testing.assert_close(after[0], before[0][place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sample_seed", [0, None])
def test_actions_are_legal_and_repeatable(net, sample_seed):
    policy, played = Decima(net, sample_seed), []
    assert isinstance(policy, Policy)
    for _ in range(2):
        env, actions, done = environment(), [], np.zeros(len(SEEDS), bool)
        observation = env.reset(SEEDS)
        policy.start(len(SEEDS))
        while not done.all():
            actions.append(policy.act(observation))
            assert (policy.targets(observation)[:, :2] == actions[-1]).all()
            assert (actions[-1][done] == (-1, 0)).all()
            assert (actions[-1][~done, 1] <= observation["committable"][~done]).all()
            observation, _, done = env.step(actions[-1])  # raises for an illegal action
        assert (policy.act(observation) == (-1, 0)).all()
        played.append(np.array(actions))
    np.testing.assert_array_equal(*played)


def test_never_more_executors_than_the_cap(net, decisions):
    graph = build_graph(decisions)
    nearly_one = torch.full((len(decisions.counts), 2), 1 - 1e-16, dtype=torch.float64)
    for uniforms in (nearly_one, torch.zeros_like(nearly_one)):
        with torch.no_grad():
            actions, chance = decide(net, graph, uniforms)
        assert (actions[:, 0] >= 0).all()
        assert (actions[:, 0] < (graph.slot >= 0).sum(1)).all()
        assert (actions[:, 1] >= 1).all()
        assert (actions[:, 1] <= graph.caps[chosen_job(graph, actions[:, 0])]).all()
        assert chance.isfinite().all()


def test_draws_with_the_probabilities_of_the_logits():
    logits = torch.tensor([[0.0, 1.0, float("-inf")], [2.0, 0.0, 1.0]])
    uniforms = (torch.arange(3000) + 0.5) / 3000
    for row in logits:
        drawn = draw(row.expand(3000, 3), uniforms.double())
        torch.testing.assert_close(drawn.bincount(minlength=3) / 3000, row.softmax(0), atol=1e-3, rtol=0)
        assert draw(row[None], None).item() == row.argmax().item()


def test_architecture_is_that_of_netllm():
    """Sizes of `config/decima_tpch.yaml`, and biases that start at zero."""
    net = DecimaNet()
    widths = {
        name: [layer.in_features for layer in part if isinstance(layer, nn.Linear)]
        for name, part in net.named_children()
    }
    assert widths == {
        "prepare": [5, 32, 16],
        "message": [16, 32, 16],
        "update": [16, 32, 16],
        "to_job": [21, 32, 16],
        "to_cluster": [16, 32, 16],
        "stage_score": [5 + 3 * EMBEDDING_WIDTH, 64, 64],
        "executor_score": [3 + 2 * EMBEDDING_WIDTH + 1, 64, 64],
    }
    assert all(not layer.bias.any() for layer in net.modules() if isinstance(layer, nn.Linear))


def test_shipped_weights_beat_random():
    seeds = np.arange(1_000_000, 1_000_008)
    random = training.mean_jct_s(Random(), DATA, TABLES, seeds)
    decima = training.mean_jct_s(Decima.load(), DATA, TABLES, seeds)
    assert decima.mean() < 0.8 * random.mean()


def test_foreign_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no\.safetensors"):
        Decima.load(tmp_path / "no.safetensors")


def test_returns_are_discounted_in_time():
    """A cost of 3 jobs for 2 s, nothing for 1 s, then 1 job for 1 s; the integral of exp(-t), by hand."""
    rewards = np.array([[-6.0], [0.0], [-1.0]])
    times = np.array([[0.0], [2.0], [3.0], [4.0]])
    wanted = [-3 * (1 - np.exp(-2)) - (np.exp(-3) - np.exp(-4)), -(np.exp(-1) - np.exp(-2)), -(1 - np.exp(-1))]
    wanted = np.array(wanted).reshape(3, 1)
    np.testing.assert_allclose(training.discounted_returns(rewards, times[[0, 1, 2, 3]], 1.0), wanted)
    undiscounted = training.discounted_returns(rewards, times, 0.0)
    np.testing.assert_allclose(undiscounted[:, 0], [-7, -1, -1])


def test_baseline_is_the_mean_of_the_group_at_the_same_time():
    times = np.array([[0.0, 0.0, 5.0, 5.0], [2.0, 4.0, 6.0, 6.0], [4.0, 4.0, 7.0, 7.0]])
    returns = np.array([[-4.0, -8.0, 1.0, 1.0], [-2.0, 0.0, 1.0, 1.0]])
    alive = np.array([[True, True, True, True], [True, False, True, True]])
    found = training.advantages(returns, times, alive, rollouts=2)
    np.testing.assert_allclose(found, [[2.0, -2.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])


def test_training_learns_the_probability_of_what_it_did(net, decisions):
    """Log probabilities that PPO recomputes are those of the policy that acted."""
    graph = build_graph(decisions)
    uniforms = torch.rand(len(decisions.counts), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        actions, chance = decide(net, graph, uniforms)
        again, entropy = training.evaluate(net, decisions, actions)
    torch.testing.assert_close(again, chance)
    assert entropy.isfinite().all()
    assert (entropy >= 0).all()


def test_checkpoint_restores_net_and_optimizer(tmp_path):
    torch.manual_seed(0)
    nets, optimizers = [], []
    for _ in range(2):
        net = DecimaNet()
        nets.append(net)
        optimizers.append(torch.optim.Adam(net.parameters()))
    sum(parameter.square().sum() for parameter in nets[0].parameters()).backward()
    optimizers[0].step()
    path = tmp_path / "point.safetensors"
    training.Checkpoint.of(nets[0], optimizers[0], {"iteration": 3, "best": 0.5}).save(path)
    saved = training.Checkpoint.read(path)
    saved.restore(nets[1], optimizers[1])
    assert saved.facts == {"iteration": 3, "best": 0.5}
    for net, optimizer in zip(nets, optimizers, strict=True):
        optimizer.zero_grad()
        sum(parameter.square().sum() for parameter in net.parameters()).backward()
        optimizer.step()
    for left, right in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_an_iteration_is_repeatable_and_prefers_what_went_well():
    """The chance of actions with a positive advantage grows, that of others falls; twice the same."""
    recipe, learnt = training.Recipe(rollouts=2, minibatches=4, epochs=4, learning_rate=1e-3), []
    for _ in range(2):
        torch.manual_seed(0)
        net = DecimaNet()
        optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate)
        generator = torch.Generator().manual_seed(0)
        env = training.training_environment(DATA, TABLES)
        batch = training.collect(net, env, SEEDS[:2], recipe, generator)
        training.update_policy(net, optimizer, batch, recipe, entropy=0.0, rng=np.random.default_rng(0))
        with torch.no_grad():
            chance, _ = training.evaluate(net, batch.decisions, torch.from_numpy(batch.actions))
        gain = (chance - torch.from_numpy(batch.chances)) * torch.from_numpy(batch.advantages)
        learnt.append(gain)
    assert learnt[0].mean() > 0
    assert torch.equal(*learnt)


def test_loaded_start_keeps_the_jobs_and_moves_arrivals_forward():
    jobs = DATA.cluster().mix.draw(1_000_000, DATA)
    moved = training.loaded_start(jobs, 1_000_000)
    assert [job.profile for job in moved] == [job.profile for job in jobs]
    shifts = {
        round(job.arrival_ms - new.arrival_ms, 6) for job, new in zip(jobs, moved, strict=True) if new.arrival_ms > 0
    }
    assert len(shifts) == 1
    assert 0 <= shifts.pop() <= 0.25 * jobs[-1].arrival_ms
    assert moved[0].arrival_ms == 0
