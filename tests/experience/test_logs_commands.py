"""The round trip by commands: a bundle's agent leaves logs, a run learns from them, and its bundle decides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small import make_task
from typed import ABR, call, runs

import edgenetllm.edge as edge
from edgenetllm.edge.agent.decision_log import DecisionLog
from edgenetllm.edge.agent.logged import LoggedSession

pytestmark = pytest.mark.slow
OTHER = "data.seed=9"  # other traces than those of the runs


def serve(bundle: Path, logs: Path, episodes: int = 4) -> None:
    """Play episodes of other traces as an application would: one session each."""
    policy = edge.load(bundle)
    environment = make_task().environment("test")
    with DecisionLog(logs) as log:
        for seed in range(episodes):
            session = LoggedSession(policy.start(), log, policy.task)
            observation, done = environment.reset(np.array([seed])), np.array([False])
            while not done[0]:
                action = session.decide({name: value[0] for name, value in observation.items()})
                observation, reward, done = environment.step(np.array([action]))
                session.observe(reward[0])
            session.end()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With a run, and the logs of its bundle."""
    place = tmp_path_factory.mktemp("round")
    call("train.py", place, *ABR, "evaluation.plots=false")
    (run,) = runs(place, "train")
    serve(run / "bundle", place / "decisions")
    return place


def test_a_bundle_is_adapted_to_what_its_agent_saw(folder):
    words = [*ABR, "experience=recorded", f"experience.folder={folder}/decisions", "evaluation.plots=false"]
    output = call("train.py", folder, *words, "dry_run=true")
    assert "decisions of abr in" in output
    assert "4 of 4 logged episodes" in output
    assert len(runs(folder, "train")) == 1
    output = call("train.py", folder, *words)
    assert "4 of 4 logged episodes" in output
    run = runs(folder, "train")[-1]
    serve(run / "bundle", folder / "next", episodes=1)  # its bundle decides
    assert len(next((folder / "next").glob("*.jsonl")).read_text().splitlines()) == 47
    # The same logs are the same adaptation, wherever they lie; and what is pruned from it learns from them too.
    moved = folder / "moved"
    (folder / "decisions").rename(moved)
    again = [word.replace(f"{folder}/decisions", str(moved)) for word in words]
    assert "adaptation: found" in call("train.py", folder, *again)
    assert "no such folder" in call("prune.py", folder, f"run={run}", "sparsity=0.6", ok=False)
    call("prune.py", folder, f"run={run}", f"experience.folder={moved}", "sparsity=0.6", "evaluation.plots=false")
    # Other logs are another adaptation, and none that a run can be pruned with.
    serve(run / "bundle", moved, episodes=1)
    refused = call("prune.py", folder, f"run={run}", f"experience.folder={moved}", "sparsity=0.7", ok=False)
    assert "are not those that" in refused
    assert "adaptation: found" not in call("train.py", folder, *again)


def test_a_log_with_a_mistake_is_refused_before_anything_starts(folder, tmp_path):
    rows = [json.loads(line) for line in next((folder).glob("*/*.jsonl")).read_text().splitlines()]
    rows[3]["action"] = 17
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for more in ([], ["dry_run=true"]):
        output = call(
            "train.py", tmp_path, *ABR, "experience=recorded", f"experience.folder={tmp_path}", *more, ok=False
        )
        assert f"error: {tmp_path}/bad.jsonl, line 4: column action: it is 17, and must be from 0 to 5" in output
    assert not list((tmp_path / "cache").glob("pools/*/"))
    assert runs(tmp_path, "train") == []


def test_a_replay_leaves_logs_for_runs_on_other_data(folder):
    run = runs(folder, "train")[0]
    call("evaluate.py", folder, f"run={run}", OTHER, "evaluation.log=true", "evaluation.plots=false")
    (decisions,) = (folder / "logs" / "evaluate").glob("*/abr/decisions")
    words = [*ABR, "experience=recorded", f"experience.folder={decisions}", "evaluation.plots=false"]
    assert "of this very run" in call("train.py", folder, *words, OTHER, ok=False)
    assert "20 of 20 logged episodes" in call("train.py", folder, *words)
