"""evaluate.py as a user types it, with a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from typed import ABR, call, runs

from edgenetllm.config import load_task
from edgenetllm.experience.rollout import play
from edgenetllm.report.results import Results


def test_evaluate_replays_the_bundle_on_other_data(trained):
    parent = runs(trained, "train")[0]
    call("evaluate.py", trained, f"run={parent}", "data.seed=5", "data.test=12", "logger=csv")
    results = Results.load(runs(trained, "evaluate")[-1] / "abr/results.json")
    assert results.stage == "evaluate"
    assert results.policies["sparse"]["test/qoe"].n == 12
    # Beside the baseline that is tuned on this data's own validation traces stands one that knows what the model knew.
    own = {name for name in Results.load(parent / "abr/results.json").policies if "tuned" in name}
    assert {name for name in results.policies if "tuned" in name} == {*own, "robustmpc_tuned_on_run"}
    task, other = (load_task(yaml.safe_load((run / "config.yaml").read_text())) for run in (Path(results.run), parent))
    policy, teacher = task.tuned_as(other), other.teacher()
    assert (policy.bandwidth_scale, policy.error_weight) == (teacher.bandwidth_scale, teacher.error_weight)
    played = play(task.environment("test"), task.seeds("test"), policy)
    assert results.policies[policy.name]["test/qoe"].mean == pytest.approx(played.reward.mean())


def test_the_same_replay_gives_the_same_numbers(trained):
    parent = runs(trained, "train")[0]
    call("evaluate.py", trained, f"run={parent}", "logger=csv")
    again = Results.load(runs(trained, "evaluate")[-1] / "abr/results.json")
    assert again.policies == Results.load(parent / "abr/results.json").policies


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sparsity=0.2", "the bundle has 0.4; prune.py makes another"),
        ("pruning=magnitude", "pruning: evaluate.py replays the bundle"),
        pytest.param("recovery=reconstruct", "recovery: evaluate.py replays the bundle", marks=pytest.mark.slow),
        pytest.param("export.values=fp32", "export: evaluate.py replays the bundle", marks=pytest.mark.slow),
        ("budget.episodes=5", "budget.episodes=5: shapes an adaptation"),
        ("evaluation.targets=[0.5]", "evaluation.targets=[0.5]: shapes an adaptation"),
    ],
)
def test_what_made_the_bundle_is_not_the_users_to_state(trained, word, message):
    before = runs(trained, "evaluate")
    output = call("evaluate.py", trained, f"run={runs(trained, 'train')[0]}", word, "logger=csv", ok=False)
    assert message in output
    assert not [run for run in runs(trained, "evaluate") if run not in before and (run / "run.json").exists()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_without_a_gpu_it_is_said_at_once(trained, script):
    start = [] if script == "train.py" else [f"run={runs(trained, 'train')[0]}"]
    output = call(script, trained, *start, "trainer=gpu", "logger=csv", ok=False)
    assert "torch can use no GPU of this machine; type trainer=cpu" in output


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_replays_what_it_learnt(tmp_path):
    call("train.py", tmp_path, *ABR, "trainer=gpu", "trainer.precision=fp32", "logger=csv")
    parent = runs(tmp_path, "train")[0]
    call("evaluate.py", tmp_path, f"run={parent}", "trainer.accelerator=cpu", "logger=csv")
    here, there = (
        Results.load(run / "abr/results.json").policies["sparse"] for run in (runs(tmp_path, "evaluate")[-1], parent)
    )
    assert here["test/qoe"].mean == pytest.approx(there["test/qoe"].mean, abs=0.05)


@pytest.mark.parametrize("script", ["prune.py", "evaluate.py"])
def test_a_run_that_is_none_is_named(tmp_path, script):
    assert "not the folder of a run" in call(script, tmp_path, f"run={tmp_path}", ok=False)
