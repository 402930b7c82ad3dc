"""Train Pensieve by PPO in our simulator: python scripts/train_pensieve.py --data norway --minutes 20

Needs `pip install -e '.[ppo]'` (stable-baselines3). Every iteration plays one episode in each of many environments (a
training trace, a start row and delay noise drawn from the seed), then PPO learns from them. The entropy weight falls in the
steps of github.com/godka/Pensieve-PPO (`src/ppo2.py`), scaled, since advantages are normalised here.

What ships is an average of the actor over the last iterations, which wavers less. Every tenth iteration it is evaluated on
validation traces, several start rows each, greedy and sampled; the best of all is kept at `--out`, rounded to half precision
before the evaluation, with the better of both ways of deciding. Everything that is needed to go on is kept at `--checkpoint`.
On one kind of processor, the result is a function of the options other than `--minutes`, unless time cuts it short.

The shipped weights are those of these commands, 14 and 17 minutes on a shared core. Both decide greedily, which was better on
validation. QoE there, the best of 30 and of 36 looks: fcc 1.424 (iteration 240; BBA 1.146, robustMPC 1.430), norway 0.836
(iteration 200; BBA 0.493, robustMPC 0.811):

    --data fcc --iterations 300 --entropy 0.01
    --data norway --iterations 360 --entropy 0.02 --averaging 0
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor, nn

from edgenetllm.errors import UserError
from edgenetllm.files import write_atomic
from edgenetllm.progress import tqdm
from edgenetllm.tasks.abr.data.datasets import Public
from edgenetllm.tasks.abr.data.traces import Trace, join
from edgenetllm.tasks.abr.data.videos import load_video
from edgenetllm.tasks.abr.policies.pensieve import (
    HIDDEN,
    STATE_WIDTHS,
    Pensieve,
    PensieveBody,
    PensieveNet,
    states,
    weights_of,
)
from edgenetllm.tasks.abr.policies.tuning import mean_reward
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import FORMS, LEVELS

try:
    from stable_baselines3 import PPO
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.utils import set_random_seed
    from stable_baselines3.common.vec_env import VecEnv
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("training Pensieve needs stable-baselines3: pip install -e '.[ppo]'") from error

VIDEO = "video1"
QOE_FORM = "lin"
DATA: dict[str, dict[str, Any]] = {  # as in conf/data
    "norway": {"train": ["abr/norway/train"], "test": "abr/norway/test", "validation": 30},
    "fcc": {"train": ["abr/fcc/train", "abr/merina/train"], "test": "abr/fcc/test", "validation": 100},
}
VALIDATION_PERIOD = 10  # iterations
VALIDATION_EPISODES = 300  # at least: so many start rows of each validation trace as that takes
ENTROPY_STEPS = ((0.13, 5.0), (0.33, 1.0), (0.47, 0.7), (0.6, 0.5), (0.8, 0.3), (1.0, 0.1))
"""Entropy weight until this fraction of the training; there 20, 50, 70, 90, 120 thousand iterations, taken as of 150."""


@dataclass(frozen=True)
class Recipe:
    """Constants of the training."""

    iterations: int = 300  # of the whole schedule
    environments: int = 128  # each plays one episode in an iteration
    learning_rate: float = 1e-3  # falls to a tenth, linearly
    entropy: float = 0.01  # times ENTROPY_STEPS
    discount: float = 0.99
    gae: float = 0.95
    clip: float = 0.2
    epochs: int = 4
    minibatch: int = 752  # decisions
    max_gradient: float = 0.5
    reward_scale: float = 0.05  # so that returns are around one
    averaging: float = 0.95  # of the actor's weights, per iteration


class Episodes(VecEnv):  # type: ignore[misc]  # where stable-baselines3 is not installed, it is Any
    """An AbrEnvironment as stable-baselines3's: all episodes end together, and the next ones begin.

    Seeds of iteration i are its own, so that training that goes on plays what it would have played.
    """

    def __init__(self, environment: AbrEnvironment, count: int, seed: int, reward_scale: float) -> None:
        self.environment, self.seed_base, self.reward_scale = environment, seed, reward_scale
        self.iteration = 0  # that `reset` starts
        space = gym.spaces.Box(-np.inf, np.inf, (sum(STATE_WIDTHS),), np.float32)
        super().__init__(count, space, gym.spaces.Discrete(LEVELS))

    def reset(self) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng([self.seed_base, self.iteration])
        self.iteration += 1
        return states(self.environment.reset(rng.integers(0, 2**31, int(self.num_envs))))

    def step_async(self, actions: npt.NDArray[np.int64]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_], Any]:
        observation, reward, done = self.environment.step(self._actions)
        scaled = (reward * self.reward_scale).astype(np.float32)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        return self.reset() if done.all() else states(observation), scaled, done, infos

    def close(self) -> None:
        """Does nothing: there is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "render_mode":
            return [None] * self.num_envs
        raise AttributeError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class Bodies(nn.Module):
    """Pensieve's body for the actor, and a perceptron for the critic: half the time of a second body."""

    latent_dim_pi, latent_dim_vf = HIDDEN, HIDDEN

    def __init__(self) -> None:
        super().__init__()
        self.actor = PensieveBody()
        layers = [nn.Linear(sum(STATE_WIDTHS), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
        self.critic = nn.Sequential(*layers)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(state), self.forward_critic(state)

    def forward_actor(self, state: Tensor) -> Tensor:
        return self.actor(state)  # type: ignore[no-any-return]

    def forward_critic(self, state: Tensor) -> Tensor:
        return self.critic(state)  # type: ignore[no-any-return]


class PensievePolicy(ActorCriticPolicy):  # type: ignore[misc]
    """Actor and critic where stable-baselines3 expects them."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = Bodies()  # type: ignore[assignment]


def learner(episodes: Episodes, recipe: Recipe, seed: int) -> PPO:
    """PPO over Pensieve's actor."""
    model = PPO(
        PensievePolicy,
        episodes,
        learning_rate=recipe.learning_rate,
        n_steps=episodes.environment.chunks - 1,
        batch_size=recipe.minibatch,
        n_epochs=recipe.epochs,
        gamma=recipe.discount,
        gae_lambda=recipe.gae,
        clip_range=recipe.clip,
        max_grad_norm=recipe.max_gradient,
        seed=seed,
        device="cpu",
        policy_kwargs={"ortho_init": False},
    )
    model.set_logger(Logger(None, []))
    return model


def actor(model: PPO) -> PensieveNet:
    """A copy of the actor."""
    net = PensieveNet()
    assert isinstance(model.policy.mlp_extractor, Bodies)
    net.body.load_state_dict(model.policy.mlp_extractor.actor.state_dict())
    net.output.load_state_dict(model.policy.action_net.state_dict())
    return net


def follow(average: PensieveNet, net: PensieveNet, averaging: float) -> None:
    """The moving average of the weights, in place."""
    with torch.no_grad():
        for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
            slow.lerp_(fast, 1 - averaging)


def rounded(net: PensieveNet) -> PensieveNet:
    """A copy whose weights are those that half precision keeps."""
    return copy.deepcopy(net).half().float()


def entropy_weight(progress: float) -> float:
    """Published entropy weight when this fraction of the training, in [0, 1), is over."""
    return next(weight for until, weight in ENTROPY_STEPS if progress < until)


def learn_once(model: PPO, recipe: Recipe, seed: int, iteration: int) -> None:
    """One iteration: episodes, then PPO's epochs; a function of the model, the recipe, the seed and the iteration."""
    set_random_seed(int(np.random.default_rng([seed, iteration, 1]).integers(2**31)))
    progress = iteration / recipe.iterations
    model.lr_schedule = lambda _: recipe.learning_rate * (1 - 0.9 * progress)
    model.ent_coef = recipe.entropy * entropy_weight(progress)
    model.learn(model.n_steps * model.n_envs, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]


def validation_environment(traces: list[Trace], sizes: npt.NDArray[np.int64]) -> AbrEnvironment:
    """An environment of every trace from several start rows, drawn once; without noise."""
    repeated = traces * -(-VALIDATION_EPISODES // len(traces))
    rng = np.random.default_rng(0)
    starts = np.array([rng.integers(1, len(trace.time_s)) for trace in repeated])
    return AbrEnvironment(join(repeated, starts), sizes, FORMS[QOE_FORM], random_start=False)


def validate(net: PensieveNet, environment: AbrEnvironment) -> dict[str, float]:
    """Mean QoE of both ways of deciding."""
    seeds = np.arange(len(environment.traces))
    return {
        "greedy": mean_reward(environment, seeds, Pensieve(net)),
        "sampled": mean_reward(environment, seeds, Pensieve(net, sample_seed=0)),
    }


def keep(path: Path, model: PPO, average: PensieveNet, options: dict[str, Any], facts: dict[str, float]) -> None:
    """The state of training: tensors and primitives, loadable with `weights_only=True`. `options` are data, seed, recipe."""
    buffer = io.BytesIO()
    state = {"policy": model.policy.state_dict(), "optimizer": model.policy.optimizer.state_dict()}
    state["average"] = average.state_dict()
    torch.save({**state, "facts": facts, "options": options}, buffer)
    write_atomic(path, buffer.getvalue())


def restore(path: Path, model: PPO, average: PensieveNet, options: dict[str, Any]) -> dict[str, float]:
    """Load the state into `model` and `average`. Raises UserError when the checkpoint is one of other options."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["options"] != options:
        raise UserError(f"{path} was made with {state['options']}: use these options, or another --checkpoint")
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(state["optimizer"])
    average.load_state_dict(state["average"])
    facts: dict[str, float] = state["facts"]
    return facts


def ship(path: Path, net: PensieveNet, facts: dict[str, Any]) -> None:
    """The file that `pensieve.load` reads."""
    tensors = {name: value.half() for name, value in net.state_dict().items()}
    write_atomic(path, save(tensors, {"facts": json.dumps(facts)}))


def train(
    data: str, data_dir: Path, recipe: Recipe, seed: int, minutes: float, checkpoint: Path | None, out: Path
) -> None:
    """Train to the end of the schedule or of the time; goes on from `checkpoint` if that exists."""
    # Data, environment and network; the checkpoint replaces what was learnt.
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")  # bfloat16 products where the processor has them: a third less time
    started = time.monotonic()
    public = Public(name=data, data_dir=data_dir, seed=0, video=VIDEO, **DATA[data])
    splits, sizes = public.splits(), load_video(VIDEO, data_dir)
    training = join(splits.train, public.starts(splits.train, "train"))
    environment = AbrEnvironment(training, sizes, FORMS[QOE_FORM], random_start=True, noise=True)
    validation = validation_environment(splits.val, sizes)
    episodes = Episodes(environment, recipe.environments, seed, recipe.reward_scale)
    model = learner(episodes, recipe, seed)
    average = actor(model)
    options = {"data": data, "seed": seed, **dataclasses.asdict(recipe)}
    facts: dict[str, float] = {"iteration": 0, "best": -np.inf}
    if checkpoint is not None and checkpoint.exists():
        facts = restore(checkpoint, model, average, options)
    first = episodes.iteration = int(facts["iteration"])
    # Each iteration: learn, and let the average follow.
    bar = tqdm(range(first, recipe.iterations), initial=first, total=recipe.iterations, desc=f"pensieve {data}")
    for iteration in bar:
        learn_once(model, recipe, seed, iteration)
        follow(average, actor(model), recipe.averaging)
        over = time.monotonic() - started > 60 * minutes
        facts["iteration"] = done = iteration + 1
        if done % VALIDATION_PERIOD and done != recipe.iterations and not over:
            continue
        # Compare on validation, keep the best weights and everything that is needed to go on.
        net = rounded(average)
        scores = validate(net, validation)
        decisions = max(scores, key=lambda name: scores[name])
        log = model.logger.name_to_value
        tqdm.write(
            f"iteration {done}, minute {(time.monotonic() - started) / 60:.1f}: greedy {scores['greedy']:.4f}, sampled "
            f"{scores['sampled']:.4f}, entropy {-log['train/entropy_loss']:.3f}, divergence {log['train/approx_kl']:.4f}, "
            f"variance explained {log['train/explained_variance']:.3f}"
        )
        if scores[decisions] > facts["best"]:
            facts["best"] = scores[decisions]
            about = {"data": data, "video": VIDEO, "qoe": QOE_FORM, "iteration": done, "decisions": decisions}
            ship(out, net, {**about, "validation": scores})
        bar.set_postfix(best=f"{facts['best']:.3f}")
        if checkpoint is not None:
            keep(checkpoint, model, average, options, facts)
        if over:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(DATA), required=True)
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("EDGENETLLM_DATA", "data")))
    parser.add_argument("--minutes", type=float, default=20.0, help="stop then, even before the schedule ends")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="saved at every validation; training goes on from it")
    parser.add_argument("--out", type=Path, help="default: the weights that ship for this data")
    for field in dataclasses.fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    options = parser.parse_args()
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)})
    out = options.out or weights_of(options.data)
    train(options.data, options.data_dir, recipe, options.seed, options.minutes, options.checkpoint, out)


if __name__ == "__main__":
    main()
