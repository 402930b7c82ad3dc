"""The contract of a task, which separates a networking problem from everything else: required and optional methods.

A task knows its simulator, its data, its baselines and the two small networks that translate between observations,
actions and the backbone. It knows nothing of language models, Lightning, Hydra or W&B. A task is a subclass of `Task` in any
package, and a yaml with its `_target_` in a folder `task` of `conf/` or of `--config-dir`. `tasks/common/` has building
blocks for simple tasks, `python -m edgenetllm.tasks.check task=...` checks a task, `examples/congestion` is a complete one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgenetllm.errors import UserError
from edgenetllm.tasks.observation import Array as Array
from edgenetllm.tasks.observation import Observation as Observation
from edgenetllm.tasks.observation import Ragged as Ragged

Curve = list[dict[str, float]]
"""The course of a training or search: rows such as iteration, environment steps, seconds, mean reward on validation."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
LEARNT_FROM: tuple[Split, ...] = ("train", "val")  # what learns, and what chooses among what was learnt


@dataclass(frozen=True)
class Metric:
    """A figure that a task reports: logged as `test/<name>`, shown as `label [unit]`."""

    name: str
    label: str
    unit: str
    higher_is_better: bool


class Environment(Protocol):
    """Many episodes of a task, stepped together. An episode that is done ignores its action and gives reward 0."""

    def reset(self, seeds: npt.NDArray[np.int64]) -> Observation:
        """Start one episode per seed, shape (episodes,); a seed fixes everything random in its episode."""
        ...

    def step(self, actions: Array) -> tuple[Observation, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Apply actions (episodes, ...): next observation, reward (episodes,), done (episodes,)."""
        ...

    def sample(self, rng: np.random.Generator) -> Array:
        """A legal action for every episode, uniformly at random (episodes, ...)."""
        ...

    def record(self) -> Mapping[str, Array | Ragged]:
        """The step just taken: name -> (episodes, ...), what `replay.parquet` stores next to action and reward.

        The names in `tasks.names.REPLAY_COLUMNS` are taken. A column says nothing of a metric: `Task.summarise` does.
        """
        ...


@runtime_checkable
class WaitingEnvironment(Environment, Protocol):
    """An environment in which a decision can take time; both tasks of this package have it, others need not."""

    def wait(self, seconds: npt.NDArray[np.float64]) -> None:
        """Let so many seconds pass in each episode, (episodes,), after the observation and before `step`.

        What happens meanwhile counts to the step that follows. Waiting no time changes nothing, to the bit.
        """
        ...

    def elapsed_s(self) -> npt.NDArray[np.float64]:
        """Seconds of the simulated world since each episode began, (episodes,)."""
        ...


@runtime_checkable
class LabelledEnvironment(Environment, Protocol):
    """An environment that knows the right answer to each decision, as recorded data do.

    The answers become the targets of the experience pool, and the policy `truth` acts by them; no other policy sees them.
    """

    choices: int | None  # answers are integers from 0 to this number less 1; None: they are real numbers

    def answers(self) -> Array:
        """The right actions of the decision that is due, (episodes, ...), finite numbers also where an episode is done."""
        ...


@runtime_checkable
class Policy(Protocol):
    """A policy that needs no learning. It may keep a history, which `start` clears."""

    name: str

    def identity(self) -> str:
        """Everything that determines its decisions but its code: kind, options, a hash of weights.

        What it did is stored, and found again, under this text: two policies that can decide differently need two texts.
        """
        ...

    def start(self, episodes: int) -> None: ...

    def act(self, observation: Observation) -> Array:
        """Actions (episodes, ...) for one decision of every episode."""
        ...

    def targets(self, observation: Observation) -> npt.NDArray[np.float32] | None:
        """Supervised target of the decision just taken by `act`, in the layout of the head's loss; None: the action itself.

        Probabilities of all actions, say, or the action that was intended where another one is taken.
        """
        ...


def identity_of(policy: Policy) -> str:
    """The policy's `identity()`. Raises UserError for a policy without one: what it did could not be found again."""
    identity = getattr(policy, "identity", None)
    text = identity() if callable(identity) else None
    if not isinstance(text, str) or not text:
        raise UserError(
            f"policy {getattr(policy, 'name', policy)!r} ({type(policy).__module__}.{type(policy).__qualname__}) has no "
            "identity(): add `def identity(self) -> str` that returns its kind, its options and a hash of its weights"
        )
    return text


def classes_of(task: Task) -> list[type]:
    """The classes whose code a task runs: its own, and that of its data."""
    data = getattr(task, "data", None)
    return [type(task)] if data is None else [type(task), type(data)]


class Encoder(nn.Module):
    """Observation and action to tokens of the backbone's width.

    `embed` is computed once per step and handed to everything else, the head included. A Ragged `x` of the observation
    arrives as `x` (batch, steps, rows, ...) and `x_count` (batch, steps).
    """

    tokens_per_step: int  # state tokens only: without return-to-go and action

    def embed(self, observation: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Embed observations, (batch, steps, ...) per name; the result is for this encoder and its task's head."""
        return observation

    def state(self, embedded: Mapping[str, Tensor]) -> Tensor:
        """State tokens (batch, steps, tokens_per_step, width) of what `embed` returned."""
        raise NotImplementedError

    def action(self, action: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """Action tokens, (batch, steps, ...) -> (batch, steps, width); `embedded` is what the action was chosen on."""
        raise NotImplementedError

    def lr_multipliers(self) -> dict[str, float]:
        """Name of a parameter -> factor of its learning rate, where it must not be 1; 0 for one that never changes."""
        return {}

    def for_edge(self) -> dict[str, Any] | None:
        """Kind and options, as JSON, of the same encoder without torch, which `edge.load` builds from a bundle.

        None where there is none: such a bundle plays in an environment with torch alone.
        """
        return None


class Head(nn.Module):
    """Hidden state of the last state token to an action."""

    def loss(
        self,
        hidden: Tensor,
        embedded: Mapping[str, Tensor],
        action: Tensor,
        target: Tensor | None,
        mask: Tensor,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Mean over the steps of `mask` (batch, steps); soft targets where `target` has any, else the action.

        `counts` (terms,) replaces the numbers of decisions that the sums are divided by: of a batch that is computed in
        parts, so that the mean over the parts is the loss of the batch.
        """
        raise NotImplementedError

    def counts(self, action: Tensor, target: Tensor | None, mask: Tensor) -> Tensor:
        """Number of decisions that each term of the loss is a mean over, (terms,); it depends on the data alone."""
        return mask.sum()[None]

    def lr_multipliers(self) -> dict[str, float]:
        """Name of a parameter -> factor of its learning rate, where it must not be 1."""
        return {}

    def logits(self, hidden: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """Logits of the choices, (batch, steps, width) -> (batch, steps, choices)."""
        raise NotImplementedError

    def decide(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        """Actions, from (batch, steps, width); greedy, or sampled when a generator is given."""
        raise NotImplementedError

    def for_edge(self) -> dict[str, Any] | None:
        """Kind and options, as JSON, of the same head without torch, as `Encoder.for_edge` gives them."""
        return None


class Task(ABC):
    """A networking decision problem bound to its data: everything that a stage of the pipeline asks for.

    A task has a `name`, its `metrics`, and what is abstract here; all else has a default. In a dataclass, an option that is
    called like a default (`window: int = 8`) has that default too, unless it gives another or is `= Field()`.
    """

    name: str  # small letters, digits and _
    metrics: tuple[
        Metric, ...
    ]  # every figure of a results table, the one to optimise and to select checkpoints on first
    return_scale: float = 1.0  # divides return-to-go before it becomes a token: about the return of an episode
    relative_return: bool = False  # return-to-go is relative to `reference_returns`
    window: int | None = None  # steps that a token can look back on, its own included; None: the whole episode
    segment: int | None = None  # steps of a training sequence; None: whole episodes
    conditioned: bool = (
        True  # False: no token of a return-to-go, and no choice of one: for answers that are right or wrong
    )
    independent: bool = False  # True: a decision sees nothing of those before it, and leaves no token of its action
    training_set: int | None = None  # number of training episodes where they are finite: their seeds are 0, 1, 2, ...
    # Dotted name of a module that plots an episode; a name and no import, so that results do not depend on its code. It has
    # REQUIRED, the columns of the record that it reads, and `timeline(replay, episode, policies, path)`, which writes a png
    # from the table of `replay.parquet`; where it likes also `more(replay, folder)`: other plots, what they show -> png.
    timeline: str = ""

    @property
    def metric(self) -> Metric:
        """The first of `metrics`."""
        return self.metrics[0]

    @property
    @abstractmethod
    def max_steps(self) -> int:
        """Decisions in the longest episode; with a `window` only an estimate. It may be a class attribute."""

    @abstractmethod
    def data_hash(self, splits: Sequence[Split] = SPLITS) -> str:
        """Identity of the traces, videos, job profiles and seeds of these splits, for cache keys and `results.json`.

        What learns asks for training and validation only, so that it is found again whatever is tested afterwards.
        """

    @abstractmethod
    def environment(self, split: Split) -> Environment:
        """The simulator on the data of a split; called often, so a task should cache what it reads from disk."""

    @abstractmethod
    def seeds(self, split: Split) -> npt.NDArray[np.int64]:
        """Validation and test: one seed per trace or workload, (episodes,), always the same."""

    @abstractmethod
    def baselines(self) -> dict[str, Policy]:
        """The baselines of every results table, by name."""

    @abstractmethod
    def teacher(self) -> Policy:
        """The policy to clone first (its options tuned on validation data only)."""

    def yardstick(self) -> Policy:
        """The policy that gains are measured against in a run of several tasks: the teacher, unless it is always right."""
        return self.teacher()

    @abstractmethod
    def encoder(self, width: int) -> Encoder:
        """The network from observations and actions to tokens of `width` numbers, newly initialised."""

    @abstractmethod
    def head(self, width: int) -> Head:
        """The network from hidden states of `width` numbers to actions, newly initialised."""

    def summarise(self, record: Mapping[str, Any], reward: Array, valid: Array) -> dict[str, npt.NDArray[np.float64]]:
        """Metrics per episode, name -> (episodes,), from records and rewards (episodes, steps) and the mask of real steps.

        Every plot, table and interval has these values; they are stored in `metrics.parquet`.
        A record that was Ragged is an `experience.ragged.RaggedColumn`.

        By default means over the real steps: `metric` is the mean reward, any other one the mean of the record's column of
        its name. Raises UserError for a metric without such a column of one number a step.
        """
        columns: dict[str, Any] = {one.name: record.get(one.name) for one in self.metrics}
        columns[self.metric.name] = reward
        for name, column in columns.items():
            if getattr(column, "shape", None) != valid.shape:
                who = f"{type(self).__module__}.{type(self).__qualname__}"
                raise UserError(
                    f"{who}: the metric {name!r} is no column of the environment's record with one number a step: add the "
                    "column, or write summarise()"
                )
        return {name: np.mean(column, axis=1, where=valid) for name, column in columns.items()}

    def describe_data(self) -> list[str]:
        """Lines printed before a run: how much data there is, and what was dropped against leaks."""
        data = getattr(getattr(self, "data", None), "name", self.name)
        return [f"data: {data}; {len(self.seeds('val'))} validation and {len(self.seeds('test'))} test episodes"]

    def notes(self) -> list[str]:
        """Sentences that a reader of the results must know of the data; none where there is nothing unusual."""
        return []

    def reference_returns(self, seeds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64] | None:
        """The returns of a reference policy in the training episodes of these seeds, (episodes,).

        With `relative_return`, return-to-go is the fraction by which an episode's return exceeds it, the same for all steps.
        None without: return-to-go is the sum of the rewards to come.
        """
        return None

    def episode_names(self, split: Split) -> list[str]:
        """Human names of the episodes of `seeds`, all different."""
        return [f"seed {seed}" for seed in self.seeds(split)]

    def fallbacks(self) -> Mapping[str, dict[str, Any]]:
        """Policies that may decide at the edge where the model does not, by name, the default first.

        Each is a `kind` of `edge.agent.fallback.KINDS` with its options, as JSON: it lies in the manifest of the bundle.
        """
        return {}

    def tuned_as(self, other: Task) -> Policy | None:
        """The teacher for the episodes of this task, its options tuned on the validation data of `other`.

        None where the teacher has nothing to tune, or `other` nothing to tune it on.
        """
        return None

    def illegal_action(self, action: Array, observation: Mapping[str, Array]) -> str | None:
        """The reason why an action, of the right shape and type, cannot be taken on this observation; None where it can.

        Of one decision, without a dimension of episodes; a Ragged `x` of the observation is its rows. For logged decisions:
        the simulator refuses such an action itself.
        """
        return None

    def bounds(self, split: Split, progress: bool = False) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """Bounds that no policy can exceed: name -> metric name -> (episodes,); empty where no bound is known."""
        return {}
