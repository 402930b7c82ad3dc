"""The time that a task takes, compiled: drawn from the durations that were measured of its stage.

Matches the same public code as `events.py`. Between two measured executor counts l < n < r the durations of l are taken with
probability (n - l) / (r - l).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from edgenetllm.tasks.cjs.compiled import njit
from edgenetllm.tasks.cjs.simulator.profiles import FIRST, FRESH, LEVELS, REST

# Tables by the number n of a job's executors, for its neighbours left < n <= right among the measured counts LEVELS.
LARGEST_LEVEL = LEVELS[-1]
_COUNTS = np.arange(LARGEST_LEVEL + 1)
# The column of right.
RIGHT_COLUMN = np.searchsorted(LEVELS, _COUNTS).astype(np.int32)
_LEFT = np.array(LEVELS)[np.maximum(RIGHT_COLUMN - 1, 0)]
# n - left; 0 where n was measured itself, and below the first level.
ABOVE_LEFT = np.where(np.isin(_COUNTS, LEVELS) | (RIGHT_COLUMN == 0), 0, _COUNTS - _LEFT).astype(np.int32)
# right - left.
LEVEL_GAP = (np.array(LEVELS)[RIGHT_COLUMN] - _LEFT).astype(np.int32)


@njit(cache=True, _nrt=False)
def uniform(seed, a, b):
    """A uniform number in [0, 1) by SplitMix64 as a hash, so that task `b` of stage `a` is the same under every policy."""
    x = seed
    for number in (np.uint64(a), np.uint64(b)):
        x = (x ^ number) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return np.float64(x >> np.uint64(11)) * 2.0**-53


@njit(cache=True, _nrt=False)
def _column(local, chance):
    """Column of `Tables.rows` for a job with `local` executors; `chance` < 0 takes the likelier of two neighbours."""
    if local > LARGEST_LEVEL:
        return len(LEVELS) - 1
    column, above, gap = RIGHT_COLUMN[local], ABOVE_LEFT[local], LEVEL_GAP[local]
    if above > 0 and (2 * above >= gap if chance < 0 else 1 + int(chance * gap) <= above):
        column -= 1
    return column


@njit(cache=True, _nrt=False)
def task_duration(stage, last_stage, this_stage, local, warmup_ms, sampled, chance, choice, rows, durations):
    """Milliseconds, wave and column of a task."""
    column = _column(local, chance)
    wave = FIRST
    extra = 0.0
    if last_stage < 0:
        wave = FRESH
        if rows[stage.row, FRESH, column].count == 0:
            wave, extra = 3, warmup_ms
    elif last_stage == this_stage and rows[stage.row, REST, column].count > 0:
        wave = REST
    elif rows[stage.row, FIRST, column].count == 0:
        wave = FRESH
    row = rows[stage.row, FIRST if wave == 3 else wave, column]
    if sampled:
        return durations[row.start + int(choice * row.count)] + extra, wave, column
    return row.mean_ms + extra, wave, column
