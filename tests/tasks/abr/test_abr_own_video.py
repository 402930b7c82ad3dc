"""Size tables of one's own: the public form, any number of levels and chunks; what is not understood is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.data.ladder import PUBLIC, Ladder
from edgenetllm.tasks.abr.data.own_video import video_of
from edgenetllm.tasks.abr.data.synthetic import generate_video
from edgenetllm.tasks.abr.task import AbrTask

THREE = Ladder((400.0, 1000.0, 2500.0), 2.0)


def write(folder: Path, sizes: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for level, row in enumerate(sizes):
        (folder / f"video_size_{level}").write_text("\n".join(map(str, row.tolist())) + "\n")
    return folder


def swap(folder: Path) -> None:
    first, second = ((folder / f"video_size_{level}").read_bytes() for level in (1, 2))
    (folder / "video_size_1").write_bytes(second)
    (folder / "video_size_2").write_bytes(first)


def data(video: object, **options: object) -> Synthetic:
    return Synthetic("synthetic", seed=0, seconds=320, train=8, val=3, test=4, video=str(video), **options)  # type: ignore[arg-type]


def task(video: object, **options: object) -> AbrTask:
    return AbrTask("abr", data(video, **options), Path("none"), "lin", "fused", noise=True, temperature=0.1)


@pytest.fixture
def folder(tmp_path):
    """Three levels of 30 chunks, without a ladder."""
    return write(tmp_path / "video", generate_video(2, 30, THREE))


def test_bitrates_come_from_options_or_from_a_file(folder):
    typed = video_of(data(folder, bitrates_kbps=[400, 1000, 2500], chunk_s=2), Path())
    (folder / "ladder.json").write_text(json.dumps({"bitrates_kbps": [400, 1000, 2500], "chunk_s": 2}))
    stated = video_of(data(folder), Path())
    assert typed.ladder == stated.ladder == video_of(data(folder, chunk_s=2), Path()).ladder == THREE
    np.testing.assert_array_equal(typed.sizes, stated.sizes)
    np.testing.assert_array_equal(typed.sizes, generate_video(2, 30, THREE))
    assert video_of(data(folder, chunks=7), Path()).sizes.shape == (3, 7)


def test_six_files_in_the_public_form_are_the_same_video(tmp_path):
    """A 49th line, as the public files have it, is played unless data.chunks says otherwise."""
    sizes = generate_video(0, 48)
    folder = write(tmp_path / "video", np.column_stack([sizes, sizes[:, -1]]))
    own, generated = task(folder, chunks=48), task("synthetic")
    assert own.data_hash() == generated.data_hash()
    assert task(folder).max_steps == 48
    for name, policy in own.baselines().items():
        other = generated.baselines()[name]
        rewards = [
            play(t.environment("test"), t.seeds("test"), p).reward for t, p in ((own, policy), (generated, other))
        ]
        np.testing.assert_array_equal(*rewards)


def test_pensieve_plays_longer_videos_of_the_public_ladder(tmp_path):
    long = task(write(tmp_path / "video", generate_video(0, 90)))
    pensieve = long.baselines()["pensieve_fcc"]
    assert play(long.environment("test"), long.seeds("test"), pensieve).reward.shape == (4, 89)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "video_size_1").unlink(), r"without a gap.*there is video_size_2"),
        (lambda f: (f / "README").write_text("x"), r"there is README"),
        (lambda f: [(f / f"video_size_{n}").unlink() for n in (1, 2)], r"there is fewer than two files"),
        (lambda f: (f / "video_size_1").write_text("100000\n0\n"), r"video_size_1, line 2: '0', expected the size"),
        (lambda f: (f / "video_size_1").write_text("100000\n\n7\n"), r"video_size_1, line 2: ''"),
        (lambda f: (f / "video_size_1").write_text("100000\n-3\n"), r"video_size_1, line 2: '-3'"),
        (lambda f: (f / "video_size_1").write_text("100000\n1e5\n"), r"video_size_1, line 2: '1e5'"),
        (lambda f: (f / "video_size_1").write_text("100000 200000\n"), r"video_size_1, line 1: '100000 200000'"),
        (lambda f: (f / "video_size_1").write_text("9" * 30 + "\n1\n"), r"video_size_1, line 1: '999"),
        (lambda f: (f / "video_size_1").write_text("250000\n" * 29), r"video_size_1: 29 chunks, but video_size_0 has 30"),
        (lambda f: (f / "video_size_1").write_text(""), r"video_size_1: 0 chunks, expected from 2"),
        (lambda f: (f / "video_size_1").write_bytes(b"\xff\n"), r"video_size_1 is not a text file in UTF-8"),
        (swap, r"video_size_2: its chunks are no larger than those of video_size_1"),
        (lambda f: (f / "ladder.json").write_text("{"), r"ladder\.json, line 1: not JSON"),
        (lambda f: (f / "ladder.json").write_text('{"chunks": 3}'), r"ladder\.json: expected an object with bitrates_kbps"),
        (lambda f: (f / "ladder.json").write_text('{"chunk_s": "2"}'), r"ladder\.json: bitrates_kbps is a list of numbers"),
        (lambda f: (f / "ladder.json").write_text('{"chunk_s": 4}'), r"data\.chunk_s=2\.0: .*says 4; change one"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_understood_is_refused(folder, change, message):
    change(folder)
    with pytest.raises(UserError, match=message):
        task(folder, bitrates_kbps=[400, 1000, 2500], chunk_s=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"3 files of sizes, but no bitrates are given: type data\.bitrates_kbps=\[\.\.\.\]"),
        ({"bitrates_kbps": [400, 1000]}, r"3 files of sizes, but there are 2 bitrates"),
        (
            {"bitrates_kbps": [400, 2500, 1000], "chunk_s": 2},
            r"data\.bitrates_kbps=\[400\.0, 2500\.0, 1000\.0\]: give at least",
        ),
        ({"bitrates_kbps": [400, 1000, 2500], "chunk_s": 2, "chunks": 31}, r"data\.chunks=31: the files .* have 30"),
        (
            {"bitrates_kbps": [400, 1000, 2500], "chunk_s": 12},
            r"video_size_0: .* are data\.bitrates_kbps, data\.chunk_s",
        ),
        ({"bitrates_kbps": [4, 10, 25], "chunk_s": 2}, r"video_size_0: .* times what 4 kbps and 2 s give"),
    ],
)
def test_options_that_do_not_fit_are_named(folder, options, message):
    with pytest.raises(UserError, match=message):
        task(folder, **options)


@pytest.mark.parametrize(
    "options",
    [{"chunks": 1}, {"chunk_s": -2}, {"chunk_s": 0}, {"chunk_s": float("nan")}, {"bitrates_kbps": []}],
    ids=str,
)
def test_options_out_of_range_are_refused(folder, options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        task(folder, **{"bitrates_kbps": [400, 1000, 2500], "chunk_s": 2, **options})


@pytest.mark.parametrize(
    ("video", "options", "message"),
    [
        ("video1", {"chunk_s": 2}, r"data\.chunk_s=2\.0: data\.video=video1 has 300, 750, .* kbps, chunks of 4 s"),
        ("video2", {"bitrates_kbps": [1, 2]}, r"data\.bitrates_kbps=\[1\.0, 2\.0\]: data\.video=video2 has"),
        ("video1", {"chunks": 49}, r"data\.chunks=49: data\.video=video1 has 48"),
        ("video3", {}, r"data\.video=video3: choose video1, video2, synthetic, or a folder"),
    ],
)
def test_a_video_without_such_an_option_says_so(video, options, message):
    with pytest.raises(UserError, match=message):
        task(video, **options)


def test_a_public_video_is_not_fetched_to_check_a_configuration():
    few = task("video1", chunks=20)
    assert few.max_steps == 19
    assert few.head(8).linear.out_features == PUBLIC.levels


def test_the_guide_says_what_the_files_are_called():
    guide = (Path(__file__).resolve().parents[3] / "docs" / "guide.md").read_text()
    section = re.search(r"^## Your own video.*?(?=^## )", guide, re.MULTILINE | re.DOTALL)
    assert section
    (example,) = re.findall(r"```json\n(.*?)```", section.group(), re.DOTALL)
    assert set(json.loads(example)) == {"bitrates_kbps", "chunk_s"}
