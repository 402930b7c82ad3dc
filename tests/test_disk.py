"""Errors of a disk as one sentence with folder and room, whichever library raised them; other errors stay what they are."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgenetllm.disk import DiskError, explain_disk, explained, room
from edgenetllm.errors import UserError

ROOM = r"\d[\d.]* [kMGT]?B of \d[\d.]* [kMGT]?B free in "


def error(number: int, *paths: Path) -> OSError:
    return OSError(
        number, os.strerror(number), *(str(path) for path in paths[:1]), *([None, str(paths[1])] if paths[1:] else [])
    )


def test_a_full_disk_says_where_how_much_is_free_and_what_to_type(tmp_path):
    sentence = str(explain_disk(error(errno.ENOSPC, tmp_path / "a" / "b"), [], "go on with resume=RUN"))
    assert re.fullmatch(
        rf"{tmp_path}/a/b: No space left on device \({ROOM}{tmp_path}\): make room, then go on with resume=RUN, or choose "
        r"another disk with paths\.log_dir=, paths\.cache_dir= and paths\.data_dir=",
        sentence,
    )


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EACCES])
def test_a_disk_that_takes_nothing_is_not_full(tmp_path, number):
    sentence = str(explain_disk(error(number, tmp_path / "a")))
    assert sentence.startswith(f"{tmp_path}/a: {os.strerror(number)} (")
    assert "make room" not in sentence


def test_without_a_file_the_room_of_each_disk_is_said(tmp_path):
    sentence = str(explain_disk(error(errno.ENOSPC), [tmp_path / "none", tmp_path, Path("/proc/self")]))
    assert re.match(rf"No space left on device \({ROOM}{tmp_path}; {ROOM}/proc/self\): make room", sentence)


def test_a_temporary_file_is_named_by_its_folder_and_a_copy_by_its_target(tmp_path):
    hidden = tmp_path / ".dense.0123abcd.tmp" / "bundle"
    assert str(explain_disk(error(errno.EIO, hidden))).startswith(f"{tmp_path}: Input/output error (")
    copied = error(errno.ENOSPC, tmp_path / "from", tmp_path / "to")
    assert str(explain_disk(copied)).startswith(f"{tmp_path}/to: No space")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", "No space left on device"),
        ("Error while serializing: I/O error: Something (os error 30)", "Read-only file system"),
        ("could not pickle: Input/output error", "Input/output error"),
        ("PytorchStreamWriter failed writing file data/0: file write failed", "a file could not be written"),
    ],
)
def test_libraries_that_raise_no_oserror_are_understood(text, reason):
    raised = ValueError("while saving")
    raised.__cause__ = RuntimeError(text)
    assert str(explain_disk(raised)).startswith(reason)


@pytest.mark.parametrize(
    "other",
    [ValueError("no"), FileNotFoundError(errno.ENOENT, "No such file", "/x"), OSError(errno.EACCES, "denied"),
     BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError("disk full"), RuntimeError("failed (os error 2)")],
    ids=repr,
)  # fmt: skip
def test_other_errors_are_none_of_the_disk(other):
    assert explain_disk(other) is None


def test_only_errors_of_the_disk_become_sentences(tmp_path):
    with (
        pytest.raises(DiskError, match=f"^{tmp_path}/a: No space left on device .*then go on"),
        explained([], lambda: "go on"),
    ):
        raise error(errno.ENOSPC, tmp_path / "a")
    for other in (ValueError("no"), UserError("no")):
        with pytest.raises(type(other), match=r"^no$"), explained([], lambda: "go on"):
            raise other


def test_the_room_of_a_folder_that_is_not_there_is_that_of_the_one_above(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=64e9, free=0))
    assert room(tmp_path / "a" / "b") == f"0 B of 64.0 GB free in {tmp_path}"


def test_a_folder_that_may_not_be_searched_is_a_sentence(tmp_path):
    """As a user without rights: root may do anything."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    code = (
        "import os, sys; from pathlib import Path; from edgenetllm.disk import room; from pydantic import TypeAdapter\n"
        "from edgenetllm.option_types import TYPED, WritableFolder\n"
        "adapter, path = TypeAdapter(WritableFolder), Path(sys.argv[1])\n"
        "os.geteuid() or os.seteuid(65534)\n"
        "print(room(path))\n"
        "try: adapter.validate_python(path, context=TYPED)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(closed / "a" / "b")], capture_output=True, text=True, check=True
    )
    assert re.search(f"{ROOM}/", done.stdout)
    assert re.search("cannot be (read|written to)", done.stdout)
