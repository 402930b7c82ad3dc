"""`results.json`: the figures of a run, from which tables and plots are made together with the two parquet files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, JsonValue, model_validator

from edgenetllm.report.bootstrap import Estimate, Retention, difference_ci, mean_ci, ratio_ci
from edgenetllm.report.document import Document, Strict
from edgenetllm.report.facts import (
    BundleFacts,
    FaultFacts,
    PruningFacts,
    RecoveryFacts,
    ReplayFacts,
    SpecialisationFacts,
)
from edgenetllm.tasks.names import IDENTIFIER, METRICS_COLUMNS, POLICY, is_label
from edgenetllm.tasks.task import Metric

RESULTS_FILE = "results.json"


MetricKey = Annotated[str, Field(pattern=r"^[a-z]+/[a-z0-9_]+$")]  # as logged to W&B: test/qoe
MODULE = r"^([A-Za-z_]\w*(\.[A-Za-z_]\w*)*)?$"
TaskName = Annotated[str, Field(pattern=IDENTIFIER)]
PolicyName = Annotated[str, Field(pattern=POLICY)]


def _printable(text: str) -> str:
    if not text.isprintable() or len(text) > 1000:
        raise ValueError("must be at most 1000 printable characters")
    return text


def _label(text: str) -> str:
    if not is_label(text):
        raise ValueError(
            "must be at most 200 printable characters, not start with a dot, and have no slash or backslash"
        )
    return text


Text = Annotated[str, AfterValidator(_printable)]
Label = Annotated[str, AfterValidator(_label)]  # could be part of a file's name


def _checked(metric: Metric) -> Metric:
    if not re.fullmatch(IDENTIFIER, metric.name) or metric.name in METRICS_COLUMNS:
        raise ValueError(f"{metric.name!r} cannot be the name of a metric: small letters, digits and _, a letter first")
    _printable(metric.label + metric.unit)
    return metric


NamedMetric = Annotated[Metric, AfterValidator(_checked)]


class Latency(Strict):
    """Milliseconds per decision of one engine."""

    median: Annotated[float, Field(gt=0, le=1e12)]
    p99: Annotated[float, Field(gt=0, le=1e12)]
    n: int | None = None  # decisions measured


class Bound(Strict):
    """A bound that no policy can exceed, and the fraction of it that each policy reaches: 1 is the best there is."""

    name: PolicyName  # of the bound in `policies`
    share: dict[PolicyName, Retention | None]  # of the first metric; None: a ratio says nothing, see bootstrap.ratio_ci


class Guarded(Strict):
    """The row `guarded`: the sparse model as an agent plays it, and how many decisions were not the model's."""

    fallback: PolicyName  # that decided instead; on observations outside the bundle's default did
    decisions: int
    events: dict[Literal["raised", "not_finite", "deadline", "outside"], int]  # decisions of the fall-back by reason
    deadline_ms: float | None = None
    guard: bool = False
    faults: FaultFacts | None = None  # on purpose

    @property
    def share(self) -> float:
        """The fraction of decisions that the fall-back took."""
        return sum(self.events.values()) / max(1, self.decisions)


class PlacedRow(Strict):
    """A row of a placement: decisions that take the time of their engine and of a link with this round trip."""

    rtt_ms: float
    latency_ms: Latency  # of the decisions of all test episodes
    # Means per decision.
    up_bytes: float  # from the edge to the cloud, with headers
    down_bytes: float
    asked: float  # fraction of decisions for which the cloud was asked
    late: float = 0.0  # fraction for which it was asked in vain


class Placed(Strict):
    """Where the decisions of the rows `rows` were made, and over which link."""

    name: Text  # of the placement: edge, cloud, split, adaptive
    rows: dict[PolicyName, PlacedRow]  # policy -> what its decisions cost
    edge_ms: float | None = None  # a decision of the bundle, measured or given
    cloud_ms: float | None = None  # of the dense model
    traces: Text | None = None  # of the link
    trace_count: int = 0
    loss: float = 0.0


class Git(Strict):
    """The commit that ran, and whether tracked files differed from it."""

    commit: str
    dirty: bool


def results_folders(run: Path) -> list[Path]:
    """The folders in which a run has the results of its tasks, one for each task; empty before it has any.

    They lie in the run's folder; a run of one task of an earlier version has its results there itself.
    """
    own = run / RESULTS_FILE
    return [run] if own.is_file() else sorted(path.parent for path in run.glob(f"*/{RESULTS_FILE}"))


