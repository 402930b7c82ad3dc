"""Counterfactual search for an expert: small networks trained in the simulator on the returns of alternative actions.

1. Clone the teacher's soft targets on many episodes, some of its actions disturbed.
2. Again and again: play training episodes; at every state visited try all qualities, follow the present policy for
   `horizon` chunks, and move the probabilities towards the qualities that earned most, in the states of the last few
   iterations: these change little meanwhile, and trying the alternatives costs far more than learning from them.
3. Do so with a few networks; the mean of their probabilities is steadier than any of them.

The future of a training trace tells what an action was worth, but the policy never sees it: over many traces the gain is
averaged over the futures that a state can have.
"""

from __future__ import annotations

import copy
import io
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from joblib import delayed
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor

from edgenetllm.affects import Affects
from edgenetllm.errors import UserError
from edgenetllm.hashed import store_file, stored_file
from edgenetllm.option_types import (
    NUMBER,
    Backend,
    Count,
    FractionOrZero,
    LearningRate,
    NotNegative,
    Positive,
    Processes,
    Text,
)
from edgenetllm.parallel import parallel
from edgenetllm.progress import tqdm
from edgenetllm.tasks.abr.expert.mlp_policy import EnsemblePolicy, MlpPolicy, features
from edgenetllm.tasks.abr.policies.tuning import mean_reward
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.task import AbrTask
from edgenetllm.tasks.task import Array, Curve, Policy, Task


@checked(config=ConfigDict(extra="forbid"))
class CounterfactualSearch:
    """Options of the counterfactual search (`experience=expert`)."""

    name: Text = "counterfactual"
    members: Count = 3  # networks, each from its own seed, whose mean probabilities are the policy
    clone_episodes: Count = 400  # of the teacher, to begin with
    clone_epochs: Count = 20
    iterations: Count = 120
    episodes: Count = 128  # played in an iteration; each visits 47 states
    horizon: Count = 26  # chunks that an alternative is followed
    explore: FractionOrZero = 0.05  # fraction of random actions in these episodes
    clamp: Positive = 1000.0  # largest loss of an action against the best one, in reward: stalls must hurt
    entropy: NotNegative = 0.01
    lr: LearningRate = 1e-3
    memory: Count = 6  # iterations whose states are learnt from: the last ones
    updates: Count = 48  # of the weights in an iteration, each from 512 of these states
    averaging: Annotated[float, Field(ge=0, lt=1), NUMBER] = 0.93  # of the weights, per iteration: of the policy
    validate_every: Count = 10  # iterations
    workers: Annotated[Processes, Affects("nothing")] = 1  # members at a time, on the Ray cluster
    backend: Annotated[Backend, Affects("nothing")] = "joblib"  # ray: on the Ray cluster, else one after the other here

    def search(self, task: Task, seed: int, unfinished: Path, progress: bool) -> tuple[EnsemblePolicy, Curve]:
        """Search from the task's teacher. Files next to `unfinished` let an interrupted search go on.

        The last row of the curve is of all members together. Raises UserError for another task than streaming.
        """
        if not isinstance(task, AbrTask):
            raise UserError(f"experience.expert searches policies of task=abr, not of task={task.name}")
        environment, seeds = task.environment("val"), task.seeds("val")

        def validate(policy: Policy) -> float:
            return mean_reward(environment, seeds, policy)

        policies: list[MlpPolicy] = []
        curve: Curve = []
        files = [unfinished.with_name(f"{unfinished.name}-{member}") for member in range(self.members)]
        for member, (policy, rows) in enumerate(self._members(task, seed, files, progress)):
            policies.append(policy)
            before = curve[-1] if curve else {"steps": 0, "seconds": 0}
            for row in rows:
                more = {name: row[name] + before[name] for name in ("steps", "seconds")}
                curve.append({"member": member, **row, **more})
        together = EnsemblePolicy(policies)
        curve.append({**curve[-1], "member": self.members, "validation": validate(together)})
        return together, curve

    def _members(
        self, task: AbrTask, seed: int, files: Sequence[Path], progress: bool
    ) -> Iterable[tuple[MlpPolicy, Curve]]:
        """Each network and its curve, from a seed of its own, wherever it is computed."""
        away = self.backend == "ray"
        with parallel(self.workers if away else 1, self.backend) as compute:
            yield from compute(
                delayed(_search_member)(
                    task, self, 1000 * member + seed, progress and not away, file, torch.get_num_threads()
                )
                for member, file in enumerate(files)
            )

    def load(self, weights: dict[str, Tensor]) -> EnsemblePolicy:
        """The policy of a stored `state_dict`."""
        levels = len(weights["members.0.network.4.bias"])
        policies = EnsemblePolicy([MlpPolicy(levels=levels) for _ in range(self.members)])
        policies.load_state_dict(weights)
        return policies


