"""Pensieve: the published state and network, PPO that learns, and the weights that ship."""

import numpy as np
import pytest
import torch
import yaml
from small import ROOT
from torch.nn import functional as F

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.abr.data.datasets import Public
from edgenetllm.tasks.abr.data.synthetic import generate
from edgenetllm.tasks.abr.data.traces import join
from edgenetllm.tasks.abr.data.videos import load_video
from edgenetllm.tasks.abr.policies import pensieve
from edgenetllm.tasks.abr.policies.baselines import Bba
from edgenetllm.tasks.abr.policies.pensieve import Pensieve, PensieveNet, states
from edgenetllm.tasks.abr.policies.tuning import mean_reward
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import FORMS
from edgenetllm.tasks.abr.task import AbrTask
from edgenetllm.tasks.task import Policy


@pytest.fixture
def net():
    torch.manual_seed(0)
    return PensieveNet().eval()


def test_sizes_are_the_published_ones(net):
    """128 filters of 4 taps, 128 units in the branches, 128 hidden: section 5.1 of the paper."""
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items() if name.endswith("weight")}
    positions = 5 + 5 + 3  # of 4 taps along 8 throughputs, 8 download times and 6 sizes
    assert shapes == {
        "body.quality.weight": (128, 1),
        "body.buffer.weight": (128, 1),
        "body.throughput.weight": (128, 1, 4),
        "body.delay.weight": (128, 1, 4),
        "body.sizes.weight": (128, 1, 4),
        "body.left.weight": (128, 1),
        "body.hidden.weight": (128, 128 * (3 + positions)),
        "output.weight": (6, 128),
    }


def test_branches_are_convolutions(net):
    """Layer by layer with torch's own conv1d, a filter's positions put where ours has them."""
    state = torch.rand(5, 25, generator=torch.Generator().manual_seed(1))
    body = net.body

    def conv(layer, first, width):
        return F.conv1d(state[:, None, first : first + width], layer.weight, layer.bias).transpose(1, 2).flatten(1)

    parts = [
        body.quality(state[:, 0:1]), body.buffer(state[:, 1:2]), conv(body.throughput, 2, 8), conv(body.delay, 10, 8),
        conv(body.sizes, 18, 6), body.left(state[:, 24:25]),
    ]  # fmt: skip
    hidden = torch.relu(body.hidden(torch.relu(torch.cat(parts, 1))))
    torch.testing.assert_close(net(state), net.output(hidden))


def plain_state(history, left):
    """Pensieve's `state[6, 8]` (`sim/multi_agent.py`), rolled chunk by chunk, then the parts that its network reads."""
    rates = [300, 750, 1200, 1850, 2850, 4300]
    state = [[0.0] * 8 for _ in range(6)]
    for chunk in history:
        state = [[*row[1:], 0.0] for row in state]
        state[0][-1] = rates[chunk["quality"]] / 4300
        state[1][-1] = chunk["buffer_s"] / 10
        state[2][-1] = chunk["bytes"] / chunk["delay_ms"] / 1000
        state[3][-1] = chunk["delay_ms"] / 1000 / 10
        for level in range(6):
            state[4][level] = chunk["next_bytes"][level] / 1000 / 1000
        state[5][-1] = min(left, 48) / 48
    return [state[0][-1], state[1][-1], *state[2], *state[3], *state[4][:6], state[5][-1]]


def test_state_is_that_of_the_public_code(environment, video):
    """Along one episode of random qualities, from before the history is full to the last decision."""
    rng, history = np.random.default_rng(3), []
    observation, quality, done = environment.reset(np.array([4])), 0, False
    for chunk in range(47):
        record = environment.record()
        following = video[:, chunk + 1]
        history.append(
            {
                "quality": quality,
                "buffer_s": float(record["buffer_s"][0]),
                "bytes": int(video[quality, chunk]),
                "delay_ms": 1000 * float(record["delay_s"][0]),
                "next_bytes": following,
            }
        )
        np.testing.assert_allclose(states(observation)[0], plain_state(history, 47 - chunk), rtol=1e-6)
        quality = int(rng.integers(6))
        observation, _, ends = environment.step(np.array([quality]))
        done = bool(ends[0])
    assert done


