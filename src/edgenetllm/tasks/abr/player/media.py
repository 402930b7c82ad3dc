"""The video: an initialisation segment and one black fragment, written as MP4 boxes, padded to the bytes of a size table.

The picture is VP9, 16 x 16 pixels, 100 frames to a chunk (25 a second of a chunk of 4 s), which every Chromium plays. Each
chunk of each quality has the same frames; a `free` box behind them brings it to the size of the video's table. The boxes are
those of ISO/IEC 14496-12 (fragmented MP4) and of the VP9 binding of WebM's "VP Codec ISO Media File Format Binding".
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from xml.sax.saxutils import quoteattr

from edgenetllm.tasks.abr.data.ladder import Ladder

TIMESCALE = 90_000
CODEC = "vp09.00.10.08"  # profile 0, level 1, 8 bits
PIXELS = 16
FRAMES_FILE = Path(__file__).parent / "black.ivf"  # made by scripts/make_black_video.py
EMPTY_FREE_BOX = 8  # bytes
UNITY = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)  # a matrix that leaves the picture as it is
KEY_FRAME, OTHER_FRAME = 0x02000000, 0x01010000  # flags of a sample


@cache
def frames() -> tuple[bytes, ...]:
    """The VP9 frames of a chunk, the first one a key frame, from the IVF file."""
    data = FRAMES_FILE.read_bytes()
    at, found = struct.unpack_from("<H", data, 6)[0], []
    while at < len(data):
        size = struct.unpack_from("<I", data, at)[0]
        found.append(data[at + 12 : at + 12 + size])
        at += 12 + size
    return tuple(found)


def frame_ticks(chunk_s: float) -> int:
    """The duration of a frame, in ticks of `TIMESCALE`, for chunks of `chunk_s` seconds."""
    return round(chunk_s * TIMESCALE / len(frames()))


def init_segment(chunk_s: float) -> bytes:
    """The initialisation segment (`ftyp`, `moov`) of every quality."""
    video = struct.pack(">6xH16xHHIIIH32xHh", 1, PIXELS, PIXELS, 72 << 16, 72 << 16, 0, 1, 24, -1)
    codec = _full(b"vpcC", 1, 0, bytes([0, 10, 8 << 4 | 1 << 1, 2, 2, 2, 0, 0]))
    tables = [
        _full(b"stsd", 0, 0, struct.pack(">I", 1), _box(b"vp09", video, codec)),
        *(_full(name, 0, 0, bytes(4)) for name in (b"stts", b"stsc", b"stco")),
        _full(b"stsz", 0, 0, bytes(8)),
    ]
    here = _full(b"dref", 0, 0, struct.pack(">I", 1), _full(b"url ", 0, 1))
    media = _box(
        b"mdia",
        _full(b"mdhd", 0, 0, struct.pack(">IIIIHH", 0, 0, TIMESCALE, 0, 0x55C4, 0)),
        _full(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, b"vide"), b"video\0"),
        _box(b"minf", _full(b"vmhd", 0, 1, bytes(8)), _box(b"dinf", here), _box(b"stbl", *tables)),
    )
    track = (
        struct.pack(">IIIII8xHHHH", 0, 0, 1, 0, 0, 0, 0, 0, 0) + UNITY + struct.pack(">II", PIXELS << 16, PIXELS << 16)
    )
    movie = struct.pack(">IIIIIH10x", 0, 0, 1000, 0, 1 << 16, 1 << 8) + UNITY + struct.pack(">24xI", 2)
    extends = _full(b"trex", 0, 0, struct.pack(">IIIII", 1, 1, frame_ticks(chunk_s), 0, OTHER_FRAME))
    boxes = [
        _full(b"mvhd", 0, 0, movie),
        _box(b"trak", _full(b"tkhd", 0, 3, track), media),
        _box(b"mvex", extends),
    ]
    return _box(b"ftyp", b"iso5", struct.pack(">I", 0x200), b"iso5iso6mp41") + _box(b"moov", *boxes)


def fragment(chunk: int, chunk_s: float) -> bytes:
    """The picture of a chunk (`moof`, `mdat`), which begins at chunk times `chunk_s` seconds."""
    ticks = frame_ticks(chunk_s)
    begin = chunk * ticks * len(frames())

    def moof(data_offset: int) -> bytes:
        run = struct.pack(">IiI", len(frames()), data_offset, KEY_FRAME) + struct.pack(
            f">{len(frames())}I", *map(len, frames())
        )
        track = [
            _full(b"tfhd", 0, 0x020028, struct.pack(">III", 1, ticks, OTHER_FRAME)),  # relative to this moof
            _full(b"tfdt", 1, 0, struct.pack(">Q", begin)),
            _full(b"trun", 0, 0x000205, run),
        ]
        return _box(b"moof", _full(b"mfhd", 0, 0, struct.pack(">I", chunk + 1)), _box(b"traf", *track))

    return moof(len(moof(0)) + 8) + _box(b"mdat", *frames())


def smallest_chunk() -> int:
    """The fewest bytes that a chunk can be padded to."""
    return len(fragment(0, 4.0)) + EMPTY_FREE_BOX


def padded_fragment(chunk: int, chunk_s: float, size: int) -> bytes:
    """A chunk of exactly `size` bytes. Raises ValueError for fewer than `smallest_chunk`."""
    picture = fragment(chunk, chunk_s)
    rest = size - len(picture)
    if rest < EMPTY_FREE_BOX:
        raise ValueError(f"a chunk of {size} bytes: at least {smallest_chunk()} are needed")
    return picture + struct.pack(">I4s", rest, b"free") + bytes(rest - EMPTY_FREE_BOX)


def manifest(ladder: Ladder, chunks: int) -> str:
    """The MPD (ISO/IEC 23009-1) of a video: representation `q` is level q, its chunks are `q/0.m4s`, `q/1.m4s`, ..."""
    ticks = frame_ticks(ladder.chunk_s) * len(frames())
    levels = "".join(
        f'<Representation id="{level}" codecs="{CODEC}" width="{PIXELS}" height="{PIXELS}" '
        f'bandwidth="{round(kbps * 1000)}"/>'
        for level, kbps in enumerate(ladder.bitrates_kbps)
    )
    duration = quoteattr(f"PT{chunks * ticks / TIMESCALE:.6f}S")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-live:2011" type="static" '
        f'minBufferTime="PT{ladder.chunk_s:g}S" mediaPresentationDuration={duration}><Period>'
        '<AdaptationSet mimeType="video/mp4" contentType="video" segmentAlignment="true" startWithSAP="1">'
        f'<SegmentTemplate timescale="{TIMESCALE}" duration="{ticks}" startNumber="0" '
        'initialization="$RepresentationID$/init.mp4" media="$RepresentationID$/$Number$.m4s"/>'
        f"{levels}</AdaptationSet></Period></MPD>"
    )


def _box(name: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I4s", len(data) + 8, name) + data


def _full(name: bytes, version: int, flags: int, *content: bytes) -> bytes:
    """A box with a version and flags."""
    return _box(name, struct.pack(">I", version << 24 | flags), *content)
