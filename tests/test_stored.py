"""Stored results carry a hash: damaged, altered or half-written work is found out, and made again where it can be."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from typed import ABR, call, runs

from edgenetllm.errors import UserError
from edgenetllm.hashed import store_file, stored_file
from edgenetllm.models.stored import read_checkpoint, seal_checkpoint, values_hash
from edgenetllm.stages.store import is_stored, seal
from edgenetllm.stored_arrays import arrays_once


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    content = {"state_dict": {"w": torch.arange(6.0)}, "backbone": {"name": "tiny"}, "target_return": 1.5}
    seal_checkpoint(content)
    torch.save(content, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def alter(path: Path, change, sealed: bool = False) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    if sealed:
        seal_checkpoint(content)
    torch.save(content, path)


def test_a_checkpoint_is_read_as_it_was_written(checkpoint):
    assert read_checkpoint(checkpoint)["state_dict"]["w"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_flipped_bit_is_found_out(checkpoint):
    data = bytearray(checkpoint.read_bytes())
    at = data.index(np.float32(3.0).tobytes())
    data[at] ^= 1
    checkpoint.write_bytes(data)
    with pytest.raises(UserError, match=r"best\.ckpt: the checkpoint is damaged or was altered"):
        read_checkpoint(checkpoint)


def test_a_tuple_that_would_be_hashed_for_hours_is_refused_at_once(checkpoint):
    """Thirty tuples, each of which holds the one before three times, as a key of a dictionary."""
    levels = b"".join(b"h%c" % level * 3 + b"\x87q%c" % (level + 1) for level in range(30))
    bomb = b"\x80\x02}NNN\x87q\x00" + levels + b"Ns."
    entries = {}
    with zipfile.ZipFile(checkpoint) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(checkpoint, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, bomb if name.endswith("data.pkl") else data)
    with pytest.raises(UserError, match="a tuple of it holds more than 200,000 values"):
        read_checkpoint(checkpoint)


def test_altered_facts_in_a_checkpoint_are_found_out(checkpoint):
    alter(checkpoint, lambda content: content.update(target_return=1.6))
    with pytest.raises(UserError, match="damaged or was altered"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_though_it_is_sealed(checkpoint, value):
    alter(checkpoint, lambda content: content["state_dict"].update(w=torch.tensor([1.0, value])), sealed=True)
    with pytest.raises(UserError, match="not finite: w holds"):
        read_checkpoint(checkpoint)
    alter(checkpoint, lambda content: content["state_dict"].update(w=torch.ones(1)))
    alter(checkpoint, lambda content: content.update(target_return={"abr": 1.0, "cjs": value}), sealed=True)
    with pytest.raises(UserError, match="return-to-go is"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04half", b"\x80\x04K\x01."])
def test_an_unreadable_checkpoint_is_named(tmp_path, data):
    (tmp_path / "last.ckpt").write_bytes(data)
    with pytest.raises(UserError, match=r"last\.ckpt is not a"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_hashes_know_names_types_and_shapes():
    ones = [{"a": torch.zeros(4)}, {"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4).half()},
            {"a": torch.zeros(4, dtype=torch.int32)}, {"a": [torch.zeros(4)]}, {"a": 0.0}]  # fmt: skip
    assert len({values_hash(one) for one in ones}) == len(ones)


def test_a_stored_file_without_its_hash_or_with_another_counts_as_absent(tmp_path, capsys):
    path = tmp_path / "x.npz"
    assert stored_file(path) is None
    assert capsys.readouterr().out == ""
    store_file(path, b"12345")
    assert stored_file(path) == b"12345"
    path.write_bytes(b"12346")
    assert stored_file(path) is None
    assert "made again" in capsys.readouterr().err
    path.with_name("x.npz.sha256").unlink()
    assert stored_file(path) is None


def test_arrays_that_were_altered_are_computed_again(tmp_path):
    path, calls = tmp_path / "bounds.npz", []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"x": np.array([1.0, 2.0])}

    arrays_once(path, compute, "bounds")
    path.write_bytes(path.read_bytes()[:-3])
    assert arrays_once(path, compute, "bounds")["x"].tolist() == [1.0, 2.0]
    assert len(calls) == 2


def test_a_sealed_folder_is_whole_or_absent(tmp_path, capsys):
    folder = tmp_path / "entry"

    def fill() -> None:
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "a").write_text("1")
        (folder / "b").write_text("2")
        seal(folder)

    for damage in (
        lambda: (folder / "b").write_text("3"),
        lambda: (folder / "b").unlink(),
        lambda: (folder / "c").write_text("new"),
        lambda: (folder / "sha256.json").unlink(),
        lambda: (folder / "sha256.json").write_text("{"),
    ):
        fill()
        assert is_stored(folder)
        damage()
        assert not is_stored(folder)
        assert not folder.exists()
        assert "made again" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_cache_is_made_again_with_the_same_figures(trained, tmp_path):
    """Adaptation, pool and replays of a finished run, each damaged in turn; the run itself is left as it was."""
    shutil.copytree(trained / "cache", tmp_path / "cache")
    before = json.loads((runs(trained, "train")[0] / "abr/results.json").read_text())
    adaptation = next((tmp_path / "cache" / "adaptations").glob("abr-*/checkpoints/best.ckpt"))
    data = bytearray(adaptation.read_bytes())
    data[len(data) // 2] ^= 1
    adaptation.write_bytes(data)
    pool = next((tmp_path / "cache" / "pools").glob("abr-*/columns.npz"))
    pool.write_bytes(pool.read_bytes()[:-100])
    for replay in (tmp_path / "cache" / "replays").glob("abr-bba-*.npz"):  # other tests leave replays of other episodes
        replay.write_bytes(b"half")
    output = call("train.py", tmp_path, *ABR)
    for kind in ("adaptations/abr-", "columns.npz", "replays/abr-bba-"):
        assert any("damaged or altered" in line and kind in line for line in output.splitlines()), (kind, output)
    after = json.loads((runs(tmp_path, "train")[0] / "abr/results.json").read_text())
    assert after["policies"] == before["policies"]
    assert after["identity"] == before["identity"]


def test_a_run_whose_adaptation_was_altered_is_refused(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs(trained, "train")[0], folder)
    facts = json.loads((folder / "adaptation.json").read_text())

    def refused(text: str, **changes: object) -> None:
        (folder / "adaptation.json").write_text(json.dumps({**facts, "adapted_in": ".", **changes}))
        output = call("evaluate.py", tmp_path, f"run={folder}", ok=False)
        assert text in output
        assert "Traceback" not in output

    refused("was altered", target_return={"abr": facts["target_return"]["abr"] + 1})
    facts.pop("sha256")
    refused("NaN is no JSON number", target_return={"abr": float("nan")})
    alter(folder / "checkpoints" / "best.ckpt", lambda c: next(iter(c["state_dict"].values())).view(-1)[0].add_(1))
    refused("best.ckpt: the checkpoint is damaged or was altered")


def test_without_sparsity_one_model_is_played(trained, tmp_path):
    shutil.copytree(trained / "cache", tmp_path / "cache")
    stored = set((tmp_path / "cache" / "replays").iterdir())
    call("train.py", tmp_path, *ABR, "sparsity=0", "engine=torch", "export.values=fp16")
    results = json.loads((runs(tmp_path, "train")[0] / "abr/results.json").read_text())
    assert results["policies"]["sparse"] == results["policies"]["dense"]
    assert "played once" in results["notes"][0]
    assert set((tmp_path / "cache" / "replays").iterdir()) == stored  # nothing was played that had been played before
