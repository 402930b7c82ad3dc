"""The public recordings of head orientations: where they come from, and NetLLM's splits of them by video and by viewer."""

from __future__ import annotations

from dataclasses import dataclass

from edgenetllm.tasks.fetch import Source
from edgenetllm.tasks.task import Split

HERTZ = 5
HEAD, TAIL = 30, 60  # rows of a recording, at its ends, at which no answer begins (NetLLM, viewport_prediction/config.py)
# Videos and viewers of each split (NetLLM, viewport_prediction/config.py); a split has every viewer of its videos.


@dataclass(frozen=True)
class Public:
    """A published set: videos and viewers by split, and the hash of the files of these."""

    videos: dict[Split, tuple[int, ...]]
    viewers: dict[Split, tuple[int, ...]]
    sha256: str

    def files(self, split: Split) -> list[str]:
        """The paths of the recordings of a split, below the folder of the set."""
        pairs = [(video, viewer) for video in self.videos[split] for viewer in self.viewers[split]]
        return [f"video{video}/{HERTZ}Hz/simple_{HERTZ}Hz_user{viewer}.csv" for video, viewer in pairs]


PUBLIC = {
    "Jin2022": Public(
        videos={
            "train": (1, 5, 9, 2, 6, 11, 15, 16, 13, 17, 21, 22, 26, 19, 23),
            "val": (3, 7, 12, 10, 20, 27),
            "test": (4, 8, 14, 18, 24, 25),
        },
        viewers={
            "train": (
                50, 54, 6, 34, 66, 63, 52, 39, 62, 46, 75, 28, 65, 18, 37, 13, 80, 33, 69, 78, 19, 40, 10, 43, 61, 72, 56,
                41, 79, 82, 27, 71, 57, 67, 8, 2, 12, 81, 1, 64, 32, 42,
            ),
            "val": (9, 25, 73, 29, 31, 70, 58, 11, 14, 38, 16, 76, 77, 74, 24, 5, 17, 20, 51, 68, 36),
            "test": (83, 15, 3, 35, 48, 22, 55, 4, 45, 60, 26, 21, 44, 23, 53, 84, 59, 49, 7, 47, 30),
        },
        sha256="ec5c7a87e0a503cce188fe8823dee2e45100d02920c2c176fc5c306083fefb22",
    ),
    "Wu2017": Public(
        videos={"train": (9, 7, 4, 1, 6), "val": (8, 2), "test": (3, 5)},
        viewers={
            "train": (
                23, 3, 19, 24, 18, 28, 9, 26, 6, 15, 21, 25, 32, 38, 45, 34, 48, 44, 29, 43, 4, 36, 39, 8, 17, 42, 30, 11,
                22, 37,
            ),
            "val": (40, 20, 14, 1, 31, 12, 33, 27, 10),
            "test": (16, 7, 46, 5, 35, 2, 41, 47, 13),
        },
        sha256="17f22b22c7e381189b04e92de80013a3750c44366f95d04701d5bf1fe86562f7",
    ),
}  # fmt: skip


def source_of(name: str) -> Source:
    """The source of the recordings of a set that its splits use."""
    public = PUBLIC[name]
    files = [file for split in public.videos for file in public.files(split)]
    return Source(
        "duowuyms/NetLLM",
        "105bcf070f2bec808f7b14f8f5a953de6e4e6e54",  # MIT
        f"viewport_prediction/data/viewports/{name}",
        len(files),
        public.sha256,
        keep=tuple(files),
        names=tuple(files),
        instead="data=synthetic_viewers needs no download",
    )
