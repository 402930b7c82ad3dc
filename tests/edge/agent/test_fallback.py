"""Fall-back policies decide as the template's baselines of the same name, from what lies in the manifest."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from agents import bundle_of, play_with
from variants import TASKS, export, make

import edgenetllm.edge as edge
from edgenetllm.edge.agent.fallback import KINDS, fallback_of
from edgenetllm.edge.agent.faults import Faults, FaultyDecoder
from edgenetllm.edge.agent.guarded import Safety, guarded
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.export import describe_fallbacks
from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.models.session import to_tensors
from edgenetllm.tasks.cjs.columns import ROUGH, SCHEDULABLE
from edgenetllm.tasks.observation import Ragged

BASELINES = {"bba": "bba", "robustmpc": "robustmpc", "fair": "fair", "tuned": "tuned_rule"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return {name: bundle_of(name, tmp_path_factory.mktemp(name)) for name in ("fused", "ladder", "pointer")}


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("fused", "bba"),
        ("fused", "robustmpc"),
        ("ladder", "bba"),
        ("ladder", "robustmpc"),
        ("pointer", "fair"),
        ("pointer", "tuned"),
    ],
)
def test_whole_episodes_are_those_of_the_baseline(bundles, variant, name):
    task, folder = bundles[variant]
    assert list(task.fallbacks()) == (["fair", "tuned"] if task.name == "cjs" else ["bba", "robustmpc"])
    played, player = play_with(task, folder, Safety(fallback=name, faults=Faults("raised", 1.0)))
    expected = play(task.environment("test"), task.seeds("test")[:4], task.baselines()[BASELINES[name]])
    assert player.policy.fallback.name == name
    np.testing.assert_array_equal(played.action, expected.action)
    np.testing.assert_array_equal(played.reward, expected.reward)


def test_a_fallback_with_a_history_has_seen_every_decision(bundles):
    task, folder = bundles["fused"]
    session = guarded(edge.load(folder), Safety(fallback="robustmpc", faults=Faults("raised", 0.3))).start()
    alone = task.baselines()["robustmpc"]
    alone.start(1)
    environment = task.environment("test")
    observation, done, compared = environment.reset(task.seeds("test")[:1]), np.array([False]), 0
    while not done.all():
        action, expected = session.decide(observation), alone.act(observation)
        if session.outcome.reason is not None:
            assert action == expected[0]
            compared += 1
        observation, reward, done = environment.step(np.array([action]))
        session.observe(float(reward[0]))
    assert compared >= 5


def test_bba_goes_no_higher_in_its_first_decision_after_the_models(bundles):
    task, folder = bundles["fused"]
    observation = {**task.environment("test").reset(task.seeds("test")[:1]), "last_quality": np.array([2])}
    rich, poor = ({**observation, "buffer_s": np.array([buffer_s])} for buffer_s in (30.0, 7.0))
    for first, expected in ((rich, (2, 5, 5)), (poor, (1, 1, 1))):
        session = guarded(edge.load(folder)).start()
        session.decide(observation)
        assert session.outcome.by == "model"
        context = session.episodes[0].model.context
        context.decoder = FaultyDecoder(context.decoder, Faults("raised", 1.0))
        assert tuple(session.decide(first) for _ in range(3)) == expected


def test_the_description_is_small_and_the_first_is_the_default(bundles):
    for task, folder in (bundles["fused"], bundles["pointer"]):
        extra = read_bundle(folder).manifest.extra
        assert len(json.dumps(extra["fallback"])) < 4000
        assert fallback_of(extra, task.name).name == next(iter(task.fallbacks()))


def test_a_throughput_of_zero_is_no_end_of_planning(bundles):
    task, folder = bundles["fused"]
    session = guarded(edge.load(folder), Safety(fallback="robustmpc", faults=Faults("raised", 1.0))).start()
    observation = task.environment("test").reset(task.seeds("test")[:1])
    for chunks_left in (47, 46, 0, 200):
        changed = {**observation, "throughput_mbps": np.zeros(1), "chunks_left": np.array([chunks_left])}
        assert session.decide(changed) == 0
    assert session.outcome.by == "fallback"


def damaged(name: str, **changes: Any) -> dict[str, Any]:
    task = TASKS["pointer" if name in ("fair", "tuned") else "fused"]()
    policies = {key: {**options, **(changes if key == name else {})} for key, options in task.fallbacks().items()}
    return describe_fallbacks({task.name: policies})


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("bba", {"kind": "os.system"}, f"there are {', '.join(KINDS)}"),
        ("bba", {"kind": ["abr_bba"]}, "is of kind"),
        ("bba", {"levels": 0}, "cannot be as its manifest says"),
        ("bba", {"cushion_s": 0}, "cannot be as its manifest says"),
        ("robustmpc", {"sizes": [[1, 2], [3]]}, "cannot be as its manifest says"),
        ("robustmpc", {"sizes": [[0] * 48] * 6}, "cannot be as its manifest says"),
        ("robustmpc", {"bitrates_kbps": [300, 100, 1200, 1850, 2850, 4300]}, "cannot be as its manifest says"),
        ("robustmpc", {"bandwidth_scale": float("inf")}, "cannot be as its manifest says"),
        ("fair", {"weights": [0.0]}, "cannot be as its manifest says"),
        ("tuned", {"weights": "many"}, "cannot be as its manifest says"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(name, changes, words):
    task = "cjs" if name in ("fair", "tuned") else "abr"
    with pytest.raises(UserError, match=re.escape(words)):
        fallback_of({"fallback": damaged(name, **changes)}, task, name)


@pytest.mark.parametrize(("fallbacks", "words"), [("ladder", "4 levels"), ("pointer", "reads committable")])
def test_a_policy_that_does_not_fit_the_networks_is_refused(bundles, fallbacks, words, tmp_path):
    other = bundles[fallbacks][0].fallbacks()
    _, folder = bundle_of("fused", tmp_path, fallbacks={"abr": other})
    for name in other:
        with pytest.raises(UserError, match=words):
            guarded(edge.load(folder), Safety(fallback=name))


def test_a_stage_beyond_the_places_of_the_head_enters_the_context_as_in_torch(tmp_path):
    task = TASKS["per_stage"]()
    network = make(task)
    encoder = edge.load(export(network, tmp_path / "bundle")).networks.encoder
    observation = crowded(task.environment("test").reset(task.seeds("test")[:1]), stages=40)
    action = np.array([[37, 3]])
    columns = {name: getattr(value, "values", value) for name, value in observation.items()}
    columns |= {f"{name}_count": np.int64(observation[name].count) for name in ("stages", "jobs", "edges")}
    with torch.inference_mode():
        embedded = network.networks().encoder.embed(to_tensors(observation, torch.device("cpu")))
        expected = network.networks().encoder.action(torch.from_numpy(action)[:, None], embedded)[0]
    np.testing.assert_allclose(encoder.action(action, encoder.embed(columns)), expected, atol=1e-4)


def crowded(observation: Any, stages: int) -> Any:
    """The observation with so many schedulable stages of its first job, without edges."""
    row = observation["stages"].values[:, :1]
    rows = np.repeat(row, stages, axis=1)
    rows[..., SCHEDULABLE], rows[..., ROUGH] = 1, 1000 * np.arange(stages)
    edges = observation["edges"]
    return {
        **observation,
        "stages": Ragged(rows, np.array([stages], np.int32)),
        "edges": Ragged(edges.values, np.zeros_like(edges.count)),
    }


@pytest.mark.parametrize(
    "extra", [{}, {"fallback": []}, {"fallback": {"abr": {"policies": {}}}}, {"fallback": {"abr": 3}}]
)
def test_a_manifest_without_policies_is_refused(extra):
    with pytest.raises(UserError, match="no fall-back policy"):
        fallback_of(extra, "abr")
