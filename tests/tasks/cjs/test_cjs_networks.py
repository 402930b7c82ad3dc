"""Encoder and head: independent of order and number of stages, exact through the cache, able to learn a rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import ARCHITECTURES, make_policy

from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import EpisodeDataset
from edgenetllm.experience.ragged import RaggedColumn, pad
from edgenetllm.experience.rollout import play
from edgenetllm.models.module import AdaptationModule
from edgenetllm.models.session import Session, to_tensors
from edgenetllm.tasks.cjs.columns import DEMAND, JOB, SCHEDULABLE
from edgenetllm.tasks.cjs.networks.encoder import PointerEncoder, chosen_row, first_schedulable
from edgenetllm.tasks.cjs.networks.head import PointerHead
from edgenetllm.tasks.cjs.networks.sizes import NEVER
from edgenetllm.tasks.task import Ragged

WIDTH = 24


@pytest.fixture
def networks() -> tuple[PointerEncoder, PointerHead]:
    torch.manual_seed(0)
    return PointerEncoder(WIDTH), PointerHead(WIDTH)


def busy(task, decisions: int = 30, episodes: int = 3):
    """Observations after some decisions of the teacher."""
    environment, teacher = task.environment("train"), task.teacher()
    observation = environment.reset(np.arange(episodes))
    for _ in range(decisions):
        observation, _, _ = environment.step(teacher.act(observation))
    return observation


@torch.no_grad()
def answers(networks, observation):
    encoder, head = networks
    embedded = encoder.embed(to_tensors(observation, torch.device("cpu")))
    hidden = encoder.state(embedded)[:, :, 0]
    logits = head.logits(hidden, embedded)
    place = logits[..., 1:].argmax(-1)
    return hidden, logits, head.executor_logits(hidden, embedded, place), place


def test_the_order_of_jobs_and_stages_changes_nothing_but_the_order(networks, cjs_task):
    observation = busy(cjs_task, episodes=1)
    stages, jobs, edges = (observation[name].values[0] for name in ("stages", "jobs", "edges"))
    assert len(jobs) > 1
    assert len(edges) > 1
    rng = np.random.default_rng(0)
    stage_order, job_order = rng.permutation(len(stages)), rng.permutation(len(jobs))
    new_stage, new_job = np.argsort(stage_order), np.argsort(job_order)
    moved = stages[stage_order].copy()
    moved[:, JOB] = new_job[moved[:, JOB].astype(int)]
    source = observation["source_job"]
    other = {
        **observation,
        "stages": Ragged(moved[None], observation["stages"].count),
        "jobs": Ragged(jobs[job_order][None], observation["jobs"].count),
        "edges": Ragged(new_stage[edges][rng.permutation(len(edges))][None], observation["edges"].count),
        "source_job": np.where(source >= 0, new_job[source], -1),
    }
    hidden, logits, executors, _ = answers(networks, observation)
    hidden_2, logits_2, executors_2, _ = answers(networks, other)
    torch.testing.assert_close(hidden_2, hidden)
    listed, moved_list = np.flatnonzero(stages[:, SCHEDULABLE]), np.flatnonzero(moved[:, SCHEDULABLE])
    assert len(listed) > 1
    places = np.searchsorted(listed, stage_order[moved_list])  # where each stage was in the list
    torch.testing.assert_close(logits_2[..., 1:], logits[..., 1:][..., places])
    torch.testing.assert_close(executors_2, executors)


def test_episodes_side_by_side_do_not_touch_each_other(networks, cjs_task):
    together = busy(cjs_task, episodes=3)
    _, logits, executors, place = answers(networks, together)
    for number in range(3):
        alone = {
            name: Ragged(value.values[number : number + 1, : value.count[number]], value.count[number : number + 1])
            if isinstance(value, Ragged)
            else value[number : number + 1]
            for name, value in together.items()
        }
        _, one, counts, one_place = answers(networks, alone)
        torch.testing.assert_close(one[0], logits[number, :, : one.shape[-1]])
        assert (one_place[0] == place[number]).all()
        torch.testing.assert_close(counts[0], executors[number, :, : counts.shape[-1]])


def test_only_what_is_allowed_can_be_chosen(networks, cjs_task):
    observation = busy(cjs_task)
    encoder, head = networks
    embedded = encoder.embed(to_tensors(observation, torch.device("cpu")))
    hidden = encoder.state(embedded)[:, :, 0]
    stages = embedded["stages"]
    count = (stages[..., SCHEDULABLE] > 0).sum(-1)
    assert ((head.logits(hidden, embedded)[..., 1:] > NEVER).sum(-1) == count).all()
    for seed in range(20):
        action = head.decide(hidden, embedded, torch.Generator().manual_seed(seed))
        row = chosen_row(action[..., 0], embedded)
        some = row >= 0
        demand = stages.gather(2, row.clamp_min(0)[..., None, None].expand(-1, -1, 1, stages.shape[-1]))[..., 0, DEMAND]
        most = torch.minimum(demand, embedded["committable"].float())
        assert (action[..., 1][some] >= 1).all()
        assert (action[..., 1] <= most)[some].all()
        assert (action[..., 1] == embedded["committable"])[~some].all()


@pytest.mark.parametrize("tokens", ["pointer", "per_stage"])
def test_cached_and_uncached_logits_agree_far_beyond_the_window(cjs_task, tokens):
    """The ring buffer holds 5 steps; an episode here has many more."""
    cjs_task = replace(cjs_task, tokens=tokens)
    policy = make_policy(cjs_task, ARCHITECTURES["llama"])
    session = Session(policy, 0.3, "test")
    seen = []
    original = policy.head.decide

    def decide(hidden, embedded, generator=None):
        seen.append(policy.head.logits(hidden, embedded))
        return original(hidden, embedded, generator)

    policy.head.decide = decide  # type: ignore[method-assign]
    episodes = play(cjs_task.environment("val"), cjs_task.seeds("val")[:1], session, keep_observations=True)
    steps = episodes.action.shape[1]
    assert steps > 4 * cjs_task.window
    assert max(layer.keys.shape[-2] for layer in session.cache.layers) == policy.networks().band - 1

    observation = {}
    for name, column in episodes.observation.items():
        if isinstance(column, RaggedColumn):
            padded = pad(column, [(0, 0, steps)])
            observation[name] = torch.from_numpy(padded.values)
            observation[f"{name}_count"] = torch.from_numpy(padded.count)
        else:
            observation[name] = torch.from_numpy(column)
    with torch.no_grad():
        embedded = policy.encoder.embed(observation)
        wanted = torch.full((1, steps), 0.3)
        whole = policy.head.logits(policy.hidden(embedded, wanted, torch.from_numpy(episodes.action)), embedded)
    for step, logits in enumerate(seen):
        torch.testing.assert_close(logits[0, 0], whole[0, step, : logits.shape[-1]], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("tokens", ["pointer", pytest.param("per_stage", marks=pytest.mark.slow)])
def test_a_small_policy_learns_the_rule_from_segments(cjs_task, tmp_path, tokens):
    cjs_task = replace(cjs_task, tokens=tokens)
    pool = collect(cjs_task, [PoolEntry("teacher", 4, action_noise=0.1)], seed=1, folder=tmp_path, workers=1)
    dataset = EpisodeDataset(pool, cjs_task.segment)
    assert len(dataset) > 4
    assert pool.reference is not None
    assert (pool.return_to_go() == pool.return_to_go()[:, :1]).all()
    policy = make_policy(cjs_task, ARCHITECTURES["llama"]).train()
    optimizer = torch.optim.AdamW(policy.parameters(), 3e-3)
    batch = dataset[list(range(len(dataset)))]
    losses = []
    for _ in range(60):
        loss = policy.loss(batch, batch["observation"])  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.55 * losses[0]


@pytest.mark.parametrize("tokens", ["pointer", "per_stage"])
def test_padding_gives_finite_gradients(cjs_task, tmp_path, tokens):
    cjs_task = replace(cjs_task, tokens=tokens)
    pool = collect(cjs_task, [PoolEntry("teacher", 3)], seed=2, folder=tmp_path, workers=1)
    dataset = EpisodeDataset(pool, cjs_task.segment)
    last = [index for index in range(len(dataset)) if not dataset[[index]]["valid"].all()]  # type: ignore[union-attr]
    assert last
    policy = make_policy(cjs_task, ARCHITECTURES["llama"]).train()
    batch = dataset[last]
    policy.loss(batch, batch["observation"]).backward()  # type: ignore[arg-type]
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


def test_a_backbone_with_absolute_positions_is_refused(cjs_task):
    with pytest.raises(UserError, match="relative positions"):
        make_policy(cjs_task, ARCHITECTURES["gpt2"])


def test_places_are_the_first_schedulable_stages(cjs_task):
    stages = to_tensors(busy(cjs_task), torch.device("cpu"))["stages"]
    listed = first_schedulable(stages, 4)
    for n in range(len(stages)):
        rows = torch.nonzero(stages[n, 0, :, SCHEDULABLE] > 0)[:4, 0].tolist()
        assert listed[n, 0].tolist() == rows + [-1] * (4 - len(rows))


def test_what_reads_a_wide_hidden_state_learns_slower(cjs_task):
    policy = make_policy(cjs_task, ARCHITECTURES["llama"] | {"hidden_size": 256, "num_hidden_layers": 1})
    options = {"backbone": {}, "target_returns": {"cjs": 0.1}, "weight_decay": 0.0, "warmup_steps": 1, "total_steps": 9}
    module = AdaptationModule(policy, {"cjs": cjs_task}, adapter_lr=1e-3, task_lr=4e-3, **options)
    optimizer = module.configure_optimizers()["optimizer"]
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(policy.parameters()))
    assert {rates[id(p)] for name, p in policy.named_parameters() if name.startswith("decoder.")} == {1e-3}
    assert rates[id(policy.head.hidden.weight)] == 4e-3 * 64 / 256
    others = [p for name, p in policy.task_parameters().items() if name != "tasks.cjs.head.hidden.weight"]
    assert {rates[id(p)] for p in others} == {4e-3}
    assert PointerHead(32).lr_multipliers() == {"hidden.weight": 1.0}
