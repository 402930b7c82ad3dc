"""A bundle comes back as it was written, and whatever is done to it on the way is noticed: always as a UserError."""

import hashlib
import json
import os
import pickle
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgenetllm.edge import bundle as bundle_module
from edgenetllm.edge.bundle import DENSE_FILE, MANIFEST, SPARSE_FILE, read_bundle, write_bundle
from edgenetllm.errors import UserError


def tensors() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    sparse = {f"layers.{i}.weight": torch.randn(6, 11, generator=generator) for i in range(3)}
    for weight in sparse.values():
        weight[weight.abs() < 0.5] = 0
    tied = torch.randn(5, generator=generator)
    dense = {
        "norm": tied,
        "tied": tied,
        "steps": torch.arange(4),
        "scale": torch.tensor(2.0),
        "on": torch.tensor([True]),
    }
    return sparse, dense


FIELDS: dict[str, Any] = {
    "task": "abr",
    "model": {"hidden_size": 11},
    "metrics": {"val/qoe": 1.25},
    "extra": {"window": 8},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sparse, dense = tensors()
    write_bundle(tmp_path / "bundle", sparse=sparse, dense=dense, manifest=FIELDS)
    return tmp_path / "bundle"


def reseal(folder: Path, edit: Callable[[dict[str, Any]], None] = lambda fields: None) -> None:
    """Write what a malicious author could: any manifest, with sizes, hashes and digest that fit the files next to it."""
    fields = json.loads((folder / MANIFEST).read_text())
    for name, entry in fields["files"].items():
        data = (folder / name).read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(fields)
    fields.pop("digest", None)

    def text(fields: dict[str, Any]) -> bytes:
        return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()

    fields["digest"] = hashlib.sha256(text(fields)).hexdigest()
    (folder / MANIFEST).write_bytes(text(fields))


def test_round_trip(folder: Path) -> None:
    sparse, dense = tensors()
    bundle = read_bundle(folder)
    assert set(bundle.tensors) == set(sparse) | set(dense)
    for name, tensor in dense.items():
        assert torch.equal(bundle.tensors[name], tensor)
        assert bundle.tensors[name].dtype == tensor.dtype
    for name, tensor in sparse.items():
        assert torch.equal(bundle.tensors[name] == 0, tensor == 0)
        assert torch.equal(bundle.tensors[name], tensor.half().float())
        assert bundle.manifest.sparsity[name].zeros == int((tensor == 0).sum())
    assert (bundle.manifest.task, bundle.manifest.model) == ("abr", {"hidden_size": 11})
    assert (bundle.manifest.metrics, bundle.manifest.extra) == ({"val/qoe": 1.25}, {"window": 8})


def test_same_content_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    sparse, dense = tensors()
    write_bundle(tmp_path / "again", sparse=sparse, dense=dense, manifest=FIELDS)
    for name in (MANIFEST, SPARSE_FILE, DENSE_FILE):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_configuration_comes_back_as_json_has_it(tmp_path: Path) -> None:
    """Hugging Face configurations have integer keys (id2label) and tuples."""
    fields = FIELDS | {"model": {"id2label": {0: "a"}, "sizes": (1, 2)}}
    write_bundle(tmp_path / "b", sparse={}, dense={"n": torch.ones(1)}, manifest=fields)
    assert read_bundle(tmp_path / "b").manifest.model == {"id2label": {"0": "a"}, "sizes": [1, 2]}


def test_sizes_stand_side_by_side(tmp_path: Path) -> None:
    weight = torch.ones(1000, 1000)
    weight[:, :400] = 0
    sizes = write_bundle(tmp_path / "b", sparse={"w": weight}, dense={}, manifest=FIELDS)
    assert sizes["bytes"] == sum(path.stat().st_size for path in (tmp_path / "b").iterdir())
    assert sizes["bits_per_weight"] == pytest.approx(10.6)
    assert (sizes["weights"], sizes["zeros"]) == (1_000_000, 400_000)
    assert sizes["dense_int8_bytes"] < sizes["bytes"] < sizes["dense_fp16_bytes"] < sizes["dense_fp32_bytes"]
    assert set(read_bundle(tmp_path / "b").tensors) == {"w"}


def test_a_bundle_is_whole_or_absent(folder: Path, tmp_path: Path) -> None:
    before = (folder / MANIFEST).read_bytes()
    bad = {"w": torch.tensor([[1.0, 1e9]])}
    with pytest.raises(UserError, match="exists already"):
        write_bundle(folder, sparse={}, dense={"a": torch.ones(1)}, manifest=FIELDS)
    with pytest.raises(UserError, match=r"w: .*overflows"):
        write_bundle(folder, sparse=bad, dense={}, manifest=FIELDS, overwrite=True)
    assert (folder / MANIFEST).read_bytes() == before
    assert os.listdir(tmp_path) == ["bundle"]
    write_bundle(folder, sparse=bad, dense={}, manifest=FIELDS, values="bf16", overwrite=True)
    assert set(read_bundle(folder).tensors) == {"w"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"manifest": FIELDS | {"colour": 1}}, "colour"),
        ({"manifest": {"task": "abr"}}, "model"),
        ({"manifest": FIELDS | {"metrics": {"qoe": float("nan")}}}, "manifest"),
        ({"manifest": FIELDS | {"extra": {"f": print}}}, "extra"),
        ({"dense": {"a": torch.ones(2, dtype=torch.complex64)}}, "a of torch.complex64"),
        ({"dense": {"a": torch.ones(0)}}, "a is empty"),
        ({"dense": {"../a": torch.ones(1)}}, r"tensors"),
        ({"sparse": {"a": torch.ones(2, dtype=torch.int64)}}, "a of torch.int64"),
        ({"sparse": {"a": torch.ones(1)}, "dense": {"a": torch.ones(1)}}, "both"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    arguments = {"sparse": {}, "dense": {"n": torch.ones(1)}, "manifest": FIELDS} | change
    with pytest.raises(UserError, match=reason):
        write_bundle(tmp_path / "b", **arguments)
    assert os.listdir(tmp_path) == []


def test_every_random_damage_is_noticed(folder: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    for trial in range(300):
        copy = tmp_path / f"copy{trial}"
        shutil.copytree(folder, copy)
        path = copy / rng.choice([MANIFEST, SPARSE_FILE, DENSE_FILE])
        data = bytearray(path.read_bytes())
        kind = rng.choice(["flip", "truncate", "extend", "insert"])
        position = rng.randrange(len(data))
        if kind == "flip":
            data[position] ^= rng.randrange(1, 256)
        elif kind == "truncate":
            del data[position:]
        elif kind == "extend":
            data += rng.randbytes(3)
        else:
            data[position:position] = b" "
        path.write_bytes(data)
        with pytest.raises(UserError, match=path.name):
            read_bundle(copy)
        shutil.rmtree(copy)


def test_damage_under_fitting_hashes_gives_tensors_or_a_user_error(folder: Path, tmp_path: Path) -> None:
    """Behind the hashes stand the other checks: here only they can refuse."""
    sparse, dense = tensors()
    shapes = {name: tensor.shape for name, tensor in (sparse | dense).items()}
    rng = random.Random(1)
    refused = 0
    for trial in range(300):
        copy = tmp_path / f"copy{trial}"
        shutil.copytree(folder, copy)
        path = copy / rng.choice([SPARSE_FILE, DENSE_FILE])
        data = bytearray(path.read_bytes())
        for _ in range(rng.randrange(1, 4)):
            data[rng.choice([rng.randrange(len(data)), rng.randrange(300)])] = rng.randrange(256)
        path.write_bytes(data)
        reseal(copy)
        try:
            found = read_bundle(copy)
        except UserError:
            refused += 1
        else:
            assert {name: tensor.shape for name, tensor in found.tensors.items()} == shapes
            assert all(bool(torch.isfinite(tensor).all()) for tensor in found.tensors.values())
        shutil.rmtree(copy)
    assert refused > 100


JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    1 << 70,
    "",
    "../x",
    "/etc/passwd",
    "x\0y",
    [],
    {},
    [1],
    {"a": 1},
    "F32",
    "\ud800",
]


def test_any_edited_field_gives_a_user_error(folder: Path) -> None:
    """Replace, remove and add every field of the manifest, at every depth, with a digest that fits."""
    original = json.loads((folder / MANIFEST).read_text())
    free = ("extra", "metrics", "model", "task", "digest")  # any JSON is legal there, or set by reseal

    def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
        return [at, *(place for key, child in inner for place in places(child, (*at, key)))]

    for place in places({key: value for key, value in original.items() if key not in free}):
        for junk in JUNK if place else []:

            def edit(fields: dict[str, Any], place: tuple[Any, ...] = place, junk: Any = junk) -> None:
                for key in place[:-1]:
                    fields = fields[key]
                fields[place[-1]] = junk

            (folder / MANIFEST).write_text(json.dumps(original))
            reseal(folder, edit)
            fields = json.loads((folder / MANIFEST).read_text())
            fields.pop("digest")
            if fields == {key: value for key, value in original.items() if key != "digest"}:
                continue  # the junk was the true value
            with pytest.raises(UserError, match=r"bundle"):
                read_bundle(folder)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"format": 2}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 1, "format": 1}',
        b"NaN",
        b'{"format": 1, "extra": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b'{"format": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda text: repr(text[:16]),
)
def test_a_manifest_that_is_none(folder: Path, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    with pytest.raises(UserError, match=r"manifest\.json: "):
        read_bundle(folder)


def test_files_must_be_those_of_the_manifest_and_real(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such bundle folder"):
        read_bundle(tmp_path / "nowhere")
    (folder / "extra.py").write_text("raise SystemExit")
    with pytest.raises(UserError, match=r"extra\.py: not in the manifest"):
        read_bundle(folder)
    (folder / "extra.py").unlink()
    shutil.move(folder / DENSE_FILE, tmp_path / "outside")
    with pytest.raises(UserError, match=f"{DENSE_FILE}: missing"):
        read_bundle(folder)
    (folder / DENSE_FILE).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="not a regular file"):
        read_bundle(folder)
    (folder / DENSE_FILE).unlink()
    os.mkfifo(folder / DENSE_FILE)
    with pytest.raises(UserError, match="not a regular file"):
        read_bundle(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="not a bundle"):
        read_bundle(folder)


def test_a_pickle_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "exploded"),))

    (folder / DENSE_FILE).write_bytes(pickle.dumps(Bomb()))
    reseal(folder)
    with pytest.raises(UserError, match="not a valid safetensors file"):
        read_bundle(folder)
    torch.save({"a": Bomb()}, folder / DENSE_FILE)
    reseal(folder)
    with pytest.raises(UserError, match="not a valid safetensors file"):
        read_bundle(folder)
    assert not (tmp_path / "exploded").exists()


