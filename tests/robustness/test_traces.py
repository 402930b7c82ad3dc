"""Trace files and videos of any content: read or refused in one sentence, and what is read plays to its end."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from contained import campaign, check
from mutations import altered_text, altered_tree
from played import trace_plays

from edgenetllm.tasks.abr.data.columns import Typed
from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.data.ladder import Ladder
from edgenetllm.tasks.abr.data.own_video import video_of
from edgenetllm.tasks.abr.data.readers import read
from edgenetllm.tasks.abr.data.rows import from_zero
from edgenetllm.tasks.abr.data.synthetic import generate, generate_video
from edgenetllm.tasks.abr.data.traces import Trace

CASES = int(os.environ.get("ROBUSTNESS_CASES", "20000"))
FEW = 250


def start_files() -> dict[str, list[bytes]]:
    """Good files of every format, from generated traces."""
    rng = random.Random(0)
    trace = generate(1, 60, 0)[0]
    rows = list(zip(trace.time_s.tolist(), trace.mbps.tolist(), strict=True))
    stamps = sorted(rng.randrange(20_000) for _ in range(300))
    clock = "".join(
        f"{1284623045 + t:.0f} {163421 + 1000 * t:.0f} 59.91 10.77 {mbps * 125_000:.0f} {1000 if t else 0}\n"
        for t, mbps in rows
    )
    columns = "Timestamp,Longitude,State,DL_bitrate,UL_bitrate\n"
    gnettrack = columns + "".join(
        f"2019.12.16_13.{40 + int(t) // 60:02d}.{int(t) % 60:02d},10.7,{'DI'[int(t) % 2]},{mbps * 1000:.0f},12\n"
        for t, mbps in rows
    )
    return {
        "mahimahi": ["\n".join(map(str, stamps)).encode() + b"\n", b"# one packet a millisecond\n1\n", b"0\n30000\n"],
        "cooked": ["".join(f"{t:.3f} {mbps:.5f}\n" for t, mbps in rows).encode(), b"# seconds Mbps\n0 1\n1 2\n2 0\n3 4\n"],
        "csv": [
            ("time_ms,throughput_kbps,note\n" + "".join(f'{t * 1000:.0f},{m * 1000:.1f},"a, b"\n' for t, m in rows)).encode(),
            ("date;bytes\n" + "".join(f"2023-11-14T22:{int(t) // 60:02d}:{int(t) % 60:02d}Z;{m * 125_000:.0f}\n"
                                      for t, m in rows)).encode(),
            b"0,1.5\n1,2\n2,2.5\n",
        ],
        "hsdpa": [clock.encode()],
        "gnettrack": [gnettrack.encode(), gnettrack.replace(",", "\t").encode()],
    }  # fmt: skip


STARTS = start_files()


def altered(kind: str, number: int) -> bytes:
    chance = random.Random(f"{kind} {number}")
    return altered_text(chance.choice(STARTS[kind]), chance)


def attempt_trace(kind: str):
    def attempt(number: int, folder: Path) -> None:
        (folder / "trace").write_bytes(altered(kind, number))
        trace_plays(from_zero(read(folder / "trace", kind, Typed())))

    return attempt


def write_video(folder: Path) -> dict[str, bytes]:
    ladder = Ladder((300.0, 900.0, 2500.0), 2.0)
    sizes = generate_video(0, 12, ladder)
    files = {f"video_size_{level}": "".join(f"{size}\n" for size in row).encode() for level, row in enumerate(sizes)}
    files["ladder.json"] = json.dumps({"bitrates_kbps": list(ladder.bitrates_kbps), "chunk_s": ladder.chunk_s}).encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def options(folder: Path, **changed: object) -> Synthetic:
    return Synthetic("synthetic", 0, 60, 1, 1, 1, video=str(folder), **changed)


def attempt_video(number: int, folder: Path) -> None:
    """One file of a video altered: the sizes of a level, or the ladder, also as a tree."""
    chance = random.Random(f"video {number}")
    video = folder / "video"
    video.mkdir()
    files = write_video(video)
    name = chance.choice([*files, "ladder.json", "ladder.json"])
    data = altered_text(files[name], chance)
    if name == "ladder.json" and chance.random() < 0.5:
        data = json.dumps(altered_tree(json.loads(files[name]), chance)).encode()
    (video / name).write_bytes(data)
    watched = video_of(options(video), folder)
    trace_plays(Trace("a", np.arange(61.0), np.full(61, 2.0)), watched.sizes, watched.ladder)


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile before the first case: the time of a compilation is not that of a file."""
    trace_plays(Trace("a", np.arange(10.0), np.ones(10)))


def run(kind: str, numbers: range) -> None:
    check(campaign(kind, numbers, attempt_video if kind == "video" else attempt_trace(kind)))


@pytest.mark.robustness
@pytest.mark.parametrize("kind", [*STARTS, "video"])
def test_altered_files_are_read_or_refused(kind):
    run(kind, range(FEW))


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("kind", [*STARTS, "video"])
def test_many_altered_files_are_read_or_refused(kind):
    run(kind, range(CASES))
