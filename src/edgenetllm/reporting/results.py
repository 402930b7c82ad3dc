"""`results.json` and `replay.parquet`: the two files from which every table and plot is made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from edgenetllm.errors import UserError
from edgenetllm.files import write_json
from edgenetllm.reporting.bootstrap import difference_ci, mean_ci, ratio_ci
from edgenetllm.tasks.task import Metric

RESULTS_FILE = "results.json"
SCHEMA = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(f"the interval {list(interval)} is upside down")
    return interval


Interval = Annotated[tuple[float, float], AfterValidator(_ordered)]
MetricKey = Annotated[str, Field(pattern=r"^[a-z]+/[a-z0-9_]+$")]  # as logged to W&B: test/qoe


class Estimate(_Strict):
    """Mean over `n` episodes with its 95 % bootstrap interval."""

    mean: float
    ci95: Interval
    n: Annotated[int, Field(ge=1)]


class Retention(_Strict):
    """The sparse model's share of its dense parent's performance: 1 means that pruning cost nothing."""

    mean: float
    ci95: Interval


class Latency(_Strict):
    """Milliseconds per decision of one engine."""

    median: float
    p99: float
    n: int | None = None  # decisions measured


class Git(_Strict):
    """The commit that ran, and whether tracked files differed from it."""

    commit: str
    dirty: bool


class Results(_Strict):
    """What one run reports; every stage writes the same fields."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    stage: Literal["train", "prune", "evaluate", "specialise"]
    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    model: str
    data: str
    run: str  # folder of the run
    seed: int
    sparsity: Annotated[float, Field(ge=0, lt=1)]  # asked for; `bundle` and `pruning` have the exact counts
    pruning: dict[str, JsonValue] | None = None  # method, options and counts per layer; None for a dense run
    metrics: dict[MetricKey, Metric]  # what the columns are called, their unit and direction
    policies: dict[str, dict[MetricKey, Estimate]]  # a bound may lack some of the metrics
    differences: dict[str, Estimate] = {}  # policy -> the sparse model minus it, first metric, over the same episodes
    retention: dict[MetricKey, Retention | None] = {}  # None: a ratio says nothing, see bootstrap.ratio_ci
    bundle: dict[str, JsonValue] | None = None  # what edge.bundle.write_bundle returns
    timings_s: dict[str, float] = {}
    decision_ms: dict[str, Latency] = {}  # engine -> latency
    versions: dict[str, str] = {}
    git: Git | None = None
    config_hash: str
    data_hash: str

    def save(self, path: Path | str) -> None:
        """Write `results.json` atomically."""
        write_json(path, self.model_dump(mode="json", by_alias=True))

    @classmethod
    def load(cls, path: Path | str) -> Results:
        """Read `results.json`. Raises UserError naming the file, and the field that is wrong."""
        path = Path(path)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: {os.strerror(error.errno or 0)}; a finished run leaves this file") from None
        except ValueError as error:
            raise UserError(f"{path}: not JSON: {error}") from None
        if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
            found = fields.get("schema") if isinstance(fields, dict) else None
            raise UserError(f"{path}: results of schema {found!r}, this version reads {SCHEMA}")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


PerEpisode = Mapping[str, npt.NDArray[np.float64]]  # metric name -> (episodes,), as Task.summarise returns


def metric_key(metric: Metric | str) -> str:
    """The name under which a metric is logged and stored."""
    return f"test/{metric if isinstance(metric, str) else metric.name}"


def describe_metrics(metrics: Sequence[Metric]) -> dict[str, Metric]:
    """The `metrics` field of `Results`, in the order of the table's columns."""
    return {metric_key(metric): metric for metric in metrics}


def estimates(
    per_episode: Mapping[str, PerEpisode], metrics: Sequence[Metric], seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """The `policies` field: policy -> metric -> mean over episodes with interval, of the metrics that it has."""
    return {
        policy: {
            metric_key(m): Estimate.model_validate(mean_ci(figures[m.name], seed)) for m in metrics if m.name in figures
        }
        for policy, figures in per_episode.items()
    }


def differences(per_episode: Mapping[str, PerEpisode], metric: Metric, seed: int = 0) -> dict[str, Estimate]:
    """The `differences` field: the sparse model minus every other policy, paired by episode."""
    sparse = per_episode["sparse"][metric.name]
    return {
        policy: Estimate.model_validate(difference_ci(sparse, figures[metric.name], seed))
        for policy, figures in per_episode.items()
        if policy != "sparse"
    }


def retention(
    sparse: PerEpisode, dense: PerEpisode, metrics: Sequence[Metric], seed: int = 0
) -> dict[str, Retention | None]:
    """The `retention` field, from the same episodes played by the sparse model and by its dense parent."""
    result: dict[str, Retention | None] = {}
    for metric in metrics:
        ratio = ratio_ci(sparse[metric.name], dense[metric.name], metric.higher_is_better, seed)
        result[metric_key(metric)] = ratio and Retention(mean=ratio["mean"], ci95=(ratio["ci95"][0], ratio["ci95"][1]))
    return result


def latency(decision_ms: npt.ArrayLike) -> Latency:
    """Median and 99th percentile of the milliseconds of single decisions, any shape."""
    times = np.asarray(decision_ms, np.float64).ravel()
    median, p99 = np.percentile(times, [50, 99])
    return Latency(median=float(median), p99=float(p99), n=len(times))
