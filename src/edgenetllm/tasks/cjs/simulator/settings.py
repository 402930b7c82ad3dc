"""The settings that results are compared in: size of the cluster and number of jobs."""

from __future__ import annotations

from typing import NamedTuple

from edgenetllm.tasks.cjs.simulator.jobs import Mix
from edgenetllm.tasks.cjs.simulator.state import Rules

RATE_PER_MS = 4e-5  # one job every 25 s on average


class Setting(NamedTuple):
    executors: int
    mix: Mix
    moving_ms: float = 2000.0
    warmup_ms: float = 1000.0

    @property
    def rules(self) -> Rules:
        """The rules of this cluster, with durations sampled from the measurements."""
        return Rules(self.executors, self.moving_ms, self.warmup_ms, sampled=True)


# `default` is NetLLM's. The unseen ones are for generalisation, after its figure: fewer executors, more jobs, and both.
SETTINGS = {
    "tiny": Setting(5, Mix(jobs=4, rate_per_ms=RATE_PER_MS)),
    "small": Setting(10, Mix(jobs=20, rate_per_ms=RATE_PER_MS)),
    "default": Setting(50, Mix(jobs=200, rate_per_ms=RATE_PER_MS)),
    "unseen1": Setting(30, Mix(jobs=200, rate_per_ms=RATE_PER_MS)),
    "unseen2": Setting(50, Mix(jobs=450, rate_per_ms=RATE_PER_MS)),
    "unseen3": Setting(30, Mix(jobs=450, rate_per_ms=RATE_PER_MS)),
}

# Seeds of jobs and durations. Weights that ship with the package (tuned rule, Decima) were fitted on TRAIN seeds and
# chosen on VALIDATION seeds as well. 0 to 19 are those of the published comparison, which nothing was chosen on either.
FIRST_SEED = {"test": 10_000, "val": 20_000, "train": 1_000_000}
