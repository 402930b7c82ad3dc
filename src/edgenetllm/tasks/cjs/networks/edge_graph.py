"""Job graphs to embeddings as compiled code, without torch (see `encoder.py`, whose GraphEncoder this is)."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgenetllm.tasks.cjs.columns import (
    AGE,
    DEMAND,
    JOB,
    JOB_PATH,
    LEFT,
    LEVEL,
    PATH,
    READY,
    RECENT,
    REMAINING,
    ROUGH,
    SCHEDULABLE,
    SUPPLY,
    WORK,
)
from edgenetllm.tasks.cjs.networks.sizes import (
    CLUSTER_FEATURES,
    HIDDEN,
    JOB_FEATURES,
    SPREAD,
    STAGE_FEATURES,
    STAGE_INPUTS,
)
from edgenetllm.tasks.common.edge import Columns, take
from edgenetllm.tasks.common.layers import Floats, affine, gelu
from edgenetllm.tasks.compiled import Compiler
from edgenetllm.tasks.observation import Array

ONE, HALF, FOUR, FIVE = (np.float32(value) for value in (1, 0.5, 4, 5))
SPREAD32 = np.float32(SPREAD)
EIGHT, FIFTY, THOUSAND = (np.float32(value) for value in (8, 50, 1000))

# The layers, name -> (outputs, inputs); their weights lie one behind another in one vector, the bias after its matrix.
LAYERS = {
    "stage.0": (HIDDEN, STAGE_INPUTS), "stage.2": (HIDDEN, HIDDEN), "message.1": (HIDDEN, HIDDEN),
    "job.0": (HIDDEN, JOB_FEATURES + HIDDEN), "job.2": (HIDDEN, HIDDEN),
    "cluster.0": (HIDDEN, CLUSTER_FEATURES + HIDDEN), "cluster.2": (HIDDEN, HIDDEN),
}  # fmt: skip
_STARTS = np.cumsum([0, *((inputs + 1) * outputs for outputs, inputs in LAYERS.values())]).tolist()
STAGE0, STAGE2, MESSAGE, JOB0, JOB2, CLUSTER0, CLUSTER2, _END = _STARTS

# Reasons to refuse an observation.
FINE, JOB_OF_A_STAGE, EDGE, SOURCE, EXECUTORS, NEGATIVE = range(6)

njit = Compiler(
    Path(__file__).parents[2], ("cjs/networks/edge_graph", "cjs/networks/sizes", "cjs/columns", "common/layers")
)


def pack(weights: Mapping[str, Array]) -> Floats:
    """The vector of all weights of a GraphEncoder. Raises UserError for others than it has."""
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in LAYERS.items()}
    taken = take(weights, shapes | {f"{name}.bias": shape[:1] for name, shape in LAYERS.items()}, "encoder of CJS")
    return np.concatenate([taken[f"{name}.{part}"].ravel() for name in LAYERS for part in ("weight", "bias")])


@njit(cache=True, nogil=True, error_model="numpy")
def check(stages, stage_counts, jobs, job_counts, edges, edge_counts, committable, source, executors):
    """The first reason why an episode does not fit together, and its number; FINE without any."""
    for n in range(len(stage_counts)):
        if committable[n] > executors[n]:
            return EXECUTORS, n
        if source[n] >= job_counts[n]:
            return SOURCE, n
        for row in range(stage_counts[n]):
            job = stages[n, row, JOB]
            if not (job >= 0 and job < job_counts[n] and job == np.floor(job)):
                return JOB_OF_A_STAGE, n
            for column in range(stages.shape[2]):
                if stages[n, row, column] < 0:
                    return NEGATIVE, n
        for row in range(job_counts[n]):
            for column in (WORK, LEFT, JOB_PATH, AGE):
                if jobs[n, row, column] < 0:
                    return NEGATIVE, n
        for row in range(edge_counts[n]):
            for end in range(2):
                if not (edges[n, row, end] >= 0 and edges[n, row, end] < stage_counts[n]):
                    return EDGE, n
    return FINE, 0


@njit(cache=True, nogil=True, error_model="numpy")
def _layer(x, weights, at, out):
    """A layer of LAYERS that starts `at`, for a vector."""
    inputs, outputs = x.shape[0], out.shape[0]
    matrix = weights[at : at + inputs * outputs].reshape(inputs, outputs)
    affine(x, matrix, weights[at + inputs * outputs : at + (inputs + 1) * outputs], out)


@njit(cache=True, nogil=True, error_model="numpy")
def _seconds(milliseconds):
    return np.log1p(milliseconds / THOUSAND) / FIVE


@njit(cache=True, nogil=True, error_model="numpy")
def share_of_cluster(executors, size):
    """Logarithm of the fraction, 0 for the whole cluster."""
    return np.log((max(executors, np.float32(0)) + HALF) / size) / FOUR


@njit(cache=True, nogil=True, error_model="numpy")
def _job_features(jobs, left, source, committable, size, out):
    """Write the features (jobs, JOB_FEATURES); `left` is the sum of what is left in all jobs."""
    for j in range(len(jobs)):
        row, at_source = jobs[j], np.float32(j == source)
        features = out[j]
        features[0] = row[SUPPLY] / size
        features[1] = share_of_cluster(row[SUPPLY] - at_source * committable, size)
        features[2], features[3] = at_source, committable / size
        features[4] = row[LEFT] / max(left, ONE)
        features[5], features[6] = _seconds(row[LEFT]), _seconds(row[WORK])
        features[7], features[8] = _seconds(row[JOB_PATH]), _seconds(row[AGE])
        for k in range(JOB_FEATURES):
            features[k] *= SPREAD32


@njit(cache=True, nogil=True, error_model="numpy")
def _stage_features(row, out):
    out[0], out[1] = row[SCHEDULABLE], row[READY]
    out[2], out[3] = np.log1p(row[REMAINING]) / FIVE, np.log1p(row[DEMAND]) / FIVE
    out[4], out[5], out[6] = _seconds(row[RECENT]), _seconds(row[ROUGH]), _seconds(row[PATH])
    out[7] = row[LEVEL] / EIGHT
    for k in range(STAGE_FEATURES):
        out[k] *= SPREAD32


@njit(cache=True, nogil=True, error_model="numpy")
def _pass_messages(stages, edges, weights, stage):
    """One round per level of a parent, from the last stages up; all edges of a round read what was there before it."""
    count = len(stages)
    message, known = np.empty((count, HIDDEN), np.float32), np.zeros(count, np.bool_)
    inner = np.empty(HIDDEN, np.float32)
    level = np.int64(0)
    while True:
        # The next level that a parent has.
        following = np.int64(2**62)
        for e in range(len(edges)):
            of_parent = np.int64(stages[edges[e, 0], LEVEL])
            if level < of_parent < following:
                following = of_parent
        if following == 2**62:
            return
        level = following
        # What the children have to say, then the sums.
        for e in range(len(edges)):
            child = edges[e, 1]
            if np.int64(stages[edges[e, 0], LEVEL]) == level and not known[child]:
                inner[:] = stage[child]
                gelu(inner)
                _layer(inner, weights, MESSAGE, message[child])
                known[child] = True
        for e in range(len(edges)):
            parent = edges[e, 0]
            if np.int64(stages[parent, LEVEL]) == level:
                known[parent] = False
                for k in range(HIDDEN):
                    stage[parent, k] += message[edges[e, 1], k]


@njit(cache=True, nogil=True, error_model="numpy")
def _embed(stages, jobs, edges, committable, source, executors, weights, inputs, stage, job, cluster):
    """Write the embeddings of one episode."""
    size, inner = max(executors, ONE), np.empty(HIDDEN, np.float32)
    left = supply = np.float32(0)
    for j in range(len(jobs)):
        left += jobs[j, LEFT]
        supply += jobs[j, SUPPLY]
    # Stages, each alone, then with what its children say.
    known = np.zeros((len(jobs), JOB_FEATURES + HIDDEN), np.float32)
    _job_features(jobs, left, source, committable, size, known)
    for row in range(len(stages)):
        _stage_features(stages[row], inputs[row])
        inputs[row, STAGE_FEATURES:] = known[np.int64(stages[row, JOB]), :JOB_FEATURES]
        _layer(inputs[row], weights, STAGE0, inner)
        gelu(inner)
        _layer(inner, weights, STAGE2, stage[row])
    _pass_messages(stages, edges, weights, stage)
    # Jobs sum their stages, the cluster its jobs.
    for row in range(len(stages)):
        of_job = known[np.int64(stages[row, JOB])]
        for k in range(HIDDEN):
            of_job[JOB_FEATURES + k] += stage[row, k] / FOUR
    total = np.zeros(CLUSTER_FEATURES + HIDDEN, np.float32)
    for j in range(len(jobs)):
        _layer(known[j], weights, JOB0, inner)
        gelu(inner)
        _layer(inner, weights, JOB2, job[j])
        for k in range(HIDDEN):
            total[CLUSTER_FEATURES + k] += job[j, k] / FOUR
    total[0], total[1], total[2] = committable / size, size / FIFTY, np.log1p(np.float32(len(jobs)))
    total[3], total[4], total[5] = _seconds(left), supply / size, np.float32(source >= 0)
    _layer(total, weights, CLUSTER0, inner)
    gelu(inner)
    _layer(inner, weights, CLUSTER2, cluster)


@njit(cache=True, nogil=True, error_model="numpy")
def _embed_all(
    stages, stage_counts, jobs, job_counts, edges, edge_counts, committable, source, executors, weights,
    inputs, stage, job, cluster, listed, listed_counts,
):  # fmt: skip
    for n in range(len(stage_counts)):
        rows = stages[n, : stage_counts[n]]
        _embed(
            rows, jobs[n, : job_counts[n]], edges[n, : edge_counts[n]], np.float32(committable[n]), source[n],
            np.float32(executors[n]), weights, inputs[n], stage[n], job[n], cluster[n],
        )  # fmt: skip
        for row in range(len(rows)):
            if rows[row, SCHEDULABLE] > 0:
                if listed_counts[n] < listed.shape[1]:
                    listed[n, listed_counts[n]] = row
                listed_counts[n] += 1


def embed(columns: Columns, weights: Floats, places: int | None) -> dict[str, Array]:
    """`inputs`, `stage`, `job` and `cluster` as GraphEncoder gives them, and `listed`, the rows of the first `places`
    schedulable stages (None: of all), -1 where there are fewer; rows beyond an episode's are zero."""
    stages, jobs, edges = (columns[name] for name in ("stages", "jobs", "edges"))
    episodes, rows = stages.shape[:2]
    listed = np.full((episodes, max(1, rows) if places is None else places), -1)
    counts = np.zeros(episodes, np.int64)
    found = {
        "inputs": np.zeros((episodes, rows, STAGE_INPUTS), np.float32),
        "stage": np.zeros((episodes, rows, HIDDEN), np.float32),
        "job": np.zeros((episodes, jobs.shape[1], HIDDEN), np.float32),
        "cluster": np.empty((episodes, HIDDEN), np.float32),
    }
    _embed_all(
        stages, columns["stages_count"], jobs, columns["jobs_count"], edges, columns["edges_count"],
        columns["committable"], columns["source_job"], columns["executors"], weights, *found.values(), listed, counts,
    )  # fmt: skip
    if places is None:
        listed = np.ascontiguousarray(listed[:, : max(1, int(counts.max(initial=0)))])
    return found | {"listed": listed}
