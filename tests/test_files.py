"""Atomic writes: after any failure the old content is still there, and nothing temporary is left."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder, sha256_of, write_atomic, write_json


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