def test_an_absurd_shape_allocates_nothing(folder: Path) -> None:
    def huge(fields: dict[str, Any]) -> None:
        fields["tensors"]["layers.0.weight"]["shape"] = [1 << 20, 1 << 20]
        fields["sparsity"]["layers.0.weight"]["numel"] = 1 << 40

    reseal(folder, huge)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"layers\.0\.weight\.mask is"):
        read_bundle(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_wrong_zero_count_is_refused(folder: Path) -> None:
    def fewer(fields: dict[str, Any]) -> None:
        fields["sparsity"]["layers.0.weight"]["zeros"] -= 1

    reseal(folder, fewer)
    with pytest.raises(UserError, match=r"layers\.0\.weight\.values"):
        read_bundle(folder)


def test_missing_and_superfluous_tensors(folder: Path) -> None:
    stored = load_file(folder / DENSE_FILE)
    save_file(stored | {"more": torch.ones(1)}, folder / DENSE_FILE)
    reseal(folder)
    with pytest.raises(UserError, match=r"more.*not in the manifest"):
        read_bundle(folder)
    del stored["norm"]
    save_file(stored, folder / DENSE_FILE)
    reseal(folder)
    with pytest.raises(UserError, match=r"norm.*missing"):
        read_bundle(folder)


def test_a_huge_manifest_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(UserError, match="too large"):
        read_bundle(folder)
