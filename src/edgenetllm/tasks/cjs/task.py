"""Cluster job scheduling as a task: which jobs, which cluster, which tokens."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, SkipValidation
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Affects
from edgenetllm.errors import UserError
from edgenetllm.option_types import NUMBER, Count, FolderName, Positive
from edgenetllm.tasks.cjs.columns import SCHEDULABLE
from edgenetllm.tasks.cjs.data.datasets import Workload
from edgenetllm.tasks.cjs.networks.encoder import PointerEncoder
from edgenetllm.tasks.cjs.networks.head import PointerHead
from edgenetllm.tasks.cjs.networks.per_stage import PerStageEncoder, PlaceHead
from edgenetllm.tasks.cjs.policies.baselines import Random, Rule, fair, fifo, sjf_cp, srpt, tuned_rule, weighted_fair
from edgenetllm.tasks.cjs.policies.bound import mean_jct_bound_ms
from edgenetllm.tasks.cjs.policies.decima import Decima
from edgenetllm.tasks.cjs.policies.rollout import jct_ms, run_rule
from edgenetllm.tasks.cjs.policies.tuned import load_weights
from edgenetllm.tasks.cjs.simulator.environment import CjsEnvironment
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.profiles import Tables, tabulate
from edgenetllm.tasks.cjs.simulator.settings import FIRST_SEED, Setting
from edgenetllm.tasks.cjs.simulator.state import new_state
from edgenetllm.tasks.task import SPLITS, Array, Encoder, Head, Metric, Policy, Split, Task

METRICS = (
    Metric("jct_s", "mean JCT", "s", False),
    Metric("jct_p95_s", "p95 JCT", "s", False),
    Metric("makespan_s", "makespan", "s", False),
)
MOST_EPISODES = 10_000  # of a split, whose seeds must not run into the next one's
DECISIONS_PER_JOB = 30  # roughly, for progress bars
ALPHAS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5)  # of weighted fair, tried on validation; 0 is Fair
TUNING_EPISODES = 32  # on validation seeds: rules are cheap, so more of them than the language model is evaluated on
CAPS = (0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # of SJF-CP and SRPT, as fractions of the cluster


@dataclass(config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class CjsTask(Task):
    """Options of `task=cjs`; `data` is the object of the data group."""

    name: FolderName
    data: SkipValidation[Workload]
    tokens: Annotated[Literal["pointer", "per_stage"], Affects("adaptation")]
    # Required: without Field() the defaults of Task would be theirs.
    window: Annotated[Count, Affects("adaptation")] = Field()  # steps that a token can look back on
    segment: Annotated[Count, Affects("adaptation")] = Field()  # steps of a training sequence
    validation: Annotated[int, Field(ge=1, le=MOST_EPISODES), NUMBER] = Field()  # episodes
    test: Annotated[int, Field(ge=1, le=MOST_EPISODES), NUMBER, Affects("evaluation")] = Field()
    # Jobs of a training episode arrive this many times as often, a number between the two for each.
    train_load: tuple[Positive, Positive] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not isinstance(self.data, Workload):
            raise UserError(
                f"data={self.data.name} is not for task=cjs, which plays job profiles: synthetic_dags, tpch, folder "
                "(with task=abr+cjs, data@data.cjs=folder/cjs)"
            )
        if not self.train_load[0] <= self.train_load[1] < math.inf:
            raise UserError(f"task.train_load={list(self.train_load)}: give the least and the most, such as [0.8, 1.6]")
        for mix in (self._cluster.mix, self._tested.mix):
            mix.draw(0, self.data)  # what cannot be drawn is said before anything starts

    metrics = METRICS
    return_scale = 0.25
    timeline = "edgenetllm.tasks.cjs.timeline"
    relative_return = True

    @property
    def max_steps(self) -> int:
        """Decisions in the longest episode of training and validation; a recorded list must not change the pool."""
        return DECISIONS_PER_JOB * self._cluster.mix.jobs

    def data_hash(self, splits: Sequence[Split] = SPLITS) -> str:
        digest = hashlib.sha256(self._tables.sha256().encode())
        digest.update(repr((self._cluster, FIRST_SEED, self.validation, self.train_load)).encode())
        mix = self._cluster.mix
        if mix.names is not None or mix.name_weights is not None:
            digest.update(repr((mix.names, mix.name_weights)).encode())
        if "test" not in splits:
            return digest.hexdigest()
        digest.update(repr(self.test).encode())
        if self.data.recorded is not None:
            digest.update(repr(self._tested.mix.draw(0, self.data)).encode())
        return digest.hexdigest()

    def describe_data(self) -> list[str]:
        cluster, mix = self._cluster, self._cluster.mix
        jobs = f"{mix.jobs} jobs, one every {1 / mix.rate_per_ms / 1e3:.3g} s on average"
        if self.data.recorded is not None:
            jobs += f" (in test episodes {self._recorded_text}; only their durations differ)"
        if self.train_load != (1, 1):
            jobs += f" (training: {self.train_load[0]:g} to {self.train_load[1]:g} times as often)"
        return [
            f"data: {self.data.name}, {len(self._tables.names)} job profiles; setting {self.data.setting}: "
            f"{cluster.executors} executors, {jobs}; {self.validation} validation and {self.test} test episodes"
        ]

    def notes(self) -> list[str]:
        if self.data.recorded is None:
            return []
        return [f"the test episodes play {self._recorded_text}; training and validation drew {self.jobs} jobs each"]

    def environment(self, split: Split) -> CjsEnvironment:
        """Training seeds are any numbers; they are moved away from those of validation and test."""
        if split == "train":
            return CjsEnvironment(self._training_jobs, self._tables, self._cluster.rules, FIRST_SEED["train"])
        mix = (self._tested if split == "test" else self._cluster).mix
        return CjsEnvironment(lambda seed: mix.draw(seed, self.data), self._tables, self._cluster.rules)

    def seeds(self, split: Split) -> npt.NDArray[np.int64]:
        count = {"train": 1, "val": self.validation, "test": self.test}[split]
        return FIRST_SEED[split] + np.arange(count, dtype=np.int64)

    def reference_returns(self, seeds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The return of Fair: minus the sum of its jobs' completion times, ms."""
        mean_ms, _ = self.completion_ms(fair(), FIRST_SEED["train"] + seeds, "train")
        return -mean_ms * self._cluster.mix.jobs

    def baselines(self) -> dict[str, Policy]:
        policies: list[Policy] = [
            Random(),
            fifo(),
            fifo(1.0, "fifo_uncapped"),
            fair(),
            self._tuned["weighted_fair"],
            sjf_cp(),
            self._tuned["sjf_cp_capped"],
            self._tuned["srpt_capped"],
            Decima.load(),
            self.teacher(),
        ]
        return {policy.name: policy for policy in policies}

    def fallbacks(self) -> dict[str, dict[str, Any]]:
        """Fair, and the tuned rule."""
        return {
            "fair": {"kind": "cjs_capped", "weights": fair().weights.tolist()},
            "tuned": {"kind": "cjs_wide", "weights": self.teacher().weights.tolist()},
        }

    def teacher(self) -> Rule:
        """The linear rule, tuned by CMA-ES on training seeds of TPC-H for the cluster size nearest to this one."""
        return tuned_rule(load_weights(self.executors))

    @property
    def executors(self) -> int:
        """Number of executors in the cluster."""
        return self._cluster.executors

    @property
    def jobs(self) -> int:
        """Number of jobs in an episode of training or validation."""
        return self._cluster.mix.jobs

    def completion_ms(
        self, rule: Rule, seeds: npt.NDArray[np.int64], split: Split
    ) -> tuple[npt.NDArray[np.float64], int]:
        """Mean completion time of each of these episodes under a rule, (episodes,), and the decisions in them all."""
        draw = self.environment(split).draw
        jobs = [draw(int(seed)) for seed in seeds]
        state = new_state(jobs, seeds, self._tables, self._cluster.rules)
        jct = run_rule(state, self._tables, rule.kind, rule.weights)
        return jct, int(state.meta["decisions"].sum())

    def bounds(self, split: Split, progress: bool = False) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        executors = self._cluster.executors
        draw = self.environment(split).draw
        jobs = [draw(int(seed)) for seed in self.seeds(split)]
        bound = [mean_jct_bound_ms(episode, self._tables, executors) / 1e3 for episode in jobs]
        return {"lower_bound": {"jct_s": np.array(bound)}}

    def illegal_action(self, action: Array, observation: Mapping[str, Array]) -> str | None:
        index, executors = action.tolist()
        schedulable = int((observation["stages"][:, SCHEDULABLE] > 0).sum())
        committable = int(observation["committable"])
        if not -1 <= index < schedulable:
            return f"stage {index}, of {schedulable} that are schedulable (-1 for none)"
        if index >= 0 and not 1 <= executors <= committable:
            return f"{executors} executors, of {committable} that are committable"
        return None

    def encoder(self, width: int) -> Encoder:
        return PointerEncoder(width) if self.tokens == "pointer" else PerStageEncoder(width)

    def head(self, width: int) -> Head:
        return PointerHead(width) if self.tokens == "pointer" else PlaceHead(width)

    def summarise(self, record: Mapping[str, Any], reward: Array, valid: Array) -> dict[str, npt.NDArray[np.float64]]:
        """The metrics over the jobs of each episode; the makespan ends when the last one is complete."""
        steps = reward.shape[1]
        jct = [record["jct_s"].rows(episode, 0, steps) for episode in range(len(reward))]
        return {
            "jct_s": np.array([values.mean() for values in jct]),
            "jct_p95_s": np.array([np.quantile(values, 0.95) for values in jct]),
            "makespan_s": np.max(record["until_s"], axis=1, where=valid, initial=0.0),
        }

    def _training_jobs(self, seed: int) -> list[Job]:
        """The jobs of a training episode, busier or quieter than the setting by a factor between those of `train_load`."""
        mix = self._cluster.mix
        low, high = np.log(self.train_load)
        load = float(np.exp(np.random.default_rng([seed, 1]).uniform(low, high)))
        return replace(mix, rate_per_ms=mix.rate_per_ms * load).draw(seed, self.data)

    @cached_property
    def _tables(self) -> Tables:
        return tabulate(self.data.profiles())

    @cached_property
    def _cluster(self) -> Setting:
        return self.data.cluster()

    @cached_property
    def _tested(self) -> Setting:
        """A recorded list is for testing: training and validation draw their jobs."""
        return self.data.cluster(recorded=True)

    @property
    def _recorded_text(self) -> str:
        """The jobs of the recorded list that are played, in words."""
        played, listed = self._tested.mix.jobs, self.data.recorded_jobs
        return (
            f"the first {played} of {listed}" if played < listed else f"all {listed}"
        ) + f" jobs of {self.data.recorded}"

    @cached_property
    def _tuned(self) -> dict[str, Rule]:
        """Rules with one constant, the best of a few on validation."""
        candidates = {
            "weighted_fair": [weighted_fair(alpha) for alpha in ALPHAS],
            "sjf_cp_capped": [sjf_cp(cap, "sjf_cp_capped") for cap in CAPS],
            "srpt_capped": [srpt(cap, "srpt_capped") for cap in CAPS],
        }
        return {name: min(rules, key=self._validate) for name, rules in candidates.items()}

    def _validate(self, rule: Rule) -> float:
        seeds = FIRST_SEED["val"] + np.arange(TUNING_EPISODES)
        return float(jct_ms(rule, self.data, self._tables, seeds).mean())