class Results(Document):
    """The results of one run for a task, in `results.json`; every stage writes the same fields."""

    KIND: ClassVar[str] = "results"
    LEFT_BY: ClassVar[str] = "a finished run"

    stage: Literal["train", "prune", "evaluate", "specialise"]
    task: TaskName
    model: Label
    data: Text
    run: str  # folder of the run
    seed: int
    # Asked for; `bundle` and `pruning` have the exact counts. 1 is a control: all matrices of the backbone are zero.
    sparsity: Annotated[float, Field(ge=0, le=1)]
    # method, label (names it with its options), windows, calibration, structure, allocation, and layers, see layers.py.
    pruning: PruningFacts | None = None  # with sparsity 0 too
    recovery: RecoveryFacts | None = None  # method, label, trained_parameters, seconds, peak_memory_mb
    # Of specialise.py: what was trained, at what cost, and the figures before and after; see specialisation/facts.py.
    specialisation: SpecialisationFacts | None = None
    metrics: dict[MetricKey, NamedMetric]  # what the columns are called, their unit and direction
    # A bound may lack some of the metrics.
    policies: dict[PolicyName, Annotated[dict[MetricKey, Estimate], Field(min_length=1)]]
    # Policy -> the sparse model minus it, first metric, over the same episodes.
    differences: dict[PolicyName, Estimate] = Field(default_factory=dict)
    # None: a ratio says nothing, see bootstrap.ratio_ci.
    retention: dict[MetricKey, Retention | None] = Field(default_factory=dict)
    bound: Bound | None = None
    bundle: BundleFacts | None = None  # what edge.bundle_writer.write_bundle returns
    timings_s: dict[str, float] = Field(default_factory=dict)
    engine: Label = "torch"  # that played the sparse model
    # `torch dense`, `torch sparse`, and the same of `engine`, whose dense model has int8 weights -> latency.
    decision_ms: dict[str, Latency] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    git: Git | None = None
    config_hash: str
    data_hash: str
    # Dotted key -> value of everything that determines these figures but the training seed; None: of an older version.
    identity: dict[str, JsonValue] | None = None
    # Of episodes that a real player played: its name, speed, browser, traces and round trips; None: of the simulator.
    replay: ReplayFacts | None = None
    # Dotted name of the module that plots an episode, see Task.timeline; empty: there is none; None: of an older version.
    timeline: Annotated[str, Field(pattern=MODULE)] | None = None
    guarded: Guarded | None = None
    placement: Placed | None = None
    notes: list[Text] = Field(default_factory=list)  # sentences about the data, shown with every table

    @property
    def metric(self) -> Metric:
        """The first metric, which the task optimises."""
        return next(iter(self.metrics.values()))

    @property
    def key(self) -> MetricKey:
        """The name of `metric` in `policies` and `retention`."""
        return next(iter(self.metrics))

    @model_validator(mode="after")
    def _keys(self) -> Self:
        for key, metric in self.metrics.items():
            if key != metric_key(metric):
                raise ValueError(f"metrics.{key}.name: is {metric.name!r}, which belongs under {metric_key(metric)}")
        keys = [("retention", set(self.retention)), *((f"policies.{n}", set(f)) for n, f in self.policies.items())]
        for place, figures in keys:
            if unknown := figures - set(self.metrics):
                raise ValueError(f"{place}.{min(unknown)}: is none of the metrics {', '.join(self.metrics)}")
        for name in self.placement.rows if self.placement is not None else ():
            if not self.metrics or next(iter(self.metrics)) not in self.policies.get(name, {}):
                raise ValueError(f"placement.rows.{name}: has no figures among the policies")
        return self


PerEpisode = Mapping[str, npt.NDArray[np.float64]]  # metric name -> (episodes,), as Task.summarise returns


def metric_key(metric: Metric | str) -> str:
    """The name under which a metric is logged and stored."""
    return f"test/{metric if isinstance(metric, str) else metric.name}"


def describe_metrics(metrics: Sequence[Metric]) -> dict[str, Metric]:
    """The `metrics` field of `Results`, in the order of the table's columns."""
    return {metric_key(metric): metric for metric in metrics}


def estimates(per_episode: Mapping[str, PerEpisode], metrics: Sequence[Metric]) -> dict[str, dict[str, Estimate]]:
    """The `policies` field: policy -> metric -> mean over episodes with interval, of the metrics that it has."""
    return {
        policy: {metric_key(metric): mean_ci(figures[metric.name]) for metric in metrics if metric.name in figures}
        for policy, figures in per_episode.items()
    }


def differences(per_episode: Mapping[str, PerEpisode], metric: Metric) -> dict[str, Estimate]:
    """The `differences` field: the sparse model minus every other policy, paired by episode."""
    sparse = per_episode["sparse"][metric.name]
    others = {policy: figures[metric.name] for policy, figures in per_episode.items() if policy != "sparse"}
    return {policy: difference_ci(sparse, values) for policy, values in others.items()}


def retention(sparse: PerEpisode, dense: PerEpisode, metrics: Sequence[Metric]) -> dict[str, Retention | None]:
    """The `retention` field, from the same episodes played by the sparse model and by its dense parent."""
    return {metric_key(m): ratio_ci(sparse[m.name], dense[m.name], m.higher_is_better) for m in metrics}


def fraction_of_bound(
    per_episode: Mapping[str, PerEpisode], bounds: Mapping[str, PerEpisode], metric: Metric
) -> Bound | None:
    """The `bound` field, from the same episodes; None where no bound of this metric is known."""
    for name, figures in bounds.items():
        if metric.name in figures:
            bound, higher = figures[metric.name], metric.higher_is_better
            fractions = {policy: ratio_ci(one[metric.name], bound, higher) for policy, one in per_episode.items()}
            return Bound(name=name, share=fractions)
    return None


def latency(decision_ms: npt.ArrayLike) -> Latency:
    """Median and 99th percentile of the milliseconds of single decisions, any shape."""
    times = np.asarray(decision_ms, np.float64).ravel()
    median, p99 = np.percentile(times, [50, 99])
    return Latency(median=float(median), p99=float(p99), n=len(times))
