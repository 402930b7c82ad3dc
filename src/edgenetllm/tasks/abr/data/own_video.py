"""The video that a data set plays: a public or generated one, or size tables of one's own in a folder.

video_size_0, video_size_1, ...   a file for each bitrate, the lowest first: the size of each chunk in bytes, one a line
ladder.json                       {"bitrates_kbps": [300, 750], "chunk_s": 4}: not needed where the options say it, or
                                  where there are six files, which without it are of the public ladder
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.ladder import MOST_LEVELS, PUBLIC, Ladder
from edgenetllm.tasks.abr.data.synthetic import generate_video
from edgenetllm.tasks.abr.data.videos import MOST_CHUNKS, load_video, read_sizes
from edgenetllm.tasks.abr.protocol import CHUNKS
from edgenetllm.reading import listed, plain, read_json, shown

FETCHED = ("video1", "video2")
LADDER_FILE = "ladder.json"
PLAUSIBLE = 3.0  # how many times the mean size of a level may be above or below bitrate times seconds
LARGEST_LADDER_FILE = 2**16  # bytes


class VideoOptions(Protocol):
    """The options of a data set that say which video it plays."""

    name: str
    video: str  # video1, video2, synthetic, or a folder
    bitrates_kbps: list[float] | None
    chunk_s: float | None
    chunks: int | None


@dataclass(frozen=True)
class Video:
    """Sizes in bytes, (levels, chunks), and what the levels are."""

    sizes: npt.NDArray[np.int64]
    ladder: Ladder


def check_options(options: VideoOptions) -> None:
    """Raises UserError for options that do not go with the video, without reading or fetching any."""
    if options.chunks is not None and not 2 <= options.chunks <= MOST_CHUNKS:
        raise UserError(f"data.chunks={options.chunks}: play from 2 to {MOST_CHUNKS} chunks")
    if options.video in FETCHED:
        for key in ("bitrates_kbps", "chunk_s"):
            if (value := getattr(options, key)) is not None:
                raise UserError(
                    f"data.{key}={value}: data.video={options.video} has {PUBLIC}; type data.video=synthetic, or a folder of "
                    "size tables"
                )
        if options.chunks is not None and options.chunks > CHUNKS:
            raise UserError(f"data.chunks={options.chunks}: data.video={options.video} has {CHUNKS}")


def video_of(options: VideoOptions, data_dir: Path) -> Video:
    """The video that the options name; `data_dir` is where public ones lie or are fetched to.

    Raises UserError that names the override, or file and line, of what is not understood.
    """
    check_options(options)
    if options.video in FETCHED:
        return Video(load_video(options.video, data_dir)[:, : options.chunks], PUBLIC)
    if options.video == "synthetic":
        rates = PUBLIC.bitrates_kbps if options.bitrates_kbps is None else options.bitrates_kbps
        ladder = _ladder(list(rates), PUBLIC.chunk_s if options.chunk_s is None else options.chunk_s, "data.")
        return Video(generate_video(chunks=options.chunks or CHUNKS, ladder=ladder), ladder)
    if not Path(options.video).is_dir():
        raise UserError(f"data.video={options.video}: choose video1, video2, synthetic, or a folder of size tables")
    return _read(Path(options.video), options)


def _read(folder: Path, options: VideoOptions) -> Video:
    files = _files(folder)
    rows = [read_sizes(path) for path in files]
    for path, row in zip(files, rows, strict=True):
        if len(row) != len(rows[0]):
            raise UserError(f"{path}: {len(row)} chunks, but {files[0].name} has {len(rows[0])}")
    ladder = _ladder_of(folder, options, len(files))
    sizes = np.array(rows, np.int64)
    if options.chunks is not None and options.chunks > sizes.shape[1]:
        raise UserError(f"data.chunks={options.chunks}: the files of data.video={folder} have {sizes.shape[1]}")
    sizes = sizes[:, : options.chunks]
    _check_plausible(folder, sizes, ladder)
    return Video(sizes, ladder)


def _files(folder: Path) -> list[Path]:
    """The files video_size_0, video_size_1, ... without a gap; there may be nothing else but hidden files."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {LADDER_FILE}
    expected = [f"video_size_{level}" for level in range(len(names))]
    if names != set(expected) or not 2 <= len(names) <= MOST_LEVELS:
        few_or_many = "fewer than two files" if len(names) < 2 else f"more than {MOST_LEVELS} files"
        odd = sorted(names - set(expected)) or [few_or_many]
        raise UserError(
            f"data.video={folder}: expected video_size_0, video_size_1, ... without a gap, and perhaps {LADDER_FILE}; "
            f"there is {plain(odd[0])}"
        )
    return [folder / name for name in expected]


