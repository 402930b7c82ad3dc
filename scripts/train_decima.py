"""Train Decima by PPO with input-dependent baselines: python scripts/train_decima.py --minutes 45

An iteration plays fresh job sequences, each several times side by side: same jobs, same task durations, other actions. The
advantage of a decision is its discounted return minus the mean, over these rollouts, of the return from the same moment on
(section 5.3 of the paper). Recipe and constants are those of spark-sched-sim's `trainers/` where nothing else is said here;
ours are shorter sequences that start under load, a higher learning rate and a lower entropy bonus, both falling linearly,
two epochs, and a mixture of two settings that one set of weights learns.

Every fifteenth iteration is compared on validation seeds, sampled; the best is kept at `--out`, and everything that is needed
to go on at `--checkpoint`. The result is a function of the options other than `--minutes`, unless time cuts it short.

The shipped weights are those of iteration 225 (the best on validation) of this command, 44 minutes of one core:

    --iterations 240 --learning-rate 3e-3 --minutes 75
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from edgenetllm.files import write_atomic
from edgenetllm.progress import tqdm
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags, Tpch
from edgenetllm.tasks.cjs.policies.baselines import fair
from edgenetllm.tasks.cjs.policies.decima import WEIGHTS, Decima, DecimaNet, Decisions, build_graph, chosen_job, decide
from edgenetllm.tasks.cjs.simulator.environment import CjsEnvironment
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.profiles import Tables, tabulate
from edgenetllm.tasks.cjs.simulator.settings import FIRST_SEED
from edgenetllm.tasks.task import Policy

Floats = npt.NDArray[np.float64]
Data = Tpch | SyntheticDags

VALIDATION_EPISODES = 8
VALIDATION_PERIOD = 15  # iterations


class PoolEntry(NamedTuple):
    """The episodes of one setting in an iteration, and how much the setting counts when checkpoints are compared."""

    setting: str
    jobs: int
    sequences: int
    weight: float


MIXTURE = (PoolEntry("default", jobs=40, sequences=4, weight=0.8), PoolEntry("small", jobs=20, sequences=2, weight=0.2))


@dataclass(frozen=True)
class Recipe:
    """Constants of the training."""

    iterations: int = 200  # of the whole schedule
    rollouts: int = 8  # of each sequence
    discount_per_ms: float = 5e-6
    learning_rate: float = 2e-3  # falls to a tenth
    entropy: float = 0.02  # falls to a tenth
    clip: float = 0.2
    epochs: int = 2
    minibatches: int = 10
    target_kl: float = 0.02  # no further epoch beyond
    max_gradient: float = 0.5


class Batch(NamedTuple):
    """The D decisions of a training iteration."""

    decisions: Decisions
    actions: npt.NDArray[np.int64]  # (D, 2)
    chances: npt.NDArray[np.float32]  # (D,) log probability under the policy that acted
    advantages: npt.NDArray[np.float32]  # (D,)


class Rollouts(NamedTuple):
    """Episodes side by side, padded to the longest; what is beyond an episode's end is zero, and `alive` False."""

    decisions: Decisions  # of alive (steps, episodes), row by row
    actions: npt.NDArray[np.int64]  # (D, 2)
    chances: npt.NDArray[np.float32]  # (D,)
    alive: npt.NDArray[np.bool_]  # (steps, episodes)
    times_ms: Floats  # (steps + 1, episodes): of the decisions, then of the end
    rewards: Floats  # (steps, episodes)


@torch.inference_mode()
def roll_out(
    net: DecimaNet, environment: CjsEnvironment, seeds: npt.NDArray[np.int64], generator: torch.Generator
) -> Rollouts:
    """One sampled episode per seed."""
    observation = environment.reset(seeds)
    decisions, actions, chances, alive, times, rewards = [], [], [], [], [], []
    done = np.zeros(len(seeds), bool)
    while not done.all():
        rows = np.flatnonzero(~done)
        decisions.append(Decisions.of(observation, rows))
        uniforms = torch.rand(len(seeds), 2, generator=generator, dtype=torch.float64)[torch.from_numpy(rows)]
        chosen, chance = decide(net, build_graph(decisions[-1]), uniforms)
        action = np.full((len(seeds), 2), -1)
        action[rows] = chosen.numpy()
        actions.append(action[rows])
        chances.append(chance.numpy())
        alive.append(~done)
        times.append(environment.state.meta["now_ms"].copy())
        observation, reward, done = environment.step(action)
        rewards.append(reward)
    times.append(environment.state.meta["now_ms"].copy())
    return Rollouts(
        Decisions.join(decisions), np.concatenate(actions), np.concatenate(chances), np.array(alive), np.array(times),
        np.array(rewards),
    )  # fmt: skip


