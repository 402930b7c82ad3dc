"""Evolutionary search for an expert: the wide rule, evolved in the simulator from the teacher or an earlier result.

The return of an alternative action is lost here in the noise of the jobs that arrive later (docs/log.md), so whole
rules are compared by whole episodes: CMA-ES with common random numbers. In every generation all candidates play the same
fresh training episodes, and a candidate's figure is the mean over episodes of its completion time over the teacher's. The
policy that is validated, and returned, is the mean of the search distribution, never the luckiest candidate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

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
from edgenetllm.option_types import NUMBER, Backend, Count, CountOrZero, Positive, Processes, Text
from edgenetllm.parallel import Piece, parallel
from edgenetllm.progress import tqdm
from edgenetllm.tasks.cjs.policies.baselines import Rule
from edgenetllm.tasks.cjs.policies.rules import WIDE
from edgenetllm.tasks.cjs.policies.targets import softmax_target
from edgenetllm.tasks.cjs.policies.tuned import load_evolved
from edgenetllm.tasks.cjs.policies.wide_rule import WIDE_WEIGHTS, score_all
from edgenetllm.tasks.cjs.simulator.settings import FIRST_SEED
from edgenetllm.tasks.cjs.task import MOST_EPISODES, CjsTask
from edgenetllm.tasks.task import Curve, Observation, Task

Weights = npt.NDArray[np.float64]

# Of a weight in the search distribution, in units of `sigma`; 1 unless said: features that vary more may count for less.
WIDTHS = {"score_work_squared": 0.3, "cap_work_squared": 0.3, "stage_level": 0.1, "full": 2.0}
SEEDS_APART = 1_000_000  # of the training episodes of two seeds
LEAST_EPISODES = 8  # of a candidate, however many jobs these have


class WideRule(Rule):
    """The rule that a search found; WIDE_WEIGHTS says what the weights are."""

    def __init__(self, weights: npt.ArrayLike, temperature: float = 0.2) -> None:
        super().__init__("expert", WIDE, weights)
        self.temperature = temperature

    def targets(self, observation: Observation) -> npt.NDArray[np.float32]:
        """The rule's own action, and probabilities by its scores: a near miss is worth more than a far one."""
        stages, jobs = observation["stages"], observation["jobs"]
        scores = np.empty(stages.values.shape[:2])
        score_all(
            stages.values, jobs.values, stages.count, jobs.count, observation["committable"],
            observation["source_job"], observation["executors"], self.weights, scores,
        )  # fmt: skip
        return softmax_target(self._meant, scores, self.temperature)

    def identity(self) -> str:
        """The rule's weights, and the temperature of what it teaches."""
        return f"{super().identity()} at {self.temperature}"

    def state_dict(self) -> dict[str, Tensor]:
        return {"weights": torch.from_numpy(self.weights)}


@checked(config=ConfigDict(extra="forbid"))
class Evolution:
    """Options of evolution (`experience=expert` of task=cjs)."""

    name: Text = "evolution"
    start: Literal["tuned", "evolved"] = "tuned"  # the task's teacher, or the evolved rule that ships with the package
    generations: CountOrZero = 100
    population: Annotated[int, Field(ge=4, le=100_000), NUMBER] = 20
    jobs: Count = 4000  # that a candidate schedules, in as many episodes as have them
    sigma: Positive = 0.15  # width of the first search distribution
    validation_jobs: Count = 20_000
    validate_every: Count = 10  # generations
    # Temperature of the probabilities that are learnt, in units of a stage's score; the search does not depend on it.
    temperature: Annotated[Positive, Affects("adaptation")] = 0.2
    workers: Annotated[Processes, Affects("nothing")] = 1  # threads; no figure depends on them
    backend: Annotated[Backend, Affects("nothing")] = "joblib"  # ray: processes of the Ray cluster instead of threads

    def search(self, task: Task, seed: int, unfinished: Path, progress: bool) -> tuple[WideRule, Curve]:
        """Search from the rule that `start` names.

        `unfinished` holds every candidate's figure, from which an interrupted search is repeated to where it was. In the
        curve, `validation` is minus the mean completion time in s, and `steps` are decisions.

        Raises UserError for another task than scheduling.
        """
        if not isinstance(task, CjsTask) or task.teacher().kind != WIDE:
            raise UserError(f"experience.expert evolves rules of task=cjs, not of task={task.name}")
        search = _Search(self, task, seed)
        curve, best = search.run(unfinished, progress)
        return WideRule(best, self.temperature), curve

    def load(self, weights: dict[str, Tensor]) -> WideRule:
        """The rule of a stored `state_dict`."""
        return WideRule(weights["weights"].numpy(), self.temperature)


