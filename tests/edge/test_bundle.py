"""A bundle comes back as it was written, and whatever is done to it on the way is noticed: always as a UserError."""

import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from small import ROOT

from edgenetllm.edge import bundle as bundle_module
from edgenetllm.edge import compression, tensors_file
from edgenetllm.edge.bundle import DENSE_FILE, MANIFEST, SPARSE_FILE, read_bundle
from edgenetllm.edge.bundle_writer import write_bundle
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.errors import UserError

# Every way to store a value and a mask, and a compressed one.
FORMS: dict[str, dict[str, Any]] = {
    "fp16": {"values": "fp16", "mask": "bitmask"},
    "bf16": {"values": "bf16", "mask": "delta"},
    "int8": {"values": "int8", "mask": "bitmask"},
    "int4": {"values": "int4", "mask": "delta"},
    "dense": {"values": "int4", "mask": "none", "group": 3},
    "zstd": {"values": "int8", "mask": "auto", "compress": "zstd"},
}


def tensors() -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(0)
    sparse = {f"layers.{i}.weight": rng.standard_normal((7, 11)).astype(np.float32) for i in range(3)}
    for weight in sparse.values():
        weight[np.abs(weight) < 0.5] = 0
    tied = rng.standard_normal(5).astype(np.float32)
    dense = {
        "norm": tied,
        "tied": tied,
        "steps": np.arange(4),
        "scale": np.array(2.0, np.float32),
        "on": np.array([True]),
    }
    return sparse, dense


FIELDS: dict[str, Any] = {
    "task": "abr",
    "model": {"hidden_size": 11},
    "metrics": {"val/qoe": 1.25},
    "extra": {"window": 8},
}


def write(folder: Path, form: str) -> Path:
    sparse, dense = tensors()
    write_bundle(folder, sparse=sparse, dense=dense, manifest=FIELDS, transposed=["layers.1.weight"], **FORMS[form])
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle", "fp16")


@pytest.fixture(params=list(FORMS))
def any_form(request, tmp_path: Path) -> Path:
    return write(tmp_path / "bundle", request.param)


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


def test_round_trip(any_form: Path) -> None:
    sparse, dense = tensors()
    bundle = read_bundle(any_form)
    assert set(bundle.tensors) == set(sparse) | set(dense)
    for name, tensor in dense.items():
        assert np.array_equal(bundle.array(name), tensor)
        assert bundle.array(name).dtype == tensor.dtype
    for name, tensor in sparse.items():
        entry, array = bundle.manifest.tensors[name], bundle.array(name)
        assert array.shape == tensor.shape
        assert np.array_equal(array == 0, tensor == 0)
        assert bundle.manifest.sparsity[name].zeros == int((tensor == 0).sum())
        np.testing.assert_allclose(array, tensor, atol={"F16": 1e-3, "BF16": 1e-2, "I8": 0.02, "I4": 0.5}[entry.dtype])
        quantised = bundle.tensors[name]
        if entry.dtype in ("I8", "I4"):
            assert isinstance(quantised, QuantisedMatrix)
            assert quantised.shape == ((11, 7) if name == "layers.1.weight" else (7, 11))  # (out, in)
    assert (bundle.manifest.task, bundle.manifest.model) == ("abr", {"hidden_size": 11})
    assert (bundle.manifest.metrics, bundle.manifest.extra) == ({"val/qoe": 1.25}, {"window": 8})


def test_same_content_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "again", "fp16")
    for name in (MANIFEST, SPARSE_FILE, DENSE_FILE):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_files_are_those_of_safetensors(folder: Path) -> None:
    """Its own library reads what is written here, and writes what is read here."""
    sparse, dense = tensors()
    stored = load_file(folder / DENSE_FILE)
    assert {name: array.tolist() for name, array in stored.items()} == {n: array.tolist() for n, array in dense.items()}
    assert stored["on"].dtype == bool
    own = tensors_file.file_tensors(np.frombuffer((folder / SPARSE_FILE).read_bytes(), np.uint8), "file")
    save_file({name: array.copy() for name, (_, array) in own.items()}, folder / SPARSE_FILE, {"format": "pt"})
    reseal(folder)
    assert np.array_equal(read_bundle(folder).array("layers.0.weight"), sparse["layers.0.weight"].astype(np.float16))


