"""Encoder and head of forecasts: what they see and say, with torch and without, and what never changes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import ARCHITECTURES
from small_series import series, viewers, write_wave

from edgenetllm.edge.engines.compiled import CompiledEngine
from edgenetllm.edge.engines.recompute import RecomputeEngine
from edgenetllm.edge.engines.torch import TorchEngine
from edgenetllm.edge.export import export_policy
from edgenetllm.edge.networks import ENCODERS, HEADS
from edgenetllm.errors import NotFinite, UserError
from edgenetllm.experience.rollout import play
from edgenetllm.models.decoder import build_decoder, prunable_layers
from edgenetllm.models.module import lr_multipliers
from edgenetllm.models.policy import build_policy
from edgenetllm.models.session import Session, to_tensors
from edgenetllm.stages.conformance_report import run_checks
from edgenetllm.stages.examined import DECODER, Examined, identities_of
from edgenetllm.tasks.supervised.angles import difference

WIDTH = 48


@pytest.mark.parametrize("kind", ["vp", "vp_patches", "csv", "unseen_answers"])
def test_without_torch_the_same(tmp_path, kind):
    task = {
        "vp": lambda: viewers(tmp_path),
        "vp_patches": lambda: viewers(tmp_path, patch=2),
        "csv": lambda: series(write_wave(tmp_path / "wave.csv"), patch=4),
        "unseen_answers": lambda: series(
            write_wave(tmp_path / "wave.csv"), inputs=["delay_ms"], answers=["mbps", "delay_ms"]
        ),
    }[kind]()
    torch.manual_seed(0)
    encoder, head = task.encoder(WIDTH), task.head(WIDTH)
    torch.nn.init.normal_(head.linear.weight, std=0.2)
    torch.nn.init.normal_(encoder.place)
    observation = task.environment("test").reset(task.seeds("test")[:9])
    own = [
        kinds[one.for_edge()["kind"]](
            one.for_edge(), {k: v.detach().numpy() for k, v in one.state_dict().items()}, WIDTH
        )
        for kinds, one in ((ENCODERS, encoder), (HEADS, head))
    ]
    assert own[0].actions == own[1].actions
    with torch.no_grad():
        expected = encoder.embed(to_tensors(observation, torch.device("cpu")))
        embedded = own[0].embed({"history": observation["history"].astype(np.float32)})
        np.testing.assert_allclose(own[0].state(embedded), encoder.state(expected)[:, 0], rtol=1e-3, atol=1e-4)
        hidden = torch.randn(9, 1, WIDTH)
        given = own[1].decide(hidden[:, 0].numpy(), embedded)
        np.testing.assert_allclose(given, head.decide(hidden, expected)[:, 0], rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("part", "name"), [("encoder", "moved"), ("encoder", "scale"), ("head", "change")])
def test_numbers_that_overflow_are_refused_without_a_warning(tmp_path, part, name):
    """Such as another's bundle may hold; warnings are errors here."""
    task = series(write_wave(tmp_path / "wave.csv"))
    kinds, networks = {"encoder": ENCODERS, "head": HEADS}, {"encoder": task.encoder(WIDTH), "head": task.head(WIDTH)}
    made = {}
    for one, network in networks.items():
        weights = {key: value.detach().numpy().copy() for key, value in network.state_dict().items()}
        if one == part:
            weights[name][:] = 3e38 if name == "change" else 1e-44
        if one == "head":
            weights["linear.bias"][:] = 10
        made[one] = kinds[one][network.for_edge()["kind"]](network.for_edge(), weights, WIDTH)
    observation = task.environment("test").reset(task.seeds("test")[:2])
    embedded = made["encoder"].embed({"history": observation["history"].astype(np.float32)})
    tokens = made["encoder"].state(embedded)
    if part == "encoder":
        assert not np.isfinite(tokens).all()
    else:
        with pytest.raises(NotFinite):
            made["head"].decide(np.zeros((2, WIDTH), np.float32), embedded)
    with pytest.raises(UserError, match="periods"):
        kinds[part][networks[part].for_edge()["kind"]]({**networks[part].for_edge(), "periods": [1e300]}, {}, WIDTH)