class _Search:
    def __init__(self, options: Evolution, task: CjsTask, seed: int) -> None:
        from cmaes import CMA  # takes half a second: only where it searches

        self.options, self.task = options, task
        self.teacher = task.teacher()
        evolved = options.start == "evolved"
        self.start = load_evolved(task.executors) if evolved else self.teacher.weights
        self.widths = np.array([WIDTHS.get(name, 1.0) for name in WIDE_WEIGHTS])
        self.cma = CMA(
            mean=np.zeros(len(self.start)), sigma=options.sigma, seed=seed, population_size=options.population
        )
        self.first_seed = FIRST_SEED["train"] + SEEDS_APART * (5 + seed)
        self.episodes = max(LEAST_EPISODES, options.jobs // task.jobs)
        validation = min(max(LEAST_EPISODES, options.validation_jobs // task.jobs), MOST_EPISODES)
        self.validation = FIRST_SEED["val"] + np.arange(validation)

    def run(self, unfinished: Path, progress: bool) -> tuple[Curve, Weights]:
        # Repeat an unfinished search to where it was.
        stored = stored_file(unfinished)
        known = {"figures": [], "curve": [], "best": []} if stored is None else json.loads(stored)
        figures: list[list[float]] = known["figures"]
        curve: Curve = known["curve"]
        best: Weights = np.array(known["best"])
        began = time.perf_counter() - (curve[-1]["seconds"] if curve else 0.0)
        decisions = int(curve[-1]["steps"]) if curve else 0
        for known_figures in figures:
            self.cma.tell(list(zip(self._ask(), known_figures, strict=True)))
        first, last = len(figures) + bool(curve), self.options.generations
        # Each generation: play all candidates in the same episodes.
        with (
            parallel(self.options.workers, self.options.backend, prefer="threads") as compute,
            tqdm(
                range(first, last + 1), "evolving the rule", initial=first, total=last + 1, disable=not progress
            ) as bar,
        ):
            for generation in bar:
                if generation > 0:
                    candidates = self._ask()
                    scores, played = self._evaluate(candidates, generation, compute)
                    figures.append(scores)
                    decisions += played
                    self.cma.tell(list(zip(candidates, scores, strict=True)))
                if generation % self.options.validate_every and generation != last:
                    continue
                # Compare the mean of the search distribution on validation, keep the best and all figures.
                mean = self.rule(self.cma.mean)
                jct_s = float(self.task.completion_ms(mean, self.validation, "val")[0].mean()) / 1e3
                seconds = time.perf_counter() - began
                curve.append({"iteration": generation, "steps": decisions, "seconds": seconds, "validation": -jct_s})
                bar.set_postfix(jct_s=f"{jct_s:.2f}", first=f"{-curve[0]['validation']:.2f}")
                if -jct_s == max(row["validation"] for row in curve):
                    best = mean.weights
                facts = {"figures": figures, "curve": curve, "best": best.tolist()}
                store_file(unfinished, json.dumps(facts, allow_nan=False).encode())
        return curve, best

    def _ask(self) -> list[Weights]:
        return [self.cma.ask() for _ in range(self.options.population)]

    def _evaluate(
        self, candidates: list[Weights], generation: int, compute: Callable[[Iterable[Piece]], Iterable[Any]]
    ) -> tuple[list[float], int]:
        """Each candidate's mean completion time over the teacher's in the generation's episodes, and their decisions."""
        seeds = self.first_seed + (generation - 1) * self.episodes + np.arange(self.episodes)
        rules = [self.teacher, *map(self.rule, candidates)]
        play = delayed(self.task.completion_ms)
        (reference, _), *played = compute(play(rule, seeds, "train") for rule in rules)
        return [float((jct / reference).mean()) for jct, _ in played], sum(count for _, count in played)

    def rule(self, point: Weights) -> WideRule:
        return WideRule(self.start + self.widths * point)