def _search_member(
    task: AbrTask, options: CounterfactualSearch, seed: int, progress: bool, unfinished: Path, threads: int
) -> tuple[MlpPolicy, Curve]:
    """One network, computed with as many torch `threads` as in the process that asks for it: sums differ by them."""
    torch.set_num_threads(threads)
    environment, seeds = task.environment("val"), task.seeds("val")
    return search(
        lambda: task.environment("train"),
        lambda policy: mean_reward(environment, seeds, policy),
        task.teacher(),
        options,
        seed,
        progress,
        unfinished,
    )


def search(
    train: Callable[[], AbrEnvironment],
    validate: Callable[[Policy], float],
    teacher: Policy,
    options: CounterfactualSearch,
    seed: int,
    progress: bool = True,
    unfinished: Path | None = None,
) -> tuple[MlpPolicy, Curve]:
    """The averaged policy that did best on validation, and the curve: iteration, environment steps, seconds, mean reward.

    `train` gives a new environment of training episodes, `validate` the mean reward of a policy on validation episodes.
    `unfinished` is written as it goes, and gone on from where it is there; of a finished search it holds the result.
    """
    # A policy that clones the teacher, or the unfinished search.
    torch.manual_seed(seed)
    policy = MlpPolicy(levels=train().levels)
    optimizer = torch.optim.Adam(policy.parameters(), lr=options.lr)
    memory: deque[tuple[Tensor, Tensor]] = deque(maxlen=options.memory)
    began = time.perf_counter()
    stored = None if unfinished is None else stored_file(unfinished)
    if stored is not None:
        state: dict[str, Any] = torch.load(io.BytesIO(stored), weights_only=True)
        average, best = _mlp_policy(state["average"]), _mlp_policy(state["best"])
        policy.load_state_dict(state["policy"])
        optimizer.load_state_dict(state["optimizer"])
        memory.extend(state["memory"])
        curve: Curve = state["curve"]
        began -= curve[-1]["seconds"]
    else:
        clone(policy, train(), teacher, options, np.random.default_rng([seed, 5]), progress)
        average, best = copy.deepcopy(policy), copy.deepcopy(policy)
        seconds = time.perf_counter() - began
        curve = [{"iteration": 0, "steps": 0, "seconds": seconds, "validation": validate(policy)}]
    # Each iteration: visit states, try every action in them, learn, and let the average follow.
    first, steps = int(curve[-1]["iteration"]) + 1, int(curve[-1]["steps"])
    iterations = range(first, options.iterations + 1)
    with tqdm(iterations, desc="searching in the simulator", disable=not progress) as bar:
        for iteration in bar:
            rng = np.random.default_rng([seed, 6, iteration])
            for group in optimizer.param_groups:
                group["lr"] = options.lr * (1 - 0.9 * iteration / options.iterations)
            states = visited(train(), average, options.episodes, options.explore, rng)
            values = action_values(states, average, options.horizon)
            steps += values.size * options.horizon
            memory.append((features(states.observe()), lost(values, options.clamp)))
            inputs, losses = (torch.cat(tensors) for tensors in zip(*memory, strict=True))
            learn(policy, optimizer, inputs, losses, options, rng)
            for slow, fast in zip(average.parameters(), policy.parameters(), strict=True):
                slow.data.lerp_(fast.data, 1 - options.averaging)
            # Compare on validation, keep the best and everything that is needed to go on.
            if iteration % options.validate_every == 0 or iteration == options.iterations:
                score, seconds = validate(average), time.perf_counter() - began
                curve.append({"iteration": iteration, "steps": steps, "seconds": seconds, "validation": score})
                bar.set_postfix(validation=f"{score:.3f}")
                if score == max(row["validation"] for row in curve):
                    best = copy.deepcopy(average)
                if unfinished is not None:
                    models = {"policy": policy, "average": average, "best": best}
                    _keep(unfinished, models, optimizer, list(memory), curve)
    return best, curve


