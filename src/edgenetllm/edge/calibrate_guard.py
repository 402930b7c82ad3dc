"""The guard's knowledge of the training data: ranges of the features and a distance, calibrated on the experience pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgenetllm.edge.agent.outside import Features, feature_names, features_of
from edgenetllm.edge.export import edge_inputs
from edgenetllm.experience.pool import Pool
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.tasks.common.edge import Input
from edgenetllm.tasks.observation import Array

MOST_DECISIONS = 20_000  # of the pool, drawn at random
MARGIN = 0.1  # of a range of logarithms, on either side; what is never negative gets none below zero
LEAST_MARGIN = 0.05  # of a range in logarithms: of what never changed in the pool, too
LEAST_SPREAD = 0.05  # standard deviation that a feature has at least, in logarithms
QUANTILE = 0.999  # of the distances in the pool ...
FACTOR = 1.25  # ... and how much further the limit is
DIGITS = 5


def calibrate(pool: Pool, inputs: Mapping[str, Input], seed: int = 0) -> dict[str, Any]:
    """The guard of a task, as `extra["guard"]` has it, from the pool that it was trained on; `inputs` are the encoder's."""
    features = pool_features(pool, inputs, seed)
    mean, low, high = features.mean(0), features.min(0), features.max(0)
    margin = np.maximum(MARGIN * (high - low), LEAST_MARGIN)
    least = np.where(low >= 0, np.maximum(low - margin, 0), low - margin)
    # Features become independent and of variance 1 by the inverse of a root of their covariance.
    centred = features - mean
    covariance = centred.T @ centred / len(features)
    covariance[np.diag_indices_from(covariance)] += LEAST_SPREAD**2
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    distances = np.sqrt(((centred @ whiten.T) ** 2).mean(1))
    return {
        "features": feature_names(inputs),
        "low": _short(least),
        "high": _short(high + margin),
        "mean": _short(mean),
        "whiten": _short(whiten[np.tril_indices(len(whiten))]),
        "most": _short(np.array([FACTOR * np.quantile(distances, QUANTILE)]))[0],
        "decisions": len(features),
    }


def calibrate_guards(policy: PolicyNetwork, pools: Mapping[str, Pool]) -> dict[str, dict[str, Any]]:
    """The guard of each task that has a pool, and an encoder that runs at the edge."""
    inputs = {name: edge_inputs(policy.networks(name)) for name in policy.tasks if name in pools}
    return {name: calibrate(pools[name], known) for name, known in inputs.items() if known is not None}


def pool_features(pool: Pool, inputs: Mapping[str, Input], seed: int = 0) -> Features:
    """The features of up to MOST_DECISIONS decisions of a pool, (decisions, features)."""
    episodes, steps = np.nonzero(pool.valid)
    if len(episodes) > MOST_DECISIONS:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(episodes))[:MOST_DECISIONS])
        episodes, steps = episodes[chosen], steps[chosen]
    rows = []
    for episode, step in zip(episodes.tolist(), steps.tolist(), strict=True):
        columns: dict[str, Array] = {}
        for name in inputs:
            column = pool.observation[name]
            if isinstance(column, RaggedColumn):
                values = column.rows(episode, step, step + 1)
                columns[name], columns[f"{name}_count"] = values[None], np.array([len(values)])
            else:
                columns[name] = column[episode, step][None]
        rows.append(features_of(columns, inputs))
    return np.stack(rows)


def _short(numbers: Features) -> list[float]:
    """Numbers with as many digits as a few kilobytes of JSON allow."""
    return [float(f"{number:.{DIGITS}g}") for number in numbers]