def discounted_returns(rewards: Floats, times_ms: Floats, discount_per_ms: float) -> Floats:
    """Return from each decision on (steps, episodes), with costs that accrue evenly between decisions."""
    passed = np.diff(times_ms, axis=0) * discount_per_ms
    evenly = -np.expm1(-passed) / np.maximum(passed, 1e-12)
    returns = np.zeros_like(rewards)
    ahead = np.zeros(rewards.shape[1])
    for step in range(len(rewards) - 1, -1, -1):
        accrued = rewards[step] * np.where(passed[step] > 1e-9, evenly[step], 1.0)
        ahead = accrued + np.exp(-passed[step]) * ahead
        returns[step] = ahead
    return returns


def advantages(returns: Floats, times_ms: Floats, alive: npt.NDArray[np.bool_], rollouts: int) -> Floats:
    """Returns minus their mean over the `rollouts` neighbours that play the same sequence, at the same time; (steps,
    episodes), zero where not alive. Between a neighbour's decisions its return is interpolated."""
    result = np.zeros_like(returns)
    steps = alive.sum(0)
    for first in range(0, returns.shape[1], rollouts):
        group = range(first, first + rollouts)
        curves = [
            (np.append(times_ms[: steps[n], n], times_ms[-1, n]), np.append(returns[: steps[n], n], 0.0)) for n in group
        ]
        for n in group:
            now = times_ms[: steps[n], n]
            mean = np.mean([np.interp(now, *curve) for curve in curves], axis=0)
            result[: steps[n], n] = returns[: steps[n], n] - mean
    return result


def evaluate(net: DecimaNet, decisions: Decisions, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log probability (D,) of actions (D, 2), and the entropy of both choices over the log of their number (D,)."""
    graph = build_graph(decisions)
    embeddings = net.embed(graph)
    index, column = actions[:, 0], actions[:, 1] - 1
    stages = net.stage_logits(graph, embeddings).log_softmax(1)
    executors = net.executor_logits(graph, embeddings, chosen_job(graph, index)).log_softmax(1)
    chance = stages.gather(1, index[:, None]) + executors.gather(1, column[:, None])
    entropy = _entropy(stages) + _entropy(executors)
    scale = graph.executors * torch.from_numpy(decisions.counts[:, 0])
    return chance[:, 0], entropy / scale.log().clamp(min=1.0)


def _entropy(chances: Tensor) -> Tensor:
    """The entropy of log probabilities (D, n), some of them -inf."""
    finite = chances.masked_fill(chances.isinf(), 0.0)
    return -(chances.exp() * finite).sum(1)


def update_policy(
    net: DecimaNet, optimizer: torch.optim.Adam, batch: Batch, recipe: Recipe, entropy: float, rng: np.random.Generator
) -> tuple[float, float]:
    """PPO's epochs over one batch; returns the mean entropy and the last divergence from the policy that acted."""
    entropies, divergence = [], 0.0
    for _ in range(recipe.epochs):
        divergences = []
        for minibatch in np.array_split(rng.permutation(len(batch.actions)), recipe.minibatches):
            chance, spread = evaluate(net, batch.decisions.take(minibatch), torch.from_numpy(batch.actions[minibatch]))
            change = chance - torch.from_numpy(batch.chances[minibatch])
            ratio, advantage = change.exp(), torch.from_numpy(batch.advantages[minibatch])
            clipped = ratio.clamp(1 - recipe.clip, 1 + recipe.clip)
            loss = -torch.minimum(ratio * advantage, clipped * advantage).mean() - entropy * spread.mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.max_gradient)
            optimizer.step()
            divergences.append(float((ratio - 1 - change).detach().mean()))
            entropies.append(float(spread.detach().mean()))
        divergence = float(np.mean(divergences[-3:]))
        if divergence > recipe.target_kl:
            break
    return float(np.mean(entropies)), divergence


