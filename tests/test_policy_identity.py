"""Episodes of a policy are stored under its identity: whatever changes a decision has to change that."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from small import make_policy, make_task

from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect, pool_folder
from edgenetllm.models.session import Session
from edgenetllm.tasks.abr.policies.baselines import Bba, Bola, Fixed, RateBased
from edgenetllm.tasks.cjs.policies.baselines import Random, fair, fifo, sjf_cp, weighted_fair
from edgenetllm.tasks.cjs.policies.decima import Decima
from edgenetllm.tasks.common.heuristic import Heuristic
from edgenetllm.tasks.task import identity_of


class Silent:
    """A policy as a user might write it first."""

    name = "silent"

    def start(self, episodes: int) -> None: ...

    def act(self, observation):
        return np.zeros(len(observation["buffer_s"]), np.int64)

    def targets(self, observation):
        return None


class Careful(Heuristic):
    name = "careful"

    def __init__(self, reserve_s: float, *, hurry: bool = False) -> None:
        self.reserve_s, self.hurry = reserve_s, hurry


def test_a_policy_without_an_identity_is_refused_before_anything_is_played(tmp_path, task, monkeypatch):
    monkeypatch.setattr(type(task), "baselines", lambda self: {"silent": Silent()})
    with pytest.raises(UserError, match=r"'silent' \(test_policy_identity\.Silent\) has no identity\(\)"):
        collect(task, [PoolEntry(policy="teacher", episodes=2)], 1, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_all_options_count():
    different = [
        Fixed(1), Fixed(2), Bba(), Bba(reservoir_s=4), Bba(cushion_s=9), Bola(), Bola(gamma_p=4), RateBased(), Careful(1),
        Careful(2), Careful(1, hurry=True), Random(0), Random(1), fair(), fifo(), fifo(1.0), weighted_fair(0.5), sjf_cp(0.3),
        Decima.load(), Decima.load(sample_seed=None), Decima.load(sample_seed=3),
    ]  # fmt: skip
    assert len({identity_of(policy) for policy in different}) == len(different)
    for policy in different:
        assert identity_of(copy.deepcopy(policy)) == identity_of(policy)


def test_an_option_that_is_no_plain_value_needs_an_identity_of_its_own():
    with pytest.raises(UserError, match="write its identity"):
        identity_of(Careful(np.zeros(3)))  # type: ignore[arg-type]


def test_a_language_model_is_known_by_weights_target_and_seed(architecture):
    task = make_task()
    one, other = make_policy(task, architecture), make_policy(task, architecture, seed=1)
    sessions = [Session(one, 1.0, "a"), Session(other, 1.0, "a"), Session(one, 2.0, "a"), Session(one, 1.0, "a", 3)]
    assert len({identity_of(session) for session in sessions}) == 4
    assert identity_of(Session(one, 1.0, "another name")) == identity_of(sessions[0])


def test_a_pool_is_known_by_the_options_of_its_task_and_data(tmp_path, task):
    shares = [PoolEntry(policy="bba", episodes=2)]
    plain = pool_folder(task, shares, 1, tmp_path)
    assert pool_folder(task, shares, 1, tmp_path, options={"task.mine": 1}) != plain
