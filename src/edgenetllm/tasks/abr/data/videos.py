"""Chunk sizes of videos: the two public ones, a generated one, one's own (own_video.py), and a generated one per episode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.ladder import PUBLIC, Ladder
from edgenetllm.tasks.abr.data.sources import SOURCES
from edgenetllm.tasks.abr.data.synthetic import generate_video
from edgenetllm.tasks.abr.protocol import CHUNKS
from edgenetllm.tasks.fetch import CODELOAD, find
from edgenetllm.reading import read_text, shown
from edgenetllm.tasks.randomness import uniform

LEVELS = PUBLIC.levels
LARGEST_CHUNK = 2**31  # bytes
MOST_CHUNKS = 10_000
LARGEST_SIZES_FILE = 2**20  # bytes

# Generated videos, in the range of video1 and video2.
GENERATED_VIDEOS = 2**31
MEAN_SIZE_RANGE = (0.9, 1.35)  # mean size over bitrate times 4 s; 1.00 and 1.20 in the public videos
# Standard deviations over chunks of the logarithm of the size: of the factor that all levels share (0.08 and 0.10 in the
# public videos), and of the factor of each level alone.
SHARED_SPREAD_RANGE = (0.05, 0.13)
LEVEL_SPREAD = np.array([0.055, 0.035, 0.025, 0.025, 0.03, 0.045])

# Counters of an episode's random numbers (environment.py).
VIDEO_DRAW = 1000
NUMBER_DRAW = 1001


@dataclass(frozen=True)
class Videos:
    """Size tables by number: those of `tables` (videos, levels, chunks) in bytes, and behind them the generated videos.

    drawn: numbers of tables of which a seed draws one; generated: a new video for each seed, as one choice more, which needs
    the public ladder and number of chunks. ladder: of all these videos.
    """

    tables: npt.NDArray[np.int64]
    drawn: tuple[int, ...] = (0,)
    generated: bool = False
    ladder: Ladder = PUBLIC

    def __post_init__(self) -> None:
        if self.tables.shape[1] != self.ladder.levels:
            raise ValueError(f"tables {self.tables.shape} for a ladder of {self.ladder.levels} bitrates")

    def draw(self, seeds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The number of each seed's video, (episodes,): all choices are equally likely."""
        if len(self.drawn) == 1 and not self.generated:
            return np.full(len(seeds), self.drawn[0], np.int64)
        choice = (uniform(seeds, VIDEO_DRAW) * (len(self.drawn) + self.generated)).astype(np.int64)
        fresh = len(self.tables) + (uniform(seeds, NUMBER_DRAW) * GENERATED_VIDEOS).astype(np.int64)
        return np.where(choice < len(self.drawn), np.append(self.drawn, -1).astype(np.int64)[choice], fresh)

    def look_up(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Size tables (n, levels, chunks), and which of them each of `numbers` (episodes,) is, (episodes,)."""
        fixed, fresh = len(self.tables), numbers >= len(self.tables)
        if not fresh.any():
            return self.tables, numbers
        names, place = np.unique(numbers[fresh], return_inverse=True)
        index = numbers.copy()
        index[fresh] = fixed + place
        return np.concatenate([self.tables, generate_videos(names - fixed)]), index


def generate_videos(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Chunk sizes in bytes, (videos, levels, chunks): one video for each of `numbers` (videos,), a function of it alone.

    A chunk is its bitrate times four seconds, times log-normal factors: one of the video, one of the chunk that all levels
    share, one of its own. Chunks are independent, as they nearly are in the public videos.
    """
    counters = np.arange(2 + CHUNKS * (LEVELS + 1))
    drawn = uniform(np.repeat(numbers, len(counters)), np.tile(counters, len(numbers))).reshape(-1, len(counters))
    low, high = np.log(MEAN_SIZE_RANGE)
    scale = low + drawn[:, 0, None, None] * (high - low)
    spread = SHARED_SPREAD_RANGE[0] + drawn[:, 1, None, None] * (SHARED_SPREAD_RANGE[1] - SHARED_SPREAD_RANGE[0])
    # Normal, cut at about three deviations, so that a higher level is always larger, too.
    normal = ndtri(0.0015 + 0.997 * drawn[:, 2:]).reshape(-1, LEVELS + 1, CHUNKS)
    logarithm = scale + spread * normal[:, :1] + LEVEL_SPREAD[:, None] * normal[:, 1:]
    nominal = np.array(PUBLIC.bitrates_kbps) * 1000 / 8 * PUBLIC.chunk_s
    return np.round(nominal[:, None] * np.exp(logarithm)).astype(np.int64)


def load_video(name: str, data_dir: Path, base_url: str = CODELOAD) -> npt.NDArray[np.int64]:
    """Sizes in bytes, (levels, chunks), of `video1`, `video2` or `synthetic`. Raises UserError for any other name."""
    if name == "synthetic":
        return generate_video()
    folder = f"abr/videos/{name}"
    if folder not in SOURCES:
        raise UserError(f"data.video={name}: choose video1, video2 or synthetic")
    return read_video(find(data_dir / folder, SOURCES[folder], base_url))


def read_video(folder: Path) -> npt.NDArray[np.int64]:
    """Files `video_size_0` .. `video_size_5`, one chunk size in bytes per line; chunks beyond the 48th are never played."""
    sizes = np.empty((LEVELS, CHUNKS), np.int64)
    for level in range(LEVELS):
        row = read_sizes(folder / f"video_size_{level}")
        if len(row) < CHUNKS:
            raise UserError(f"{folder}/video_size_{level}: {len(row)} chunks, expected at least {CHUNKS}")
        sizes[level] = row[:CHUNKS]
    return sizes


def read_sizes(path: Path) -> list[int]:
    """The sizes of the chunks of one level, in bytes, one a line. Raises UserError with file and line for anything else."""
    lines = read_text(path, LARGEST_SIZES_FILE).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    sizes = []
    for number, line in enumerate(lines, start=1):
        text = line.strip(" \t\r")
        if not (text.isascii() and text.isdigit() and len(text) <= 20) or not 0 < int(text) <= LARGEST_CHUNK:
            raise UserError(
                f"{path}, line {number}: {shown(text, 40)}, expected the size of a chunk in bytes, a whole number"
            )
        sizes.append(int(text))
    if not 2 <= len(lines) <= MOST_CHUNKS:
        raise UserError(f"{path}: {len(lines)} chunks, expected from 2 to {MOST_CHUNKS}, one a line")
    return sizes