@pytest.mark.parametrize("sample_seed", [None, 0])
def test_decisions_are_repeatable_and_follow_the_probabilities(net, environment, sample_seed):
    policy = Pensieve(net, sample_seed=sample_seed)
    assert isinstance(policy, Policy)
    first, second = (play(environment, np.arange(12), policy, keep_observations=True) for _ in range(2))
    np.testing.assert_array_equal(first.action, second.action)
    probabilities = first.target
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    if sample_seed is None:
        np.testing.assert_array_equal(first.action, probabilities.argmax(-1))
    else:  # 564 draws: frequencies within five standard errors
        counts = np.bincount(first.action.ravel(), minlength=6)
        variance = (probabilities * (1 - probabilities)).sum((0, 1))
        assert (abs(counts - probabilities.sum((0, 1))) < 5 * np.sqrt(variance)).all()


def test_the_row_says_whose_weights_play():
    assert pensieve.pensieve_for("norway").identity().startswith("Pensieve(")
    assert pensieve.pensieve_for("fcc").name == "pensieve"
    for elsewhere in ("oboe", "puffer", "synthetic", "folder"):
        assert pensieve.pensieve_for(elsewhere).name == "pensieve_fcc"
    assert pensieve.pensieve_for("fcc").identity() != pensieve.pensieve_for("norway").identity()


@pytest.mark.parametrize("data", pensieve.OWN_WEIGHTS)
def test_shipped_weights_say_what_they_are(data):
    facts = pensieve.facts(pensieve.weights_of(data))
    assert (facts["data"], facts["video"], facts["qoe"]) == (data, "video1", "lin")
    validation = facts["validation"]
    assert validation[facts["decisions"]] == max(validation.values())
    assert pensieve.load(pensieve.weights_of(data)).sample_seed == (0 if facts["decisions"] == "sampled" else None)


@pytest.mark.parametrize("data", pensieve.OWN_WEIGHTS)
def test_shipped_weights_beat_bba_on_generated_traces(data, video):
    """Traces of up to 4 Mbps, between which there is something to decide."""
    traces = [trace for trace in generate(60, 320, seed=11) if 0.6 < trace.mbps.mean() < 4]
    assert len(traces) > 20
    environment = AbrEnvironment(join(traces, np.ones(len(traces), int)), video, FORMS["lin"], random_start=False)
    seeds = np.arange(len(traces))
    policy = pensieve.load(pensieve.weights_of(data))
    assert mean_reward(environment, seeds, policy) > mean_reward(environment, seeds, Bba()) + 0.1


def test_every_form_of_qoe_has_the_row(task):
    for form in FORMS:
        other = AbrTask(task.name, task.data, task.data_dir, form, "fused", noise=True, temperature=0.1)
        episodes = play(other.environment("test"), other.seeds("test"), other.baselines()["pensieve_fcc"])
        assert np.isfinite(episodes.reward).all()


def test_foreign_weights_are_refused(tmp_path):
    path = tmp_path / "no.safetensors"
    with pytest.raises(UserError, match=r"no\.safetensors"):
        pensieve.load(path)
    path.write_bytes(b"not a tensor")
    with pytest.raises(UserError, match=r"no\.safetensors"):
        pensieve.load(path)


def fcc(shared):
    return Public(
        name="fcc", data_dir=shared / "data", train=["abr/fcc/train", "abr/merina/train"], test="abr/fcc/test",
        validation=100, seed=0, video="video1",
    )  # fmt: skip


@pytest.mark.shared
def test_shipped_weights_beat_bba_on_fcc_validation(shared):
    data = fcc(shared)
    traces = data.splits().val
    sizes = load_video("video1", shared / "data")
    environment = AbrEnvironment(join(traces, data.starts(traces, "val")), sizes, FORMS["lin"], random_start=False)
    seeds = np.arange(len(traces))
    assert mean_reward(environment, seeds, pensieve.pensieve_for("fcc")) > (
        mean_reward(environment, seeds, Bba()) + 0.1
    )


@pytest.fixture(scope="module")
def training():
    pytest.importorskip("stable_baselines3")
    import train_pensieve

    return train_pensieve


@pytest.fixture
def constant(video):
    """A link of 1.5 Mbps, always: what is to be learnt is not to take more than that."""
    trace = generate(1, 320, seed=0)[0]
    trace.mbps[:] = 1.5
    return AbrEnvironment(join([trace], np.array([1])), video, FORMS["lin"], random_start=True)