def collect(
    net: DecimaNet,
    environment: CjsEnvironment,
    seeds: npt.NDArray[np.int64],
    recipe: Recipe,
    generator: torch.Generator,
) -> Batch:
    """Rollouts of every seed; advantages have a mean square of one. Decisions without a choice are left out."""
    played = roll_out(net, environment, np.repeat(seeds, recipe.rollouts), generator)
    returns = discounted_returns(played.rewards, played.times_ms, recipe.discount_per_ms)
    advantage = advantages(returns, played.times_ms, played.alive, recipe.rollouts)[played.alive]
    advantage /= np.sqrt(np.mean(advantage**2)) + 1e-8
    counts, heads = played.decisions.counts, played.decisions.heads
    stages = np.repeat(np.arange(len(counts)), counts[:, 0])
    choices = np.bincount(stages, played.decisions.stages[:, 1], len(counts))
    informative = np.flatnonzero((choices > 1) | (heads[:, 0] > 1))
    return Batch(
        played.decisions.take(informative),
        played.actions[informative],
        played.chances[informative],
        advantage[informative].astype(np.float32),
    )


def loaded_start(jobs: Sequence[Job], seed: int) -> list[Job]:
    """A sequence after up to a quarter of its time, when all jobs until then are still waiting."""
    elapsed_ms = 0.25 * np.random.default_rng([seed, 1]).random() * jobs[-1].arrival_ms
    return [Job(job.profile, max(0.0, job.arrival_ms - elapsed_ms)) for job in jobs]


def training_environment(data: Data, tables: Tables) -> CjsEnvironment:
    cluster = data.cluster()
    return CjsEnvironment(lambda seed: loaded_start(cluster.mix.draw(seed, data), seed), tables, cluster.rules)


def mean_jct_s(policy: Policy, data: Data, tables: Tables, seeds: npt.NDArray[np.int64]) -> Floats:
    """Mean completion time of each episode's jobs in seconds, (episodes,)."""
    cluster = data.cluster()
    environment = CjsEnvironment(lambda seed: cluster.mix.draw(seed, data), tables, cluster.rules)
    observation = environment.reset(seeds)
    policy.start(len(seeds))
    done = np.zeros(len(seeds), bool)
    total = np.zeros(len(seeds))
    while not done.all():
        observation, reward, done = environment.step(policy.act(observation))
        total -= reward
    return total / cluster.mix.jobs / 1e3


