"""Costs and effects of a specialisation, for `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from edgenetllm.edge.diff import Difference
from edgenetllm.sections import Specialisation
from edgenetllm.specialisation.episodes import pool_bytes
from edgenetllm.specialisation.fit import Fitted
from edgenetllm.stages.pool import Pools


def facts_of(
    options: Specialisation,
    fitted: Fitted,
    control: Fitted | None,
    pools: Pools,
    difference: Difference,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Parameters, steps, bytes, seconds and memory; to be completed by the figures of the domains.

    `bytes_up` is 0: what is learnt on site is learnt from episodes that stay there, `experience_bytes` of them, which would
    travel up to be learnt from elsewhere. `bytes_down` is what another device with the parent's bundle has to receive: the
    files that differ; or `bytes_down_tensors`, only the tensors that differ; or those compressed.
    """
    return {
        "train": list(options.train),
        "scratch": options.scratch,
        "episodes": sum(len(pool.valid) for pool in pools.values()),
        "decisions": sum(int(pool.valid.sum()) for pool in pools.values()),
        "lr": options.lr,
        "batch_size": options.batch_size,
        **_fit(fitted),
        "seconds_by_step": dict(seconds),
        "bytes_up": 0,
        "experience_bytes": sum(pool_bytes(pool) for pool in pools.values()),
        "bytes_down": difference.travel_files,
        "bytes_down_tensors": difference.travel_tensors,
        "bytes_down_compressed": difference.travel_compressed,
        "bundle_bytes": difference.bundle_bytes,
        "control": None if control is None else _fit(control),
    }


def _fit(fitted: Fitted) -> dict[str, Any]:
    return {**asdict(fitted), "validation": list(fitted.validation), "seconds": round(fitted.seconds, 1)}