def short(training, **changes):
    return training.Recipe(**{"iterations": 12, "environments": 8, "minibatch": 94, "entropy": 0.01, **changes})


def test_training_learns_a_constant_link(training, constant):
    recipe, seeds = short(training), np.arange(2)
    model = training.learner(training.Episodes(constant, recipe.environments, 0, recipe.reward_scale), recipe, 0)

    def sampled():
        return mean_reward(constant, seeds, Pensieve(training.actor(model), sample_seed=0))

    before = sampled()
    for iteration in range(recipe.iterations):
        training.learn_once(model, recipe, 0, iteration)
    assert before < -1
    assert sampled() > before + 1


def test_training_that_goes_on_is_the_same(training, constant, tmp_path):
    """Four iterations, or two, a checkpoint and two more: the same weights."""
    recipe, path = short(training, epochs=1), tmp_path / "point.pt"

    def fresh(first):
        episodes = training.Episodes(constant, recipe.environments, 0, recipe.reward_scale)
        episodes.iteration = first
        return training.learner(episodes, recipe, 0)

    whole, part = fresh(0), fresh(0)
    for iteration in range(4):
        training.learn_once(whole, recipe, 0, iteration)
    for iteration in range(2):
        training.learn_once(part, recipe, 0, iteration)
    average, other_average = training.actor(part), PensieveNet()
    options = {"data": "norway", "seed": 0}
    training.keep(path, part, average, options, {"iteration": 2, "best": 0.5})
    torch.manual_seed(7)
    other = fresh(2)
    assert training.restore(path, other, other_average, options) == {"iteration": 2, "best": 0.5}
    assert torch.equal(average.output.weight, other_average.output.weight)
    for iteration in (2, 3):
        training.learn_once(other, recipe, 0, iteration)
    for left, right in zip(whole.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)
    with pytest.raises(UserError, match="'seed': 0"):
        training.restore(path, other, other_average, {**options, "seed": 1})


def test_the_actor_that_ships_is_the_one_that_learns(training, constant, tmp_path):
    """Up to rounding to half precision, which is lossless from then on."""
    recipe = short(training)
    model = training.learner(training.Episodes(constant, 8, 0, recipe.reward_scale), recipe, 0)
    training.learn_once(model, recipe, 0, 0)
    observation = states(constant.reset(np.arange(5)))
    with torch.no_grad():
        wanted = model.policy.get_distribution(torch.from_numpy(observation)).distribution.probs
        net = training.rounded(training.actor(model))
        torch.testing.assert_close(net(torch.from_numpy(observation)).softmax(1), wanted, rtol=0, atol=2e-3)
    training.ship(tmp_path / "a.safetensors", net, {"decisions": "sampled"})
    loaded = pensieve.load(tmp_path / "a.safetensors")
    assert loaded.sample_seed == 0
    for left, right in zip(net.parameters(), loaded.net.parameters(), strict=True):
        assert torch.equal(left, right)


def test_entropy_weight_falls_as_published(training):
    weights = [training.entropy_weight(step / 150) for step in range(150)]
    assert weights == sorted(weights, reverse=True)
    assert (weights[0], weights[30], weights[60], weights[80], weights[100], weights[149]) == (5, 1, 0.7, 0.5, 0.3, 0.1)


def test_training_data_is_that_of_the_configuration(training):
    assert set(training.DATA) == set(pensieve.OWN_WEIGHTS)
    for name, options in training.DATA.items():
        configured = yaml.safe_load((ROOT / "conf" / "data" / f"{name}.yaml").read_text())
        assert {**options, "video": training.VIDEO, "seed": 0}.items() <= configured.items()


def test_average_of_weights_is_the_weighted_sum(training, net):
    """After three steps from a start: 0.8³ of it, and of the others 0.2 · 0.8², 0.2 · 0.8 and 0.2."""
    torch.manual_seed(1)
    others = [PensieveNet() for _ in range(3)]
    parts = [net.output.weight.detach().clone(), *(other.output.weight.detach() for other in others)]
    for other in others:
        training.follow(net, other, 0.8)
    shares = (0.8**3, 0.2 * 0.8**2, 0.2 * 0.8, 0.2)
    wanted = sum(share * part for share, part in zip(shares, parts, strict=True))
    torch.testing.assert_close(net.output.weight.detach(), wanted)
