"""The log of a guarded agent is what an environment saw of it, whichever policy decided."""

from __future__ import annotations

import numpy as np
import pytest
from agents import bundle_of

import edgenetllm.edge as edge
from edgenetllm.edge.agent.decision_log import DecisionLog
from edgenetllm.edge.agent.faults import Faults
from edgenetllm.edge.agent.guarded import Safety, guarded
from edgenetllm.edge.agent.logged import LoggedSession
from edgenetllm.experience.log_files import log_files, read_rows
from edgenetllm.experience.recorded import recorded_episodes
from edgenetllm.stages.logs import TaskForm
from edgenetllm.tasks.observation import Ragged


def of_one(value):
    return value.values[0, : value.count[0]] if isinstance(value, Ragged) else value[0]


@pytest.mark.parametrize("name", ["abr", pytest.param("cjs", marks=pytest.mark.slow)])
def test_an_agent_with_faults_leaves_a_pool_of_what_happened(name, tmp_path):
    task, folder = bundle_of(name, tmp_path)
    policy = guarded(edge.load(folder), Safety(faults=Faults("raised", 0.5)))
    environment = task.environment("test")
    observation, done, happened = environment.reset(task.seeds("test")[:1]), [False], []
    with DecisionLog(tmp_path / "logs") as log:
        session = LoggedSession(policy.start(), log, policy.task)
        while not done[0]:
            action = session.decide({key: of_one(value) for key, value in observation.items()})
            observation, reward, done = environment.step(np.array([action]))
            session.observe(float(reward[0]))
            happened.append((np.asarray(action).tolist(), reward[0], session.session.outcome.by))
        session.end()
    rows = [row for path in log_files(tmp_path / "logs") for row in read_rows(path)]
    assert [row.values["by"] for row in rows] == [by for _, _, by in happened]
    assert {by for _, _, by in happened} == {"model", "fallback"}
    pool = recorded_episodes(rows, TaskForm(task), "leave_out", 1.0).episodes
    assert pool.action[0].tolist() == [action for action, _, _ in happened]
    assert pool.reward[0].tolist() == [reward for _, reward, _ in happened]
    assert pool.valid.all()