def _mlp_policy(weights: dict[str, Tensor]) -> MlpPolicy:
    policy = MlpPolicy(levels=len(weights["network.4.bias"]))
    policy.load_state_dict(weights)
    return policy


def _keep(
    path: Path,
    models: dict[str, MlpPolicy],
    optimizer: torch.optim.Optimizer,
    memory: list[tuple[Tensor, Tensor]],
    curve: Curve,
) -> None:
    state = {name: model.state_dict() for name, model in models.items()}
    buffer = io.BytesIO()
    torch.save({**state, "optimizer": optimizer.state_dict(), "memory": memory, "curve": curve}, buffer)
    store_file(path, buffer.getvalue())


def clone(
    policy: MlpPolicy,
    environment: AbrEnvironment,
    teacher: Policy,
    options: CounterfactualSearch,
    rng: np.random.Generator,
    progress: bool,
) -> None:
    """Cross-entropy with the teacher's probabilities, in place."""
    # Play episodes with the teacher, some of its actions replaced, and keep its probabilities.
    seeds = rng.integers(0, 2**31, options.clone_episodes)
    observation, inputs, targets = environment.reset(seeds), [], []
    teacher.start(len(seeds))
    done = np.zeros(len(seeds), bool)
    while not done.all():
        inputs.append(features(observation))
        action = teacher.act(observation)
        targets.append(torch.from_numpy(np.asarray(teacher.targets(observation))))
        random = rng.random(len(seeds)) < options.explore
        observation, _, done = environment.step(np.where(random, environment.sample(rng), action))
    # Fit the network to them.
    x, y = torch.cat(inputs), torch.cat(targets)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for _ in tqdm(range(options.clone_epochs), desc="cloning the teacher", disable=not progress):
        for batch in torch.from_numpy(rng.permutation(len(x))).split(512):
            loss = torch.nn.functional.cross_entropy(policy(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def visited(
    environment: AbrEnvironment, policy: MlpPolicy, episodes: int, explore: float, rng: np.random.Generator
) -> AbrEnvironment:
    """Every state of `episodes` episodes that `policy` plays, each an episode of the environment that is returned."""
    observation = environment.reset(rng.integers(0, 2**31, episodes))
    states, done = [], np.zeros(episodes, bool)
    while not done.all():
        states.append(environment.clone())
        random = rng.random(episodes) < explore
        action = np.where(random, environment.sample(rng), policy.act(observation))
        observation, _, done = environment.step(action)
    return AbrEnvironment.together(states)


def action_values(states: AbrEnvironment, policy: MlpPolicy, horizon: int) -> npt.NDArray[np.float64]:
    """Reward of each quality now and of `policy` afterwards, over `horizon` chunks in all, (states, levels)."""
    count = len(states.observe()["last_quality"])
    branches = states.clone(np.repeat(np.arange(count), states.levels))
    action: Array = np.tile(np.arange(states.levels), count)
    total = np.zeros(count * states.levels)
    for _ in range(horizon):
        observation, reward, _ = branches.step(action)
        total += reward
        action = policy.act(observation)
    return total.reshape(count, states.levels)


def lost(values: npt.NDArray[np.float64], most: float) -> Tensor:
    """The reward by which each quality falls short of the best one, at most `most`, (states, levels)."""
    return torch.from_numpy(np.clip(values.max(1, keepdims=True) - values, 0, most)).float()


def learn(
    policy: MlpPolicy,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    losses: Tensor,
    options: CounterfactualSearch,
    rng: np.random.Generator,
) -> None:
    """Lower the expected loss of the policy's choice in states drawn from these, with a little entropy, in place."""
    for batch in torch.from_numpy(rng.integers(0, len(inputs), (options.updates, 512))):
        logarithms = policy(inputs[batch]).log_softmax(-1)
        probabilities = logarithms.exp()
        expected = (probabilities * losses[batch]).sum(-1).mean()
        entropy = -(probabilities * logarithms).sum(-1).mean()
        optimizer.zero_grad()
        (expected - options.entropy * entropy).backward()
        optimizer.step()
