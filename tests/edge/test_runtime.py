"""`edge.load`: whole episodes of both tasks decided without torch as torch decides them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small import ROOT
from variants import TASKS, cjs, export, make, randomise

import edgenetllm.edge as edge
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.bundle_writer import write_bundle
from edgenetllm.edge.engine import load_policy
from edgenetllm.errors import UserError
from edgenetllm.models.backbone import WheelBackbone
from edgenetllm.models.policy import build_policy
from edgenetllm.models.session import Session
from edgenetllm.tasks.task import Array, Task

NEAR = 2e-3  # of the largest hidden number: activations have 16 bits


class Recording:
    """A decoder that keeps the hidden state of the last decision."""

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.width, self.start = decoder, decoder.width, decoder.start

    def extend(self, state: Any, tokens: Array) -> Array:
        self.hidden = self.decoder.extend(state, tokens)
        return self.hidden


def play_both(folder: Path, task: Task, episodes: int | None, decisions: int, **options: Any) -> tuple[list, list]:
    """Play with the edge's actions; per decision how far the hidden state is from torch's, and whether the action is equal.

    Torch sees the same observations and the same actions, so that one near tie does not make two different episodes.
    """
    network, target = load_policy(folder, task)
    reference, count = Session(network, target, "torch"), episodes or 1
    reference.start(count)
    policy = edge.load(folder, task.name, **options)
    policy.decoder = Recording(policy.decoder)  # type: ignore[assignment]
    session = policy.start(episodes)
    environment = task.environment("train")
    observation, done = environment.reset(np.arange(count)), np.zeros(count, bool)
    errors, equal = [], []
    while not done.all() and len(errors) < decisions:
        # Both decide.
        hidden, embedded = reference.hidden(observation)
        with torch.inference_mode():
            expected = reference.networks.head.decide(hidden, embedded)[:, 0].numpy()
        action = session.decide(observation)
        actions = np.asarray(action)[None] if episodes is None else action
        errors.append(np.abs(policy.decoder.hidden - hidden[:, 0].numpy()).max() / float(hidden.abs().max()))
        equal.append((actions == expected).reshape(count, -1).all(1))
        # What was done, and its reward.
        reference.before, reference.step = (torch.from_numpy(actions)[:, None], embedded), reference.step + 1
        observation, reward, done = environment.step(actions)
        reference.observe(reward)
        session.observe(float(reward[0]) if episodes is None else reward)
        np.testing.assert_allclose(session.return_to_go, reference.return_to_go[0 if episodes is None else slice(None)])
    return errors, equal


@pytest.mark.parametrize("episodes", [None, 4])
@pytest.mark.parametrize("variant", ["fused", "per_feature_plain", "pointer", "per_stage"])
def test_whole_episodes_are_decided_as_torch_decides_them(variant, episodes, tmp_path):
    task = TASKS[variant]()
    folder = export(make(task), tmp_path / "bundle", values="int8")
    errors, equal = play_both(folder, task, episodes, decisions=60)
    assert len(errors) >= 15  # of CJS beyond the 5 steps of the window
    assert max(errors) < NEAR
    assert np.mean(equal) > 0.98


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "opt"])
def test_every_architecture_of_the_decoder_plays(architecture, tmp_path):
    task = TASKS["fused"]()
    folder = export(make(task, architecture=architecture), tmp_path / "bundle", values="int8")
    errors, equal = play_both(folder, task, 3, decisions=20)
    rounded = (
        10 if architecture == "opt" else 1
    )  # its projections are no pruned matrices: int8 only once they are loaded
    assert max(errors) < rounded * NEAR
    assert np.mean(equal) > 0.95


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("variant", ["fused", "pointer"])
def test_whole_episodes_of_smollm2_are_decided_as_torch_decides_them(variant, tmp_path):
    settings = yaml.safe_load((ROOT / "conf/model/smollm2.yaml").read_text())
    del settings["_target_"]
    backbone = WheelBackbone(**{**settings, "folder": ROOT / "data" / "cache" / "backbones", "layers": 4}).load()
    task = TASKS[variant]()
    torch.manual_seed(0)
    policy = build_policy(backbone.decoder, {task.name: task}, backbone.embedding_rms).eval()
    randomise(policy.networks().head, 1)
    folder = export(policy, tmp_path / "bundle", values="int8")
    errors, equal = play_both(folder, task, 3, decisions=100)
    assert len(errors) >= 40
    # Single channels of its tokens are hundreds of times the others, and 16 bits have to do for all.
    assert np.median(errors) < NEAR / 2
    assert max(errors) < 5 * NEAR
    assert np.mean(equal) > 0.95


def test_one_episode_takes_numbers_and_gives_an_int(tmp_path):
    folder = export(make(TASKS["fused"]()), tmp_path / "bundle")
    session = edge.load(str(folder)).start()
    observation = {
        "last_quality": 0, "buffer_s": 4.0, "throughput_mbps": 1.7, "delay_s": 0.6,
        "next_sizes_mb": [0.15, 0.4, 0.6, 0.9, 1.4, 2.1], "chunks_left": 47,
    }  # fmt: skip
    action = session.decide(observation)
    assert type(action) is int
    assert 0 <= action < 6
    assert session.return_to_go == 40.0
    session.observe(0.75)
    assert session.return_to_go == 39.25
    batch = {name: np.array([value, value]) for name, value in observation.items()}
    assert edge.load(folder).start(2).decide(batch).tolist() == [action, action]


def test_one_episode_of_job_graphs_takes_rows(tmp_path):
    task = TASKS["pointer"]()
    folder = export(make(task), tmp_path / "bundle")
    observation = task.environment("train").reset(np.arange(1))
    rows = {
        name: value.values[0, : value.count[0]].tolist() if isinstance(value, edge.Ragged) else int(value[0])
        for name, value in observation.items()
    }
    policy = edge.load(folder)
    action = policy.start().decide(rows)
    assert action.shape == (2,)
    np.testing.assert_array_equal(action, policy.start(1).decide(observation)[0])


def test_a_hundred_side_by_side_decide_as_one_by_one(tmp_path):
    task = TASKS["fused"]()
    policy = edge.load(export(make(task), tmp_path / "bundle"))
    environment = task.environment("train")
    observation = environment.reset(np.arange(100))
    many, alone = policy.start(100), policy.start()
    for _ in range(4):
        actions = many.decide(observation)
        first = {name: value[7] for name, value in observation.items()}
        assert actions.shape == (100,)
        assert alone.decide(first) == actions[7]
        observation, reward, _ = environment.step(actions)
        many.observe(reward)
        alone.observe(reward[7])


def test_samples_follow_their_seed(tmp_path):
    task = TASKS["pointer"]()
    policy = edge.load(export(make(task), tmp_path / "bundle"))
    observation = task.environment("train").reset(np.arange(3))
    decisions = {
        seed: [policy.start(3, sample_seed=seed).decide(observation).tolist() for _ in range(2)] for seed in range(9)
    }
    assert all(first == second for first, second in decisions.values())
    assert len({str(first) for first, _ in decisions.values()}) > 1
    assert policy.start(3).decide(observation).tolist() == policy.start(3).decide(observation).tolist()


def test_a_task_of_several_is_chosen_by_its_name(tmp_path):
    tasks = {"abr": TASKS["fused"](), "cjs": cjs()}
    policy = make(*tasks.values())
    folder = export(policy, tmp_path / "bundle", values="int8")
    with pytest.raises(UserError, match=r"several tasks: choose one, task='abr' .*abr, cjs"):
        edge.load(folder)
    with pytest.raises(UserError, match=r"made for task abr\+cjs, not room"):
        edge.load(folder, "room")
    for name, task in tasks.items():
        assert play_both(folder, task, 2, 6)[0]
        assert edge.load(folder, task=name).task == name


def rewritten(folder: Path, to: Path, **changes: Any) -> Path:
    """The same bundle with other fields under `extra`; None removes one."""
    bundle = read_bundle(folder)
    manifest = bundle.manifest
    extra = {name: value for name, value in (dict(manifest.extra) | changes).items() if value is not None}
    write_bundle(
        to, sparse={}, dense={name: bundle.array(name) for name in bundle.tensors},
        manifest={"task": manifest.task, "model": manifest.model, "metrics": {}, "extra": extra},
    )  # fmt: skip
    return to


def test_bundles_that_the_edge_cannot_decide_with_are_refused(tmp_path):
    folder = export(make(TASKS["fused"]()), tmp_path / "bundle")
    described: Any = read_bundle(folder).manifest.extra["networks"]
    own = {"abr": described["abr"] | {"encoder": None}}
    cases = {
        "old": ({"networks": None}, r"does not describe the networks of task abr: export it again"),
        "kind": ({"networks": own}, r"encoder of task abr is of kind None.*networks=\{'abr'"),
        "rms": ({"embedding_rms": None}, "no finite embedding_rms"),
        "target": ({"target_return": {}}, "no finite target_return"),
        "steps": ({"networks": {"abr": described["abr"] | {"max_steps": 0}}}, "max_steps=0"),
        "adapter": ({"adapter": {"rank": 2}}, "adapter was not merged"),
    }
    for name, (changes, message) in cases.items():
        with pytest.raises(UserError, match=message):
            edge.load(rewritten(folder, tmp_path / name, **changes))
    with pytest.raises(UserError, match="engine='torch': the edge has auto, compiled"):
        edge.load(folder, engine="torch")
    with pytest.raises(UserError, match="no such bundle folder"):
        edge.load(tmp_path / "nothing")


def test_classes_of_another_package_decide(tmp_path):
    from edgenetllm.edge.networks import ENCODERS, HEADS

    folder = export(make(TASKS["fused"]()), tmp_path / "bundle")
    described: Any = read_bundle(folder).manifest.extra["networks"]
    own = rewritten(folder, tmp_path / "own", networks={"abr": described["abr"] | {"encoder": None, "head": None}})

    def encoder(options: Any, weights: Any, width: int) -> Any:
        return ENCODERS["abr_fused"](described["abr"]["encoder"], weights, width)

    def head(options: Any, weights: Any, width: int) -> Any:
        return HEADS["choice"](described["abr"]["head"], weights, width)

    observation = TASKS["fused"]().environment("train").reset(np.arange(3))
    decided = edge.load(own, networks={"abr": (encoder, head)}).start(3).decide(observation)
    assert decided.tolist() == edge.load(folder).start(3).decide(observation).tolist()
