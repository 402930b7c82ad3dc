"""The link of the player carries what the simulator's does, and its media are what a player expects."""

from __future__ import annotations

import shutil
import struct
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenetllm.tasks.abr.data.ladder import PUBLIC, Ladder
from edgenetllm.tasks.abr.player import media
from edgenetllm.tasks.abr.player.link import Link
from edgenetllm.tasks.abr.simulator.core import play


def trace(seed: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Uneven samples, a fifth of them without bandwidth; the first row is later than 0, as in recorded traces."""
    rng = np.random.default_rng(seed)
    mbps = rng.uniform(0.1, 6, rows) * (rng.random(rows) > 0.2)
    return np.cumsum(rng.uniform(0.2, 2.5, rows)), mbps


@pytest.mark.parametrize("seed", range(5))
def test_downloads_arrive_when_the_simulator_says(seed):
    time_s, mbps = trace(seed)
    rng = np.random.default_rng(seed)
    sizes, start = np.sort(rng.integers(50_000, 3_000_000, (6, 48)), axis=0), int(rng.integers(1, 59))
    actions = rng.integers(0, 6, 48)
    played = play(time_s, mbps, sizes, actions, start, clock="real")
    link, now, buffer = Link(time_s, mbps, start), 0.0, 0.0
    turns = 0
    for chunk in range(48):
        arrived = link.arrival(now + 0.08, int(sizes[actions[chunk], chunk]))
        assert arrived - now == pytest.approx(played.delay_ms[chunk] / 1000, abs=1e-9)
        buffer = max(buffer - (arrived - now), 0.0) + 4
        slept = max(np.ceil((buffer - 60) * 2) / 2, 0.0)
        now, buffer = arrived + slept, buffer - slept
        turns = now / time_s[-1]
    assert turns > 2  # the trace began again


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 500), st.integers(1, 10_000_000))
def test_a_link_has_carried_exactly_the_bytes_at_their_arrival(seed, begin, size):
    time_s, mbps = trace(seed, 20)
    link = Link(time_s, mbps, 1 + seed % 19)
    arrival = link.arrival(begin, size)
    assert link.carried(arrival) - link.carried(begin) == pytest.approx(size, rel=1e-9, abs=1e-3)
    assert link.carried(np.nextafter(arrival - 1e-6, 0)) - link.carried(begin) < size


def test_the_chart_gets_the_bandwidth_of_the_trace():
    link = Link(np.arange(10.0), np.array([9.0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), start=2)
    assert link.mbps_until(11.0) == pytest.approx([2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3])


def test_a_trace_that_carries_nothing_is_refused():
    with pytest.raises(ValueError, match="carries no data"):
        Link(np.arange(5.0), np.zeros(5), 1)


def boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        assert 8 <= size <= len(data) - at
        found.append((name, data[at + 8 : at + size]))
        at += size
    return found


@pytest.mark.parametrize("size", [media.smallest_chunk(), 150_001, 2_345_678])
@pytest.mark.parametrize("chunk", [0, 1, 47])
def test_a_chunk_has_its_bytes_its_number_and_its_time(chunk, size):
    data = media.padded_fragment(chunk, 4.0, size)
    assert len(data) == size
    (moof, inside), (mdat, frames), (free, padding) = boxes(data)
    assert (moof, mdat, free) == (b"moof", b"mdat", b"free")
    assert frames == b"".join(media.frames())
    assert not padding.strip(b"\0")
    (_, mfhd), (_, traf) = boxes(inside)
    assert struct.unpack(">II", mfhd)[1] == chunk + 1
    (_, tfhd), (_, tfdt), (_, trun) = boxes(traf)
    assert struct.unpack(">Q", tfdt[4:])[0] == chunk * 4 * media.TIMESCALE
    assert struct.unpack(">I", tfhd[8:12])[0] * len(media.frames()) == 4 * media.TIMESCALE
    offset = struct.unpack(">i", trun[8:12])[0]
    assert data[offset : offset + len(frames)] == frames  # counted from the moof, with which the chunk begins


def test_a_chunk_too_small_for_the_picture_is_refused():
    with pytest.raises(ValueError, match=f"at least {media.smallest_chunk()}"):
        media.padded_fragment(0, 4.0, media.smallest_chunk() - 1)


def test_the_manifest_names_every_level_and_the_length():
    text = media.manifest(Ladder((100, 250.5), 2.0), 10)
    assert text.count("<Representation ") == 2
    assert 'bandwidth="250500"' in text
    assert 'mediaPresentationDuration="PT20.000000S"' in text
    assert text.count('codecs="vp09.00.10.08"') == 2


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
def test_ffmpeg_reads_the_video(tmp_path):
    path = tmp_path / "video.mp4"
    chunks = [media.padded_fragment(chunk, PUBLIC.chunk_s, 100_000) for chunk in range(3)]
    path.write_bytes(media.init_segment(PUBLIC.chunk_s) + b"".join(chunks))
    entries = "format=duration:stream=codec_name,nb_read_frames"
    told = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-show_entries", entries, "-of", "csv", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.split() == ["stream,vp9,300", "format,12.000000"]