def test_a_new_head_says_that_nothing_changes(tmp_path):
    task = viewers(tmp_path)
    torch.manual_seed(0)
    policy = build_policy(build_decoder(DECODER), {"vp": task}, 1.0).eval()
    observation = task.environment("test").reset(task.seeds("test"))
    session = Session(policy, 0.0, "session")
    session.start(len(task.seeds("test")))
    assert session.return_to_go is None
    np.testing.assert_allclose(session.act(observation), task.baselines()["still"].act(observation), atol=1e-4)
    assert not any("return_to_go" in name or ".time" in name for name in policy.state_dict())


def test_sizes_of_the_training_data_never_change_but_are_stored(tmp_path):
    policy = build_policy(build_decoder(DECODER), {"vp": viewers(tmp_path)}, 1.0)
    still = {name for name, factor in lr_multipliers(policy).items() if factor == 0}
    assert {name.rpartition(".")[2] for name in still} == {"moved", "centre", "scale", "base", "change"}
    assert still <= set(policy.task_parameters())


def test_the_loss_goes_the_nearest_way_round(tmp_path):
    head = viewers(tmp_path).head(WIDTH)
    embedded = {"base": torch.full((1, 1, 3), 179.0)}
    target = torch.cat([torch.full((1, 1, 60), -179.0), torch.ones(1, 1, 1)], -1)
    loss = head.loss(
        torch.zeros(1, 1, WIDTH), embedded, torch.zeros(1, 1, 20, 3), target, torch.ones(1, 1, dtype=torch.bool)
    )
    assert loss.item() == pytest.approx(2.0)


def test_the_answers_to_a_question_depend_on_no_other_decision(tmp_path):
    """A session whose cache is emptied for each decision answers as a new one does."""
    task = viewers(tmp_path, horizon=40, answer_rows=20)
    policy = build_policy(build_decoder(DECODER), {"vp": task}, 1.0).eval()
    torch.nn.init.normal_(policy.head.linear.weight, std=0.5)
    environment = task.environment("test")
    observation, old = environment.reset(np.arange(2)), Session(policy, 0.0, "old")
    old.start(2)
    observation = environment.step(old.act(observation))[0]
    new = Session(policy, 0.0, "new")
    new.start(2)
    np.testing.assert_allclose(old.act(observation), new.act(observation), atol=1e-4)


@pytest.mark.parametrize("kind", ["direct", "forced"])
def test_both_tasks_keep_the_protocol(tmp_path, kind):
    def build():
        if kind == "direct":
            return series(write_wave(tmp_path / "wave.csv"))
        return viewers(tmp_path, answer_rows=10, noise=0.2)

    seen = Examined(build(), lambda: identities_of(build()))
    assert {name: problem for name, problem in run_checks(seen) if problem} == {}


def test_options_that_do_not_fit_are_refused(tmp_path):
    for options, words in (
        ({"patch": 3}, "whole number of patches"),
        ({"answer_rows": 21}, "more than data.horizon=20"),
    ):
        with pytest.raises(UserError, match=words):
            viewers(tmp_path, **options)
    with pytest.raises(UserError, match="beyond the 60"):
        viewers(tmp_path, horizon=50, answer_rows=40).seeds("test")
    with pytest.raises(UserError, match="a question of data=synthetic_viewers has"):
        viewers(tmp_path, history=8)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_engine_gives_the_same_answers(tmp_path, architecture):
    """Over three answers of a question each, so that a cache that is not emptied would show."""
    task = viewers(tmp_path, horizon=30, answer_rows=10, patch=2)
    torch.manual_seed(0)
    policy = build_policy(build_decoder(dict(ARCHITECTURES[architecture])), {"vp": task}, 0.5).eval()
    torch.nn.init.normal_(policy.head.linear.weight, std=0.3)
    matrices = [f"decoder.{name}" for name in prunable_layers(policy.decoder)]
    export_policy(
        policy,
        tmp_path / "bundle",
        matrices=matrices,
        adapter=None,
        target_returns={"vp": 0.0},
        parent={},
        values="fp32",
    )
    seeds = task.seeds("test")[:6]
    expected = play(task.environment("test"), seeds, Session(policy, 0.0, "session"))
    assert expected.return_to_go is None
    for engine in (
        TorchEngine(),
        RecomputeEngine(latency_decisions=1),
        CompiledEngine(latency_decisions=1, form="bf16"),
    ):
        played = play(task.environment("test"), seeds, engine.load(tmp_path / "bundle", task))
        assert played.action.shape == (6, 3, 10, 3)
        apart = np.abs(difference(played.action, expected.action, np.full(3, 360.0)))
        assert apart.max() < (2.0 if isinstance(engine, CompiledEngine) else 0.05)
