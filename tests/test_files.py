"""Atomic writes: after any failure the old content is still there, and nothing temporary is left."""

import errno
import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder, overwrite, remove_abandoned, sha256_of, write_atomic, write_json


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_write_replaces_and_creates_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["b.bin"]
    assert sha256_of(path) == hashlib.sha256(b"new").hexdigest()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def full_disk(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_json_round_trip_and_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [1, 0.1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": [1, 0.1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    assert names(tmp_path) == ["a.json"]


def test_folder_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "x" / "pool"
    with atomic_folder(target) as folder:
        (folder / "file").write_text("1")
        assert not target.exists()
    assert (target / "file").read_text() == "1"
    assert names(tmp_path / "x") == ["pool"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_folder_leaves_nothing(tmp_path: Path, overwrite: bool) -> None:
    def interrupted() -> None:
        with atomic_folder(tmp_path / "pool", overwrite) as folder:
            (folder / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


def test_an_existing_folder_is_replaced_only_on_request(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "old").write_text("1")
    with pytest.raises(UserError, match="exists already"), atomic_folder(tmp_path / "b"):
        raise AssertionError("the block must not run")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "b", overwrite=True):
        raise RuntimeError
    assert names(tmp_path / "b") == ["old"]
    with atomic_folder(tmp_path / "b", overwrite=True) as folder:
        (folder / "new").write_text("2")
    assert names(tmp_path / "b") == ["new"]
    assert names(tmp_path) == ["b"]


def test_if_the_last_rename_fails_the_old_folder_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "old").write_text("1")
    rename, calls = os.rename, []

    def second_fails(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="no"), atomic_folder(tmp_path / "b", overwrite=True) as folder:
        (folder / "new").write_text("2")
    assert names(tmp_path) == ["b"]
    assert names(tmp_path / "b") == ["old"]


def test_a_folder_is_flushed_with_all_that_is_in_it_before_it_has_its_name(tmp_path, monkeypatch):
    done, fsync, rename = [], os.fsync, os.rename

    def flushed(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        done.append("renamed")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed)
    with atomic_folder(tmp_path / "made" / "pool") as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "file").write_text("1")
    inside = {folder, folder / "inside", folder / "inside" / "file"}
    assert (done[0], set(done[1:4]), done[4:]) == (tmp_path, inside, ["renamed", tmp_path / "made"])


def test_a_text_is_overwritten_in_its_place_where_it_fits(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"status": "running"}\n')
    overwrite(path, b'{"status": "failed"}')
    assert json.loads(path.read_text()) == {"status": "failed"}
    with pytest.raises(OSError, match="No space left"):
        overwrite(path, b'{"status": "failed", "error": "long"}')
    assert json.loads(path.read_text()) == {"status": "failed"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_temporary_files_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path, kind):
    (tmp_path / "below").mkdir()
    target = tmp_path / "below" / "pool"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.fsync = lambda descriptor: (os.write(writing, b"."), time.sleep(60))
        if kind == "file":
            write_atomic(target, b"half")
        with atomic_folder(target) as folder:
            (folder / "file").write_text("half")
            os.write(writing, b".")
            time.sleep(60)
        os._exit(1)
    try:
        assert os.read(reading, 1) == b"."
        (left,) = names(target.parent)
        remove_abandoned(tmp_path, below=True)
        assert names(target.parent) == [left]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    remove_abandoned(tmp_path)
    assert names(target.parent) == [left]
    remove_abandoned(tmp_path, below=True)
    assert names(target.parent) == []


def test_other_names_stay(tmp_path):
    kept = [".a.tmp", "a.12345678.tmp", ".a.1234567g.tmp", ".a.12345678.tmp.txt", "a"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / ".link.12345678.tmp").symlink_to(tmp_path / "a")
    remove_abandoned(tmp_path)
    assert names(tmp_path) == sorted([*kept, ".link.12345678.tmp"])


def test_an_error_of_the_disk_names_the_file_and_not_the_temporary_one(tmp_path, monkeypatch):
    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left") as of_file:
        write_atomic(tmp_path / "a", b"")
    with pytest.raises(OSError, match="No space left") as of_folder, atomic_folder(tmp_path / "b"):
        pass
    assert [caught.value.filename for caught in (of_file, of_folder)] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert names(tmp_path) == []
