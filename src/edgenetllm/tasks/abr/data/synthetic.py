"""Generated traces: a Markov-modulated bandwidth whose states range from a 3G cell's edge to 5G. Needs no download."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.abr.data.ladder import PUBLIC, Ladder
from edgenetllm.tasks.abr.data.traces import Trace

LEVELS_MBPS = np.array([0.2, 0.5, 0.9, 1.5, 2.4, 3.8, 6.0, 12.0, 40.0])  # 3G edge ... LTE ... 5G
CENTRE_WEIGHTS = np.array([1, 3, 4, 4, 4, 3, 2, 1, 0.5])  # how often a trace lives around a level


def generate(count: int, seconds: int, seed: int) -> list[Trace]:
    """`count` traces of `seconds` samples of one second, a function of the seed alone.

    A hidden state walks over `LEVELS_MBPS` around the trace's own centre, stays 4 to 30 s on average, and every sample is
    log-normal around the state's level; a few traces have outages.
    """
    return [
        _trace(np.random.default_rng([seed, number]), seconds, f"synthetic-{seed}-{number}") for number in range(count)
    ]


def _trace(rng: np.random.Generator, seconds: int, name: str) -> Trace:
    centre = rng.choice(len(LEVELS_MBPS), p=CENTRE_WEIGHTS / CENTRE_WEIGHTS.sum())
    stay_s = rng.uniform(4, 30)
    spread = rng.uniform(0.05, 0.35)
    outage = rng.random() < 0.1
    mbps = np.empty(seconds + 1)
    state = int(centre)
    for second in range(seconds + 1):
        if rng.random() < 1 / stay_s:
            pull = np.sign(centre - state) if rng.random() < 0.6 else rng.choice([-1, 1])
            state = int(min(max(state + pull, 0), len(LEVELS_MBPS) - 1))
        mbps[second] = LEVELS_MBPS[state] * rng.lognormal(0, spread)
        if outage and rng.random() < 0.02:
            mbps[second] = 0.02
    return Trace(name, np.arange(seconds + 1.0), mbps)


def generate_video(seed: int = 0, chunks: int = 48, ladder: Ladder = PUBLIC) -> npt.NDArray[np.int64]:
    """Chunk sizes (levels, chunks) in bytes of a variable-bitrate video: scenes of differing complexity, all levels alike."""
    rng = np.random.default_rng(seed)
    scene = np.repeat(rng.lognormal(0, 0.15, chunks // 4 + 1), 4)[:chunks]
    complexity = scene * rng.lognormal(0, 0.08, chunks)
    complexity /= complexity.mean()
    rates = np.array(ladder.bitrates_kbps) * 1000 / 8
    noise = rng.lognormal(0, 0.02, (ladder.levels, chunks))
    return np.round(rates[:, None] * ladder.chunk_s * complexity[None] * noise).astype(np.int64)
