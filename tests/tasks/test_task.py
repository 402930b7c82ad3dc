"""The defaults of `Task`, what is said of one that is not complete, and real-valued actions all the way to the networks."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from small import ARCHITECTURES, ROOT, make_policy
from toy_room import WANTED, Room, RoomTask
from typed import TINY, call, runs

from edgenetllm.config import load_task
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import BatchShard, EpisodeDataset, PoolDataModule
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.experience.rollout import play
from edgenetllm.models.session import Session
from edgenetllm.report.episodes import read_replay
from edgenetllm.report.results import Results
from edgenetllm.tasks.common.heuristic import FunctionPolicy, Heuristic
from edgenetllm.tasks.task import Metric, Ragged, Task

DATA = {"_target_": "edgenetllm.tasks.abr.data.datasets.Synthetic", "name": "synthetic", "seed": 0, "seconds": 100}
DATA |= {"train": 3, "val": 2, "test": 2}


class Half(RoomTask):
    """Not complete, see below."""

    def __init__(self, data: object) -> None: ...

    head = Task.head
    seeds = Task.seeds


class Nameless(RoomTask):
    def __init__(self, data: object) -> None: ...

    @property
    def name(self) -> str:
        raise AttributeError


def test_defaults():
    task = RoomTask()
    assert (task.metric, task.window, task.segment, task.return_scale, task.relative_return) == (
        Metric("comfort", "comfort", "", True), None, None, 1.0, False
    )  # fmt: skip
    assert task.episode_names("val") == ["seed 100", "seed 101", "seed 102", "seed 103"]
    assert (task.notes(), task.bounds("test"), task.reference_returns(np.arange(3)), task.tuned_as(task)) == (
        [],
        {},
        None,
        None,
    )
    assert task.describe_data() == ["data: room; 4 validation and 4 test episodes"]


def test_metrics_are_means_over_real_steps_of_the_reward_and_of_columns():
    task = RoomTask()
    played = play(Room(), np.arange(4), task.teacher())
    assert not played.valid.all()
    summary = task.summarise(played.record, played.reward, played.valid)
    for episode, steps in enumerate(played.valid.sum(1)):
        assert summary["comfort"][episode] == pytest.approx(played.reward[episode, :steps].mean())
        assert summary["warmth"][episode] == pytest.approx(played.record["warmth"][episode, :steps].mean())


@pytest.mark.parametrize("column", [None, np.zeros((4, 9, 2)), RaggedColumn(np.zeros(3), np.zeros((4, 9), np.int32))])
def test_a_metric_without_a_column_is_refused(column):
    task = RoomTask()
    task.metrics = (*RoomTask.metrics, Metric("noise", "noise", "dB", False))
    record = {"warmth": np.zeros((4, 9)), **({} if column is None else {"noise": column})}
    with pytest.raises(
        UserError, match=r"toy_room\.RoomTask: the metric 'noise' is no column .* or write summarise\(\)"
    ):
        task.summarise(record, np.zeros((4, 9)), np.ones((4, 9), bool))


@pytest.mark.parametrize(
    ("target", "more", "message"),
    [
        ("Half", {}, "^task: .*Half.* abstract methods? head, seeds"),
        ("Half", {"warmer": 1}, "^task: .*abstract"),
        ("Nameless", {}, r"^task: test_task\.Nameless has no name, see edgenetllm.tasks.task"),
        ("Nameless", {"warmer": 1}, "^task: .*unexpected keyword argument 'warmer'"),
    ],
)
def test_a_task_that_is_not_complete_is_refused_in_words(target, more, message):
    with pytest.raises(UserError, match=message):
        load_task({"task": {"_target_": f"{__name__}.{target}", **more}, "data": DATA})


def warmer(observation, by: float = 1.0):
    return by * np.ones((len(observation["warmth"]), 1))


def test_a_function_is_a_policy_known_by_its_options():
    policies = [FunctionPolicy("a", warmer), FunctionPolicy("a", warmer, by=2.0), FunctionPolicy("b", warmer)]
    identities = [policy.identity() for policy in policies]
    assert identities[0] == identities[2] == f"{__name__}.warmer{{}}"
    assert identities[1] != identities[0]
    assert (policies[1].act({"warmth": np.zeros(3)}) == 2.0).all()
    assert policies[0].targets({}) is None


def test_a_function_without_a_name_or_with_options_that_are_no_plain_values_is_refused():
    with pytest.raises(UserError, match=r"policy 'a': .* write it with def, at the top"):
        FunctionPolicy("a", lambda observation: observation["warmth"])
    with pytest.raises(UserError, match="policy 'a': write its identity"):
        FunctionPolicy("a", warmer, by=np.ones(3)).identity()


class Meaning(Heuristic):
    """Says what it meant, as float64."""

    name = "meaning"

    def act(self, observation):
        return 0.5 * (WANTED - observation["warmth"])[:, None]

    def targets(self, observation):
        return np.append(self.act(observation), np.ones((len(observation["warmth"]), 1)), axis=1)


class Furnished(Room):
    def observe(self):
        count = np.full(len(self.warmth), 2, np.int32)
        return {"warmth": self.warmth.copy(), "chairs": Ragged(np.ones((len(self.warmth), 2, 3)), count)}


class Meant(RoomTask):
    def teacher(self):
        return Meaning()

    def environment(self, split):
        return Furnished()


def test_real_valued_actions_and_targets_reach_the_networks_as_float32(tmp_path):
    task = Meant()
    pool = collect(task, [PoolEntry("teacher", 6, 0.5), PoolEntry("gentle", 2)], 0, tmp_path, workers=1)
    assert pool.target is not None
    assert pool.target.dtype == np.float32
    assert pool.target[:6, ..., 1][pool.valid[:6]].all()
    assert not pool.target[6:].any()  # the baseline says nothing
    dataset = EpisodeDataset(pool)
    for batch in (dataset[[0, 1, 7]], dataset[BatchShard([0], [0, 1], 2)]):
        tensors = [*batch["observation"].values(), *(value for value in batch.values() if torch.is_tensor(value))]
        tensors += [value for name, value in batch.get("whole", {}).items() if name != "shards"]
        assert {tensor.dtype for tensor in tensors} <= {torch.float32, torch.bool, torch.int32}
    module = PoolDataModule({task.name: task}, {task.name: pool}, batch_size=4, batches_per_epoch=2, seed=0)
    module.setup()
    policy = make_policy(task, ARCHITECTURES["llama"])
    (batch,) = module.calibration_batches(4)
    policy.loss(batch, batch["observation"]).backward()
    assert all(weight.grad is not None and torch.isfinite(weight.grad).all() for weight in policy.head.parameters())
    session = Session(policy, -1.0, "session")
    played = play(task.environment("test"), task.seeds("test"), session)
    assert session.before[0].dtype == torch.float32
    assert played.action.shape == (*played.valid.shape, 1)


def test_a_head_for_real_numbers_learns_what_was_meant_and_samples_around_it():
    head = RoomTask().head(3)
    hidden, action = torch.zeros(2, 4, 3), torch.full((2, 4, 1), 7.0)
    target = torch.zeros(2, 4, 2)
    target[0] = torch.tensor([2.0, 1.0])
    mask = torch.ones(2, 4, dtype=torch.bool)
    with torch.no_grad():
        head.mean.bias.zero_()
    normal = torch.distributions.Normal(0.0, 1.0)
    expected = -(normal.log_prob(torch.tensor(2.0)) + normal.log_prob(torch.tensor(7.0))) / 2
    torch.testing.assert_close(head.loss(hidden, {}, action, target, mask), expected)
    assert (head.decide(hidden, {}) == 0).all()
    drawn = head.decide(torch.zeros(4000, 1, 3), {}, torch.Generator().manual_seed(0))
    assert drawn.mean().abs() < 0.05
    assert drawn.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_a_task_of_real_numbers_runs_from_the_pool_to_the_replay(tmp_path, monkeypatch):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "room.yaml").write_text("_target_: toy_room.RoomTask\nname: room\n")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}")
    call("train.py", tmp_path, "--config-dir", str(tmp_path), *TINY, "task=room", "evaluation.sample=true")
    (run,) = runs(tmp_path, "train")
    assert set(Results.load(run / "room" / "results.json").policies) == {"dense", "sparse", "gentle"}
    replay = read_replay(run / "room" / "replay.parquet")
    actions = np.array(replay["action"].to_pylist())
    assert actions.shape == (len(replay), 1)
    assert len(np.unique(actions)) > len(replay) / 2
