"""Generated viewers: a gaze that rests on things that move, and now and then turns to another one."""

from __future__ import annotations

import numpy as np

from edgenetllm.tasks.supervised.angles import wrapped
from edgenetllm.tasks.supervised.data.windows import Recording, Rows
from edgenetllm.tasks.vp.data.sources import HERTZ

TURNS_PER_S = 0.25  # to another thing
FOLLOWS = 0.35  # fraction of the distance to it that a head turns in a row
PERIODS = np.full(3, 360.0)


def generate(count: int, seconds: int, seed: int, first: int) -> list[Recording]:
    """Recordings (rows, roll pitch yaw) in degrees, `HERTZ` rows a second, of viewers `first`, `first` + 1, ..."""
    return [
        Recording(f"viewer{number}", _viewer(np.random.default_rng([seed, number]), seconds * HERTZ))
        for number in range(first, first + count)
    ]


def _viewer(rng: np.random.Generator, rows: int) -> Rows:
    head = np.array([0.0, 0.0, rng.uniform(-180, 180)])
    target, speed = head.copy(), np.zeros(3)
    gaze = np.empty((rows, 3))
    for row in range(rows):
        if row == 0 or rng.random() < TURNS_PER_S / HERTZ:  # another thing, mostly near the equator
            target = np.array([0.0, rng.normal(0, 12), target[2] + rng.normal(0, 60)])
            speed = np.array([0.0, rng.normal(0, 1), rng.normal(0, 12)]) / HERTZ
        target = target + speed
        tilt = 0.1 * (target[2] - head[2])  # a head that turns rolls a little
        head = head + FOLLOWS * (np.array([tilt, target[1], target[2]]) - head) + rng.normal(0, (0.3, 0.4, 0.6))
        head[1] = np.clip(head[1], -85, 85)
        gaze[row] = head
    return wrapped(gaze, PERIODS)
