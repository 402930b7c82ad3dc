"""The pointer head's scores as compiled code, without torch (see `head.py`), and the action's token."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgenetllm.tasks.cjs.columns import DEMAND, JOB, SUPPLY
from edgenetllm.tasks.cjs.networks.edge_graph import share_of_cluster
from edgenetllm.tasks.cjs.networks.sizes import HIDDEN, KNOWN, NEVER, NUMBER_FEATURES, STAGE_INPUTS
from edgenetllm.tasks.common.layers import affine, gelu
from edgenetllm.tasks.compiled import Compiler

NEVER32 = np.float32(NEVER)

njit = Compiler(
    Path(__file__).parents[2],
    ("cjs/networks/edge_head", "cjs/networks/edge_graph", "cjs/networks/sizes", "cjs/columns", "common/layers"),
)


@njit(cache=True, nogil=True, error_model="numpy")
def _known(row, stages, inputs, stage, job, out):
    """Write all that is known of the stage at this row."""
    of_job = job[np.int64(stages[row, JOB])]
    out[:STAGE_INPUTS] = inputs[row]
    out[STAGE_INPUTS : STAGE_INPUTS + HIDDEN] = stage[row]
    out[STAGE_INPUTS + HIDDEN :] = of_job


@njit(cache=True, nogil=True, error_model="numpy")
def _score(inner, weight1, bias1, weight2, bias2, second):
    """GELU, a layer, GELU, and one number; `inner` is used up."""
    gelu(inner)
    affine(inner, weight1, bias1, second)
    gelu(second)
    total = bias2[0]
    for k in range(HIDDEN):
        total += second[k] * weight2[k, 0]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def stage_logits(
    query, stages, inputs, stage, job, listed,
    weight, bias, weight1, bias1, weight2, bias2, idle_weight, idle_bias, out,
):  # fmt: skip
    """Write (episodes, 1 + places): leaving the executors idle, then each place; `query` is (episodes, 2 HIDDEN)."""
    known, inner, second = np.empty(KNOWN, np.float32), np.empty(HIDDEN, np.float32), np.empty(HIDDEN, np.float32)
    for n in range(len(query)):
        inner[:] = query[n, :HIDDEN]
        gelu(inner)
        affine(inner, idle_weight, idle_bias, out[n, :1])
        for place in range(listed.shape[1]):
            row = listed[n, place]
            if row < 0:
                out[n, 1 + place] = NEVER32
                continue
            _known(row, stages[n], inputs[n], stage[n], job[n], known)
            affine(known, weight, bias, inner)
            for k in range(HIDDEN):
                inner[k] += query[n, k]
            out[n, 1 + place] = _score(inner, weight1, bias1, weight2, bias2, second)


@njit(cache=True, nogil=True, error_model="numpy")
def most_executors(row, stages, committable):
    """Executors that the stage of this row can use, and at least 1."""
    return max(min(np.float32(committable), stages[row, DEMAND]), np.float32(1))


@njit(cache=True, nogil=True, error_model="numpy")
def executor_logits(
    query, chosen, stages, jobs, inputs, stage, job, committable, source, executors,
    place, place_bias, number, number_bias, weight1, bias1, weight2, bias2, out,
):  # fmt: skip
    """Write (episodes, most) given the row of the chosen stage, -1 for none; entry k stands for k + 1 executors."""
    known, features = np.empty(KNOWN, np.float32), np.empty(NUMBER_FEATURES, np.float32)
    base, inner, second = np.empty(HIDDEN, np.float32), np.empty(HIDDEN, np.float32), np.empty(HIDDEN, np.float32)
    four, one = np.float32(4), np.float32(1)
    for n in range(len(query)):
        out[n, :] = NEVER32
        row = chosen[n]
        if row < 0:  # nothing to hand out
            out[n, 0] = 0
            continue
        # What the stage and its job are, and what the job holds whatever is decided.
        _known(row, stages[n], inputs[n], stage[n], job[n], known)
        affine(known, place, place_bias, base)
        for k in range(HIDDEN):
            base[k] += query[n, HIDDEN + k]
        of_job = np.int64(stages[n, row, JOB])
        held = jobs[n, of_job, SUPPLY] - np.float32(committable[n] if of_job == source[n] else 0)
        size, free = max(np.float32(executors[n]), one), max(np.float32(committable[n]), one)
        most = most_executors(row, stages[n], committable[n])
        # A score for each number that it can use.
        for index in range(min(np.int64(most), out.shape[1])):
            wanted = np.float32(index + 1)
            features[0], features[1], features[2] = wanted / size, np.log(wanted) / four, (wanted + held) / size
            features[3], features[4] = share_of_cluster(wanted + held, size), wanted / free
            features[5] = wanted / most
            affine(features, number, number_bias, inner)
            for i in range(HIDDEN):
                inner[i] += base[i]
            out[n, index] = _score(inner, weight1, bias1, weight2, bias2, second)


@njit(cache=True, nogil=True, error_model="numpy")
def limit_executors(chosen, stages, committable, out):
    """Set the logits (episodes, most) of more executors than the stage of this row (-1: the first) can use to NEVER."""
    for n in range(len(out)):
        most = np.int64(most_executors(max(chosen[n], 0), stages[n], committable[n])) if stages.shape[1] else 1
        out[n, most:] = NEVER32


@njit(cache=True, nogil=True, error_model="numpy")
def taken(chosen, count, stages, stage, job, executors, weight, bias, out):
    """Write the tokens (episodes, width) of actions: the row of the chosen stage, -1 for none, and executors."""
    features = np.empty(2 * HIDDEN + 2, np.float32)
    for n in range(len(chosen)):
        features[:] = 0
        features[2 * HIDDEN] = np.float32(count[n]) / max(np.float32(executors[n]), np.float32(1))
        if chosen[n] >= 0:
            features[:HIDDEN] = stage[n, chosen[n]]
            features[HIDDEN : 2 * HIDDEN] = job[n, np.int64(stages[n, chosen[n], JOB])]
            features[2 * HIDDEN + 1] = 1
        affine(features, weight, bias, out[n])
