"""A checkpoint is whole on the disk before it has its name, and a damaged one costs the steps since the one before it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from faulty import run
from scenarios import TRAIN, go_on, parent

from edgenetllm.errors import UserError
from edgenetllm.models.checkpoint import BEFORE, BEST, LAST, WholeCheckpoints, make_last_whole
from edgenetllm.models.stored import damage, seal_checkpoint, values_hash


def checkpoint(step: int = 0) -> dict:
    generator = torch.Generator().manual_seed(step)
    tensors = {name: torch.randn(8, 16, generator=generator) for name in ("adapter", "head")}
    made = {"state_dict": tensors, "optimizer_states": [{"state": {0: {"exp_avg": tensors["head"] / 3}}}], "step": step}
    seal_checkpoint(made)
    return made


def stored(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["step"])


def test_a_checkpoint_is_flushed_before_it_has_its_name_and_its_name_as_well(tmp_path, monkeypatch):
    WholeCheckpoints().save_checkpoint(checkpoint(1), tmp_path / LAST)
    done = []
    fsync, replace = os.fsync, os.replace

    def flushed(descriptor: int) -> None:
        done.append(f"flush {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        done.append(f"{Path(source).name} -> {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    WholeCheckpoints().save_checkpoint(checkpoint(2), tmp_path / LAST)
    temporary = done[0].removeprefix("flush ")
    assert re.fullmatch(r"\.last\.ckpt\.[0-9a-f]{8}\.tmp", temporary)
    assert done == [f"flush {temporary}", f"{LAST} -> {BEFORE}", f"{temporary} -> {LAST}", f"flush {tmp_path.name}"]
    assert [stored(tmp_path / name) for name in (LAST, BEFORE)] == [2, 1]
    assert sorted(os.listdir(tmp_path)) == sorted([LAST, BEFORE])


def test_the_best_one_keeps_none_before_it(tmp_path):
    for step in (1, 2):
        WholeCheckpoints().save_checkpoint(checkpoint(step), tmp_path / BEST)
    assert os.listdir(tmp_path) == [BEST]


def test_no_damage_goes_unnoticed(tmp_path):
    """Cut off, with zeros from somewhere on or in the middle, or with one byte changed: noticed, or it changes nothing."""
    path, rng, ends = tmp_path / LAST, Random(0), {"noticed": 0, "harmless": 0}
    WholeCheckpoints().save_checkpoint(checkpoint(), path)
    data, content = path.read_bytes(), values_hash(torch.load(path, map_location="cpu", weights_only=True))
    assert damage(path) is None
    for number in range(400):
        at, other = rng.randrange(len(data)), bytearray(data)
        if number % 4 == 0:
            other = other[:at]
        elif number % 4 == 1:
            other[at:] = bytes(len(data) - at)
        elif number % 4 == 2:
            other[at : at + 512] = bytes(len(other[at : at + 512]))
        else:
            other[at] ^= 1 << rng.randrange(8)
        path.write_bytes(other)
        if damage(path) is None:
            assert values_hash(torch.load(path, map_location="cpu", weights_only=True)) == content, (number, at)
            ends["harmless"] += 1
        else:
            ends["noticed"] += 1
    assert ends["noticed"] > 250, ends


def test_the_one_before_replaces_a_damaged_one_which_is_said(tmp_path, capsys):
    for step in (1, 2):
        WholeCheckpoints().save_checkpoint(checkpoint(step), tmp_path / LAST)
    make_last_whole(tmp_path)
    assert (stored(tmp_path / LAST), capsys.readouterr().err) == (2, "")
    (tmp_path / LAST).write_bytes((tmp_path / LAST).read_bytes()[:1000])
    make_last_whole(tmp_path)
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {tmp_path / LAST} is not a readable checkpoint (")
    assert len(warning.splitlines()) == 1
    assert (stored(tmp_path / LAST), os.listdir(tmp_path)) == (1, [LAST])


def test_a_death_between_two_names_is_no_damage(tmp_path, capsys):
    WholeCheckpoints().save_checkpoint(checkpoint(1), tmp_path / BEFORE)
    make_last_whole(tmp_path)
    assert (stored(tmp_path / LAST), capsys.readouterr().err) == (1, "")


@pytest.mark.parametrize("names", [(LAST,), (LAST, BEFORE), (BEST,)])
def test_what_cannot_be_replaced_is_one_sentence_with_what_to_type(tmp_path, names):
    for name in {LAST, BEST, *names}:
        WholeCheckpoints().save_checkpoint(checkpoint(), tmp_path / name)
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    with pytest.raises(UserError) as refused:
        make_last_whole(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / names[0]} is not a readable checkpoint (")
    assert f"rm -r {tmp_path}" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def unfinished(place: Path) -> Path:
    """A finished run as it was before its fit had ended: of what the fit made only the checkpoints are there."""
    shutil.copytree(parent(), place, dirs_exist_ok=True)
    folder = (place / "logs" / "train" / "parent").rename(place / "logs" / "train" / "run")
    shutil.rmtree(place / "cache" / "adaptations")
    for name in ("bundle", "abr"):
        shutil.rmtree(folder / name)
    (folder / "adaptation.json").unlink()
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**state, "status": "running"}))
    return folder


@pytest.mark.slow
@pytest.mark.robustness
def test_a_fit_goes_on_from_the_one_before_to_the_same_results(tmp_path):
    folder = unfinished(tmp_path) / "checkpoints"
    (folder / LAST).write_bytes((folder / LAST).read_bytes()[:-2000])
    assert torch.load(folder / BEFORE, weights_only=True)["epoch"] == 1  # of three, from 0 on
    ended = go_on(TRAIN, tmp_path)
    assert ended is not None
    assert f"warning: {folder.relative_to(tmp_path) / LAST} is not a readable checkpoint (" in ended.output


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("names", [(LAST, BEFORE), (BEST,)])
def test_a_fit_without_a_whole_checkpoint_says_what_to_type_and_that_helps(tmp_path, names):
    folder = unfinished(tmp_path) / "checkpoints"
    for name in names:
        (folder / name).write_bytes(b"half")
    ended = run(TRAIN.again(tmp_path) or [], tmp_path)
    assert ended.code == 2
    assert ended.last_line.startswith(
        f"error: {folder.relative_to(tmp_path) / names[0]} is not a readable checkpoint ("
    )
    assert "Traceback" not in ended.output
    typed = re.search(r"\(rm -r (.*?)\)", ended.last_line)
    assert typed is not None
    shutil.rmtree(tmp_path / typed[1])
    go_on(TRAIN, tmp_path)
