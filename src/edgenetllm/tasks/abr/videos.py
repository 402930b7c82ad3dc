"""Chunk sizes of a video: the two public ones, or a generated one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.qoe import LEVELS
from edgenetllm.tasks.abr.sources import SOURCES
from edgenetllm.tasks.abr.synthetic import generate_video
from edgenetllm.tasks.fetch import CODELOAD, find

CHUNKS = 48  # the public size files have a 49th line that is never played


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
        path = folder / f"video_size_{level}"
        lines = path.read_text().split()
        if len(lines) < CHUNKS or not all(line.isdigit() and int(line) > 0 for line in lines):
            raise UserError(f"{path}: expected at least {CHUNKS} lines, each a chunk size in bytes")
        sizes[level] = [int(line) for line in lines[:CHUNKS]]
    return sizes