def test_no_torch_is_needed(tmp_path: Path) -> None:
    folder = write(tmp_path / "bundle", "zstd")
    code = (
        f"from edgenetllm.edge.bundle import read_bundle; read_bundle({str(folder)!r}); import sys; print(*sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = result.stdout.split()
    assert not {"torch", "transformers", "lightning", "hydra", "pooch"} & set(loaded)
    assert "edgenetllm.edge.bundle" in loaded


def write_format_1(folder: Path) -> None:
    """A bundle as the first version of the format had it: bitmask and fp16, written here without the code under test."""
    sparse, dense = tensors()
    files: dict[str, dict[str, Any]] = {"sparse.safetensors": {}, "dense.safetensors": dict(dense)}
    fields: dict[str, Any] = {**FIELDS, "format": 1, "sparsity": {}, "tensors": {}, "files": {}}
    kinds = {"float32": "F32", "int64": "I64", "bool": "BOOL"}
    for name, array in dense.items():
        entry = {"file": "dense.safetensors", "kind": "dense", "dtype": kinds[array.dtype.name]}
        fields["tensors"][name] = {**entry, "shape": list(array.shape)}
    for name, array in sparse.items():
        files["sparse.safetensors"][f"{name}.mask"] = np.packbits(array.reshape(-1) != 0)
        files["sparse.safetensors"][f"{name}.values"] = array[array != 0].astype(np.float16)
        fields["sparsity"][name] = {"zeros": int((array == 0).sum()), "numel": array.size}
        entry = {"file": "sparse.safetensors", "kind": "sparse", "dtype": "F16"}
        fields["tensors"][name] = {**entry, "shape": list(array.shape)}
    folder.mkdir()
    for file, content in files.items():
        save_file(content, folder / file)
        fields["files"][file] = {}
    (folder / MANIFEST).write_text(json.dumps(fields))
    reseal(folder)


def test_an_earlier_bundle_loads(folder: Path, tmp_path: Path) -> None:
    write_format_1(tmp_path / "old")
    old, new = read_bundle(tmp_path / "old"), read_bundle(folder)
    assert old.manifest.format == 2
    assert old.tensors.keys() == new.tensors.keys()
    for name in new.tensors:
        assert np.array_equal(old.array(name), new.array(name))
        assert old.array(name).dtype == new.array(name).dtype
    reseal(tmp_path / "old", lambda fields: fields.update(format=3))
    with pytest.raises(UserError, match="bundle format 3, this version reads 1 and 2"):
        read_bundle(tmp_path / "old")


def test_a_configuration_comes_back_as_json_has_it(tmp_path: Path) -> None:
    """Hugging Face configurations have integer keys (id2label) and tuples."""
    fields = FIELDS | {"model": {"id2label": {0: "a"}, "sizes": (1, 2)}}
    write_bundle(tmp_path / "b", sparse={}, dense={"n": np.ones(1)}, manifest=fields)
    assert read_bundle(tmp_path / "b").manifest.model == {"id2label": {"0": "a"}, "sizes": [1, 2]}


def test_sizes_stand_side_by_side(tmp_path: Path) -> None:
    """Each form that is named is as large as the bundle that is written in it, but for headers."""
    weight = np.random.default_rng(0).standard_normal((500, 500)).astype(np.float32)
    weight[:, :200] = 0
    sizes: dict[str, Any] = {}
    for mask in ("none", "bitmask", "delta"):
        for values in ("fp16", "int8", "int4"):
            form = f"{mask if mask != 'none' else 'dense'} {values}"
            options: dict[str, Any] = {"values": values, "mask": mask, "overwrite": True}
            written = write_bundle(tmp_path / "b", sparse={"w": weight}, dense={}, manifest=FIELDS, **options)
            assert written["bytes"] == sum(path.stat().st_size for path in (tmp_path / "b").iterdir())
            assert written["forms"][form] == written["sparse_bytes"]
            assert written["bits_per_weight"] == pytest.approx(8 * written["sparse_bytes"] / 250_000)
            assert 0 < written["bytes"] - written["sparse_bytes"] < 1500
            sizes[form] = written
    assert (written["weights"], written["zeros"], written["smallest"]) == (250_000, 100_000, "bitmask int4")
    assert sizes["bitmask fp16"]["bytes"] > written["dense_int8_bytes"] > sizes["bitmask int8"]["bytes"]
    assert (
        written["dense_int4_bytes"]
        < written["dense_int8_bytes"]
        < written["dense_fp16_bytes"]
        < written["dense_fp32_bytes"]
    )
    assert all(one["forms"] == written["forms"] for one in sizes.values())


def test_a_bundle_is_whole_or_absent(folder: Path, tmp_path: Path) -> None:
    before = (folder / MANIFEST).read_bytes()
    bad = {"w": np.array([[1.0, 1e9]])}
    with pytest.raises(UserError, match="exists already"):
        write_bundle(folder, sparse={}, dense={"a": np.ones(1)}, manifest=FIELDS)
    with pytest.raises(UserError, match=r"w: .*overflows"):
        write_bundle(folder, sparse=bad, dense={}, manifest=FIELDS, values="fp16", overwrite=True)
    assert (folder / MANIFEST).read_bytes() == before
    assert os.listdir(tmp_path) == ["bundle"]
    write_bundle(folder, sparse=bad, dense={}, manifest=FIELDS, values="bf16", overwrite=True)
    assert set(read_bundle(folder).tensors) == {"w"}


def test_without_zstd_the_error_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "packed", "zstd")
    for name in ("backports", "backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"safetensors\.zst: zstd needs .*pip install 'edgenetllm\[zstd\]'"):
        read_bundle(tmp_path / "packed")
    with pytest.raises(UserError, match=r"export\.compression=none"):
        write(tmp_path / "other", "zstd")
    assert not (tmp_path / "other").exists()
    read_bundle(folder)


def test_what_unpacks_to_more_than_it_says_or_may_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "b", "zstd")
    file = f"{SPARSE_FILE}.zst"
    content = (folder / file).read_bytes()
    for change, reason in (
        (lambda entry: entry.update(unpacked=entry["unpacked"] - 1), "does not unpack to"),
        (lambda entry: entry.update(unpacked=entry["unpacked"] + 1), "does not unpack to"),
        (lambda entry: entry.update(unpacked=1 << 40), "are not accepted"),
        (lambda entry: entry.update(unpacked=None), "has a size unpacked"),
    ):
        reseal(folder, lambda fields, change=change: change(fields["files"][file]))  # type: ignore[misc]
        with pytest.raises(UserError, match=reason):
            read_bundle(folder)
        (folder / MANIFEST).unlink()
        shutil.rmtree(folder)
        write(folder, "zstd")
    (folder / file).write_bytes(content[:-5])
    reseal(folder)
    with pytest.raises(UserError, match="does not unpack to"):
        read_bundle(folder)
    bomb = compression._zstd().compress(bytes(1 << 28))
    (folder / file).write_bytes(bomb)
    reseal(folder, lambda fields: fields["files"][file].update(unpacked=1 << 28))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="are not accepted"):
        read_bundle(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"manifest": FIELDS | {"colour": 1}}, "colour"),
        ({"manifest": {"task": "abr"}}, "model"),
        ({"manifest": FIELDS | {"metrics": {"qoe": float("nan")}}}, "manifest"),
        ({"manifest": FIELDS | {"extra": {"f": print}}}, "extra"),
        ({"dense": {"a": np.ones(2, np.complex64)}}, "a of complex64"),
        ({"dense": {"a": np.ones(0)}}, "a is empty"),
        ({"dense": {"../a": np.ones(1)}}, r"tensors"),
        ({"sparse": {"a": np.ones(2, np.int64)}}, "a of int64"),
        ({"sparse": {"a": np.ones(1)}, "dense": {"a": np.ones(1)}}, "both"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    arguments = {"sparse": {}, "dense": {"n": np.ones(1)}, "manifest": FIELDS} | change
    with pytest.raises(UserError, match=reason):
        write_bundle(tmp_path / "b", **arguments)
    assert os.listdir(tmp_path) == []


def test_every_random_damage_is_noticed(any_form: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    for trial in range(100):
        copy = tmp_path / f"copy{trial}"
        shutil.copytree(any_form, copy)
        path = copy / rng.choice(sorted(os.listdir(copy)))
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


def test_damage_under_fitting_hashes_gives_tensors_or_a_user_error(any_form: Path, tmp_path: Path) -> None:
    """Behind the hashes stand the other checks: here only they can refuse."""
    sparse, dense = tensors()
    shapes = {name: tensor.shape for name, tensor in (sparse | dense).items()}
    rng = random.Random(1)
    refused = 0
    for trial in range(300):
        copy = tmp_path / f"copy{trial}"
        shutil.copytree(any_form, copy)
        path = copy / rng.choice(sorted({*os.listdir(copy)} - {MANIFEST}))
        data = bytearray(path.read_bytes())
        for _ in range(rng.randrange(1, 4)):
            data[rng.choice([rng.randrange(len(data)), rng.randrange(min(300, len(data)))])] = rng.randrange(256)
        path.write_bytes(data)
        reseal(copy)
        try:
            found = read_bundle(copy)
        except UserError:
            refused += 1
        else:
            arrays = {name: found.array(name) for name in found.tensors}
            assert {name: array.shape for name, array in arrays.items()} == shapes
            assert all(np.isfinite(array).all() for array in arrays.values())
            for name, counts in found.manifest.sparsity.items():
                assert int((arrays[name] == 0).sum()) == counts.zeros
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


@pytest.mark.parametrize("form", ["int8", "zstd"])
def test_any_edited_field_gives_a_user_error(tmp_path: Path, form: str) -> None:
    """Replace, remove and add every field of the manifest, at every depth, with a digest that fits."""
    sparse, dense = tensors()
    few = {name: sparse[name] for name in ("layers.0.weight", "layers.1.weight")}
    folder, options = tmp_path / "bundle", {"manifest": FIELDS, "transposed": ["layers.1.weight"], **FORMS[form]}
    write_bundle(folder, sparse=few, dense={"on": dense["on"]}, **options)
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
        b'{"format": 3}',
        b'{"format": 2}',
        b'{"format": 1, "tensors": 3}',
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
    save_file(stored | {"more": np.ones(1, np.float32)}, folder / DENSE_FILE)
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
