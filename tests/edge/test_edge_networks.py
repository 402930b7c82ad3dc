"""Encoders and heads without torch equal those with torch on whole episodes of both tasks, one or several side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from variants import TASKS, randomise

from edgenetllm.edge.networks import ENCODERS, HEADS
from edgenetllm.edge.observation import Reader
from edgenetllm.errors import UserError
from edgenetllm.models.session import to_tensors
from edgenetllm.tasks.common.edge import choose
from edgenetllm.tasks.common.encoders import VectorEncoder
from edgenetllm.tasks.common.heads import ChoiceHead, GaussianHead
from edgenetllm.tasks.common.layers import gelu

WIDTH = 48
CPU = torch.device("cpu")


def weights_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def both(module: torch.nn.Module, kinds: dict, seed: int):
    """A torch module with random weights, and its counterpart."""
    randomise(module, seed)
    described = module.for_edge()
    return module, kinds[described["kind"]](described, weights_of(module), WIDTH)


def close(actual: np.ndarray, expected: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert actual.shape == tuple(expected.shape)
    scale = float(expected.abs()[expected > -1e8].max()) if expected.numel() else 1.0
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=tolerance * max(1.0, scale))


@torch.no_grad()
@pytest.mark.parametrize("episodes", [1, 3])
@pytest.mark.parametrize("variant", sorted(TASKS))
def test_encoder_and_head_equal_torch_on_whole_episodes(variant, episodes):
    task = TASKS[variant]()
    torch_encoder, encoder = both(task.encoder(WIDTH), ENCODERS, 0)
    torch_head, head = both(task.head(WIDTH), HEADS, 1)
    environment, rng = task.environment("train"), np.random.default_rng(0)
    observation = environment.reset(np.arange(episodes))
    reader = Reader(encoder, episodes, single=False)
    done, decisions, chosen = np.zeros(episodes, bool), 0, set()
    while not done.all() and decisions < 120:
        # What both make of the observation.
        expected = torch_encoder.embed(to_tensors(observation, CPU))
        embedded = encoder.embed(reader.read(observation))
        state = torch_encoder.state(expected)[:, 0]
        close(encoder.state(embedded), state)
        for name in set(embedded) & {"stage", "job", "cluster"}:
            close(embedded[name], expected[name][:, 0])
        # What both decide on a hidden state.
        hidden = rng.standard_normal((episodes, WIDTH)).astype(np.float32)
        tensor = torch.from_numpy(hidden)[:, None]
        action = torch_head.decide(tensor, expected)
        np.testing.assert_array_equal(head.decide(hidden, embedded), action[:, 0].numpy())
        query = torch_head.hidden(tensor)[:, 0].numpy() if variant == "pointer" else hidden
        close(head.logits(query, embedded), torch_head.logits(tensor, expected)[:, 0], 1e-5)
        if variant in ("pointer", "per_stage"):
            place = action[:, 0, 0]
            ours = head.executor_logits(query, embedded, place.numpy())
            theirs = torch_head.executor_logits(tensor, expected, place[:, None])[:, 0]
            rows = place.numpy() >= 0  # nothing is handed out otherwise
            close(ours[rows], theirs[rows], 1e-5)
        close(encoder.action(action[:, 0].numpy(), embedded), torch_encoder.action(action, expected)[:, 0])
        chosen |= set(map(str, action[:, 0].tolist()))
        observation, _, done = environment.step(environment.sample(rng))
        decisions += 1
    assert decisions >= 15
    assert len(chosen) > 2


def test_a_graph_with_any_levels_and_no_edges_or_stages_equals_torch():
    task, rng = TASKS["pointer"](), np.random.default_rng(1)
    torch_encoder, encoder = both(task.encoder(WIDTH), ENCODERS, 0)
    for stages, edges in ((9, 20), (4, 0), (0, 0)):
        rows = {"stages": rng.integers(0, 5, (2, stages, 10)), "jobs": rng.integers(0, 9, (2, 3, 6)),
                "edges": rng.integers(0, max(1, stages), (2, edges, 2))}  # fmt: skip
        columns = {name: values.astype(np.int64 if name == "edges" else np.float32) for name, values in rows.items()}
        columns["stages"][..., 0] %= 3
        columns |= {f"{name}_count": np.full(2, values.shape[1]) for name, values in rows.items()}
        columns |= {name: np.array([3, 2]) for name in ("committable", "executors")} | {"source_job": np.array([-1, 1])}
        encoder.check(columns)
        if not stages:  # torch's padding has at least a row
            padded = {
                name: np.zeros((2, 1, columns[name].shape[2]), columns[name].dtype) for name in ("stages", "edges")
            }
        else:
            padded = {"edges": columns["edges"]} if edges else {"edges": np.zeros((2, 1, 2), np.int64)}
        tensors = {name: torch.from_numpy(value)[:, None] for name, value in (columns | padded).items()}
        with torch.no_grad():
            close(encoder.state(encoder.embed(columns)), torch_encoder.state(torch_encoder.embed(tensors))[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("action", [torch.nn.Embedding(5, WIDTH), torch.nn.Linear(2, WIDTH)])
def test_the_encoder_of_numbers_equals_torch(action):
    torch_encoder, encoder = both(VectorEncoder(WIDTH, {"a": 2.0, "b": [1.0, 4.0]}, action), ENCODERS, 0)
    rng = np.random.default_rng(0)
    observation = {"a": rng.random(4), "b": rng.random((4, 2)), "more": np.zeros(4)}
    embedded = Reader(encoder, 4, single=False).read(observation)
    close(encoder.state(embedded), torch_encoder.state(to_tensors(observation, CPU))[:, 0])
    taken = rng.integers(0, 5, 4) if isinstance(action, torch.nn.Embedding) else rng.random((4, 2)).astype(np.float32)
    close(encoder.action(taken, embedded), torch_encoder.action(torch.from_numpy(taken)[:, None], {})[:, 0])


@torch.no_grad()
def test_the_head_of_real_numbers_equals_torch_and_samples_its_distribution():
    torch_head, head = both(GaussianHead(WIDTH, 2), HEADS, 0)
    hidden = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)
    mean = torch_head.decide(torch.from_numpy(hidden)[:, None], {})[:, 0]
    close(head.decide(hidden, {}), mean)
    rng = np.random.default_rng(1)
    drawn = np.stack([head.decide(hidden, {}, rng) for _ in range(4000)])
    spread = torch_head.log_std.exp().numpy()
    assert np.abs(drawn.mean(0) - mean.numpy()).max() < 5 * spread.max() / math.sqrt(4000)
    np.testing.assert_allclose(drawn.std(0), np.tile(spread, (3, 1)), rtol=0.06)


def test_the_first_of_equal_choices_is_taken_and_choices_are_drawn_as_often_as_they_are_probable():
    logits = np.array([[1, 3, 3, -1e9], [0, 0, 0, 0], [-1e9, -1e9, 2, -1e9]], np.float32)
    assert choose(logits, None).tolist() == torch.from_numpy(logits).argmax(-1).tolist() == [1, 0, 2]
    rng, drawn = np.random.default_rng(0), np.zeros((3, 4))
    for _ in range(4000):
        drawn[np.arange(3), choose(logits, rng)] += 1
    probability = torch.from_numpy(logits).softmax(-1).numpy()
    assert (drawn[probability < 1e-9] == 0).all()
    np.testing.assert_allclose(drawn / 4000, probability, atol=0.035)


def test_gelu_is_exact_in_float32():
    x = np.linspace(-8, 8, 40001).astype(np.float32)
    ours = x.copy()
    gelu(ours)
    exact = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in x.tolist()])
    assert (np.abs(ours - exact) < 5e-7 * np.maximum(1, np.abs(x))).all()


def test_a_subclass_with_ways_of_its_own_has_no_counterpart():
    class Own(ChoiceHead):
        pass

    assert Own(WIDTH, 3).for_edge() is None
    assert ChoiceHead(WIDTH, 3).for_edge() == {"kind": "choice", "choices": 3}
    assert VectorEncoder(WIDTH, {"a": 1.0}, torch.nn.Sequential()).for_edge() is None


def test_weights_that_do_not_fit_the_description_are_refused():
    module = TASKS["fused"]().encoder(WIDTH)
    described, weights = module.for_edge(), weights_of(module)
    make = ENCODERS["abr_fused"]
    with pytest.raises(
        UserError, match=r"actions.weight is \(6, 48\), but its description says \(3, 48\)|network.0.weight"
    ):
        make(described | {"mbps": [1.0, 2.0, 3.0]}, weights, WIDTH)
    with pytest.raises(UserError, match=r"lacks actions\.weight"):
        make(described, {name: value for name, value in weights.items() if name != "actions.weight"}, WIDTH)
    with pytest.raises(UserError, match="has more"):
        make(described, weights | {"more": np.zeros(3)}, WIDTH)
    with pytest.raises(UserError, match="features 'other'"):
        make(described | {"features": "other"}, weights, WIDTH)