def _ladder_of(folder: Path, options: VideoOptions, levels: int) -> Ladder:
    """The ladder that options and file state (both may state the same); of six levels without a word the public one."""
    path = folder / LADDER_FILE
    stated = _read_ladder(path) if path.is_file() else {}
    for key, value in stated.items():
        typed = getattr(options, key)
        if typed is not None and typed != value:
            said = f"[{listed(value)}]" if isinstance(value, list) else shown(value)
            raise UserError(f"data.{key}={typed}: {path} says {said}; change one of the two")
    bitrates = stated.get("bitrates_kbps") if options.bitrates_kbps is None else options.bitrates_kbps
    chunk_s = stated.get("chunk_s") if options.chunk_s is None else options.chunk_s
    if bitrates is None and levels == PUBLIC.levels:
        bitrates = list(PUBLIC.bitrates_kbps)
    if bitrates is None or len(bitrates) != levels:
        typed = "" if options.bitrates_kbps is None else f"data.bitrates_kbps=[{listed(options.bitrates_kbps)}]: "
        have = "no bitrates are given" if bitrates is None else f"there are {len(bitrates)} bitrates"
        raise UserError(
            f"{typed}data.video={folder}: {levels} files of sizes, but {have}: type data.bitrates_kbps=[...], the lowest "
            f"first, or write {path}"
        )
    return _ladder(bitrates, PUBLIC.chunk_s if chunk_s is None else chunk_s, f"{path}: " if stated else "data.")


def _read_ladder(path: Path) -> dict[str, Any]:
    stated = read_json(path, LARGEST_LADDER_FILE)
    if not isinstance(stated, dict) or set(stated) - {"bitrates_kbps", "chunk_s"}:
        raise UserError(f"{path}: expected an object with bitrates_kbps and chunk_s")
    rates, chunk_s = stated.get("bitrates_kbps", []), stated.get("chunk_s", 1)
    if not isinstance(rates, list) or any(type(value) not in (int, float) for value in [*rates, chunk_s]):
        raise UserError(f"{path}: bitrates_kbps is a list of numbers, chunk_s a number")
    return stated


def _ladder(bitrates: list[float], chunk_s: float, where: str) -> Ladder:
    try:
        return Ladder(tuple(bitrates), chunk_s)
    except ValueError as error:
        raise UserError(f"{where}{error}") from None


def _check_plausible(folder: Path, sizes: npt.NDArray[np.int64], ladder: Ladder) -> None:
    """Raises UserError for levels that do not grow, and for sizes that bitrates and seconds cannot explain."""
    mean = sizes.mean(1)
    if not (np.diff(mean) > 0).all():
        level = int(np.argmin(np.diff(mean) > 0)) + 1
        raise UserError(f"{folder}/video_size_{level}: its chunks are no larger than those of video_size_{level - 1}")
    nominal = ladder.mbps * 1e6 / 8 * ladder.chunk_s
    for level, times in enumerate(mean / nominal):
        if not 1 / PLAUSIBLE <= times <= PLAUSIBLE:
            raise UserError(
                f"{folder}/video_size_{level}: a chunk has {mean[level]:.0f} bytes on average, {times:.2g} times what "
                f"{ladder.bitrates_kbps[level]:g} kbps and {ladder.chunk_s:g} s give: are data.bitrates_kbps, data.chunk_s "
                "and the unit of the sizes right?"
            )