class Checkpoint(NamedTuple):
    """The state of training: tensors and JSON in one file."""

    tensors: dict[str, Tensor]
    facts: dict[str, float]

    @staticmethod
    def of(net: DecimaNet, optimizer: torch.optim.Adam, facts: dict[str, float]) -> Checkpoint:
        tensors = {f"net.{name}": value.detach() for name, value in net.state_dict().items()}
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
        return Checkpoint(tensors, facts)

    def save(self, path: Path) -> None:
        write_atomic(path, save(self.tensors, {"facts": json.dumps(self.facts)}))

    @staticmethod
    def read(path: Path) -> Checkpoint:
        with safe_open(path, "pt") as file:
            return Checkpoint(
                {name: file.get_tensor(name) for name in list(file.keys())}, json.loads(file.metadata()["facts"])
            )

    def restore(self, net: DecimaNet, optimizer: torch.optim.Adam) -> None:
        net.load_state_dict({name[4:]: value for name, value in self.tensors.items() if name.startswith("net.")})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in self.tensors.items():
            if key.startswith("adam."):
                _, number, name = key.split(".")
                state.setdefault(int(number), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def train(
    data_dir: Path, recipe: Recipe, seed: int, until: int, minutes: float, checkpoint: Path | None, out: Path
) -> None:
    """Train to the end of iteration `until` or of the time; goes on from `checkpoint` if that exists."""
    # A new network, or the one that the checkpoint holds.
    started = time.monotonic()
    torch.manual_seed(seed)
    net = DecimaNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate)
    facts: dict[str, float] = {"iteration": 0, "best": np.inf}
    if checkpoint is not None and checkpoint.exists():
        saved = Checkpoint.read(checkpoint)
        saved.restore(net, optimizer)
        facts = saved.facts
    # Data of training and validation, and what Fair reaches on the latter.
    whole = [Tpch(name="tpch", setting=entry.setting, data_dir=data_dir) for entry in MIXTURE]
    short = [Tpch(name="tpch", setting=entry.setting, data_dir=data_dir, jobs=entry.jobs) for entry in MIXTURE]
    tables = tabulate(whole[0].profiles())
    environments = [training_environment(data, tables) for data in short]
    validation = FIRST_SEED["val"] + np.arange(VALIDATION_EPISODES)
    fair_s = [mean_jct_s(fair(), data, tables, validation) for data in whole]
    # Each iteration: play, then learn by PPO at falling rates.
    first = int(facts["iteration"])
    bar = tqdm(range(first, until), initial=first, total=until, desc="decima", unit="it")
    for iteration in bar:
        falling = 1 - 0.9 * iteration / recipe.iterations
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * falling
        rng = np.random.default_rng([seed, iteration])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        batches = []
        for entry, environment in zip(MIXTURE, environments, strict=True):
            seeds = FIRST_SEED["train"] + 1_000_000 * seed + iteration * entry.sequences + np.arange(entry.sequences)
            batches.append(collect(net, environment, seeds, recipe, generator))
        columns = zip(*batches, strict=True)
        batch = Batch(Decisions.join(next(columns)), *(np.concatenate(arrays) for arrays in columns))
        entropy, divergence = update_policy(net, optimizer, batch, recipe, recipe.entropy * falling, rng)
        bar.set_postfix(entropy=f"{entropy:.3f}", kl=f"{divergence:.4f}", best=f"{facts['best']:.3f}")
        over = time.monotonic() - started > 60 * minutes
        facts["iteration"] = iteration + 1
        # Compare on validation, keep the best weights and everything that is needed to go on.
        if iteration % VALIDATION_PERIOD == VALIDATION_PERIOD - 1 or iteration == until - 1 or over:
            jct = [mean_jct_s(Decima(net), data, tables, validation) for data in whole]
            score = sum(entry.weight * float((a / b).mean()) for entry, a, b in zip(MIXTURE, jct, fair_s, strict=True))
            times = ", ".join(f"{entry.setting} {a.mean():.1f} s" for entry, a in zip(MIXTURE, jct, strict=True))
            tqdm.write(
                f"iteration {iteration + 1}, minute {(time.monotonic() - started) / 60:.1f}: {times}, over Fair {score:.4f}, "
                f"entropy {entropy:.3f}, divergence {divergence:.4f}, {len(batch.actions)} decisions"
            )
            if score < facts["best"]:
                facts["best"] = score
                write_atomic(out, save({name: value.detach() for name, value in net.state_dict().items()}))
            if checkpoint is not None:
                Checkpoint.of(net, optimizer, facts).save(checkpoint)
        if over:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--minutes", type=float, default=45.0, help="stop then, even before the schedule ends")
    parser.add_argument("--iterations", type=int, default=Recipe.iterations, help="length of the schedule")
    parser.add_argument("--until", type=int, help="stop after this iteration (default: the whole schedule)")
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--entropy", type=float, default=Recipe.entropy)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--discount-per-ms", type=float, default=Recipe.discount_per_ms)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="saved at every validation; training goes on from it")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    recipe = Recipe(
        iterations=options.iterations,
        learning_rate=options.learning_rate,
        entropy=options.entropy,
        epochs=options.epochs,
        discount_per_ms=options.discount_per_ms,
    )
    until = min(options.until or recipe.iterations, recipe.iterations)
    train(options.data_dir, recipe, options.seed, until, options.minutes, options.checkpoint, options.out)


if __name__ == "__main__":
    main()
