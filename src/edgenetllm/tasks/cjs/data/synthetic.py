"""Generated job profiles in the range of TPC-H's, which they imitate in the points below. Needs no download.

shape      2 to 18 stages, 8 in the median; a tree of joins with one last stage, 4 stages in 10 are scans without parents
tasks      a scan has as many as its table has blocks, 2 to 600; other stages have Spark's 200; the last one a few
scale      a query has the same stages at every size; from 2g to 100g its work grows about 13 times, mostly by scans
durations  scans take 1 to 4 s, other tasks 20 to 500 ms, with a coefficient of variation of 0.2 inside a list
waves      fresh is 1.5 times first (only in the stages that a job starts with); rest is 0.85 of first in scans and
           about 0.2 elsewhere
inflation  from 5 to 100 executors first grows 1.4 times in scans and 2.1 times elsewhere, rest 1.4 and 3.2 times
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgenetllm.tasks.cjs.simulator.profiles import LEVELS, Profile, Stage
from edgenetllm.tasks.cjs.data.tpch import SIZES

BLOCKS_PER_GB = (0.02, 0.19, 0.91, 1.33, 5.93)  # of TPC-H's tables, the largest is lineitem
TABLE_WEIGHTS = np.array([24, 17, 5, 11, 21]) / 78  # how often the queries scan them


class Kind(NamedTuple):
    """First-wave milliseconds at 5 executors and 2g, and what multiplies them. Exponents are of the size over 2g."""

    first_ms: float  # median
    spread: float  # standard deviation of the logarithm, as are the others
    exponent: float
    exponent_spread: float  # what takes long at 2g also grows faster
    rest: float
    rest_exponent: float
    rest_spread: float
    inflation: tuple[float, float, float]  # of first and rest wave at 100 executors, and the exponent of both


SCAN = Kind(1400, 0.5, 0.1, 0.0, 0.85, 0.0, 0.1, (1.25, 1.25, 0.07))
INNER = Kind(150, 0.8, 0.18, 0.14, 0.15, 0.14, 0.55, (2.4, 3.8, -0.075))
LAST = Kind(170, 0.25, 0.02, 0.0, 0.14, 0.0, 0.1, (1.6, 3.4, -0.05))
FRESH = 1.5  # over the first wave


class Plan(NamedTuple):
    """The properties that a stage of a query keeps at every size."""

    kind: Kind
    blocks_per_gb: float  # 0: `tasks` at every size
    tasks: int
    offsets: tuple[float, ...]  # standard normal: duration, rest, fresh, inflation, spread inside a list


def generate(seed: int, queries: int = 22, sizes: Sequence[str] = SIZES) -> list[Profile]:
    """Profiles of queries 1, 2, ... at the first size, then at the next; each is a function of seed, query and size."""
    plans = [_plan(np.random.default_rng([seed, query])) for query in range(queries)]
    return [
        Profile(
            f"query {query + 1} at {size}",
            f"generated with seed {seed}",
            _stages(np.random.default_rng([seed, query, int(size[:-1])]), plan, int(size[:-1])),
            edges,
        )
        for size in sizes
        for query, (plan, edges) in enumerate(plans)
    ]


def _plan(rng: np.random.Generator) -> tuple[list[Plan], tuple[tuple[int, int], ...]]:
    count = int(np.clip(np.round(rng.lognormal(np.log(8.5), 0.55)), 2, 18))
    edges = tuple(sorted(_tree(rng, 0, count)))
    scans = set(range(count)) - {j for _, j in edges}
    plans = []
    for stage in range(count):
        offsets = tuple(np.clip(rng.standard_normal(5), -2, 2).tolist())
        if stage in scans:
            plans.append(Plan(SCAN, float(rng.choice(BLOCKS_PER_GB, p=TABLE_WEIGHTS)), 0, offsets))
        elif stage < count - 1:
            plans.append(Plan(INNER, 0, 200 if rng.random() < 0.93 else int(rng.integers(1, 5)), offsets))
        else:
            plans.append(Plan(LAST, 0, 200 if rng.random() < 0.15 else int(rng.choice([1, 1, 2, 3, 5, 6])), offsets))
    return plans, edges


def _tree(rng: np.random.Generator, first: int, count: int) -> list[tuple[int, int]]:
    """Edges of stages first .. first + count - 1: the last needs one or two that each end a tree; often one is a scan."""
    below, last = count - 1, first + count - 1
    if below == 0:
        return []
    if below == 1 or rng.random() < 0.4:
        return [(last - 1, last), *_tree(rng, first, below)]
    right = 1 if rng.random() < 0.5 else int(rng.integers(1, below))
    left = _tree(rng, first, below - right)
    return [(last - 1 - right, last), (last - 1, last), *left, *_tree(rng, last - right, right)]


def _stages(rng: np.random.Generator, plans: Sequence[Plan], gigabytes: int) -> tuple[Stage, ...]:
    """Executors are fresh once: a stage uses up some of each level's, the first stage as many as it has tasks."""
    stages, fresh_left, growth = [], np.array(LEVELS), gigabytes / 2
    crowd = ((np.array(LEVELS) - 5) / 95) ** 1.15
    for number, (kind, blocks_per_gb, tasks, (long, rest, fresh, inflation, spread)) in enumerate(plans):
        tasks = tasks or max(2, round(blocks_per_gb * gigabytes))
        used = np.minimum(tasks, fresh_left if number == 0 else np.floor(fresh_left * rng.uniform(0.3, 1)))
        fresh_left = fresh_left - used
        base = kind.first_ms * np.exp(kind.spread * long) * growth ** (kind.exponent + kind.exponent_spread * long)
        up = [np.exp(0.25 * inflation) * size * growth ** kind.inflation[2] for size in kind.inflation[:2]]
        first_ms = base * (1 + crowd * max(0, up[0] - 1))
        ratio = min(1, kind.rest * growth**kind.rest_exponent * np.exp(kind.rest_spread * rest))
        rest_ms = base * ratio * (1 + crowd * max(0, up[1] - 1))
        wave = np.minimum(LEVELS, tasks)
        counts = np.stack([used, np.maximum(wave - used, number > 0), tasks - wave]).astype(int)
        counts = np.minimum(counts, np.maximum(3, -(-counts // 12)))  # a sample of what would have been measured
        means = np.stack([first_ms * FRESH * np.exp(0.3 * fresh), first_ms, rest_ms])
        sigma = 0.2 * np.exp(0.5 * spread)
        values = np.repeat(means.ravel(), counts.ravel()) * rng.lognormal(-(sigma**2) / 2, sigma, counts.sum())
        rows = np.split(np.maximum(1, np.round(values)).astype(int), np.cumsum(counts.ravel())[:-1])
        waves = (rows[start : start + len(LEVELS)] for start in range(0, len(rows), len(LEVELS)))
        stages.append(Stage(tasks, *({k: row.tolist() for k, row in zip(LEVELS, w, strict=True)} for w in waves)))
    return tuple(stages)
