"""The bytes that a device with one bundle needs to have another one, and bundles written around a sparse file that stays."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib

import numpy as np
import pytest

from edgenetllm.edge.bundle import DENSE_FILE, MANIFEST, SPARSE_FILE, read_bundle
from edgenetllm.edge.bundle_writer import write_around_sparse, write_bundle
from edgenetllm.edge.diff import compare, lines, main
from edgenetllm.errors import UserError

FIELDS = {"task": "abr", "model": {"hidden_size": 8}, "metrics": {}, "extra": {"target_return": {"abr": 1.0}}}


def tensors(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    sparse = {f"decoder.{n}.weight": rng.normal(size=(8, 16)) * (rng.random((8, 16)) < 0.5) for n in range(3)}
    dense = {"norm": rng.normal(size=8), "tasks.abr.head.weight": rng.normal(size=(6, 8)), "steps": np.arange(4)}
    return sparse, dense


@pytest.fixture
def parent(tmp_path):
    sparse, dense = tensors()
    write_bundle(
        tmp_path / "a", sparse=sparse, dense=dense, manifest=FIELDS, dense_values="fp16", transposed=[*sparse][:1]
    )
    return tmp_path / "a"


def change_of(items) -> dict[str, str]:
    return {item.name: item.change for item in items}


def test_only_the_small_file_travels_after_specialisation(parent, tmp_path):
    _, dense = tensors()
    dense["tasks.abr.head.weight"] = dense["tasks.abr.head.weight"] + 1
    extra = {"target_return": {"abr": 2.0}}
    sizes = write_around_sparse(parent, tmp_path / "b", dense=dense, manifest={**FIELDS, "extra": extra})
    difference = compare(parent, tmp_path / "b")
    assert change_of(difference.files) == {SPARSE_FILE: "same", DENSE_FILE: "changed", MANIFEST: "changed"}
    assert {name for name, change in change_of(difference.tensors).items() if change != "same"} == {
        "tasks.abr.head.weight"
    }
    assert (parent / SPARSE_FILE).read_bytes() == (tmp_path / "b" / SPARSE_FILE).read_bytes()
    stored = {path.name: path.stat().st_size for path in (tmp_path / "b").iterdir()}
    assert difference.bundle_bytes == sizes["bytes"] == sum(stored.values())
    assert difference.travel_files == stored[DENSE_FILE] + stored[MANIFEST]
    assert 2 * 6 * 8 + stored[MANIFEST] < difference.travel_tensors < difference.travel_files
    assert difference.travel_compressed < difference.travel_tensors
    assert difference.travel_compressed > len(zlib.compress((tmp_path / "b" / MANIFEST).read_bytes(), 9))
    text = "\n".join(lines(difference))
    assert f"to send, the files that differ: {difference.travel_files:,} bytes" in text
    assert "decoder.0.weight" not in text
    assert "decoder.0.weight" in "\n".join(lines(difference, every=True))


def test_the_bundle_around_a_sparse_file_is_read_like_any_other(parent, tmp_path):
    """Types on disk are the parent's; sizes are those that writing the whole bundle gives."""
    sparse, dense = tensors()
    dense["tasks.abr.head.weight"] = np.full((7, 8), 0.1)  # another shape, and a tensor that is new
    dense["tasks.abr.more"] = np.full(3, 0.1)
    write_bundle(parent, sparse=sparse, dense=tensors()[1], manifest=FIELDS, dense_values="fp16", overwrite=True)
    sizes = write_around_sparse(parent, tmp_path / "b", dense=dense, manifest=FIELDS)
    whole = write_bundle(tmp_path / "c", sparse=sparse, dense=dense, manifest=FIELDS, dense_values="fp16")
    assert sizes == {key: whole[key] for key in sizes}
    assert compare(tmp_path / "b", tmp_path / "c").travel_files == 0
    bundle = read_bundle(tmp_path / "b")
    assert {bundle.manifest.tensors[name].dtype for name in ("norm", "tasks.abr.more")} == {"F16"}
    assert bundle.manifest.tensors["steps"].dtype == "I64"
    for name in sparse:
        assert np.array_equal(bundle.array(name), read_bundle(parent).array(name))


@pytest.mark.parametrize("compress", ["none", "zstd"])
def test_the_small_file_is_compressed_where_the_parent_is(tmp_path, compress):
    if compress == "zstd":
        pytest.importorskip("backports.zstd")
    sparse, dense = tensors()
    write_bundle(tmp_path / "a", sparse=sparse, dense=dense, manifest=FIELDS, compress=compress)
    write_around_sparse(tmp_path / "a", tmp_path / "b", dense=dense, manifest=FIELDS)
    difference = compare(tmp_path / "a", tmp_path / "b")
    assert {item.change for item in [*difference.files, *difference.tensors]} == {"same"}
    assert (difference.travel_files, difference.travel_tensors, difference.travel_compressed) == (0, 0, 0)


def test_added_and_removed_tensors_and_files_are_said(parent, tmp_path):
    write_bundle(tmp_path / "b", sparse={}, dense={"norm": np.ones(8), "new": np.ones(2)}, manifest=FIELDS)
    difference = compare(parent, tmp_path / "b")
    assert change_of(difference.files)[SPARSE_FILE] == "removed"
    changes = change_of(difference.tensors)
    assert changes["new"] == "added"
    assert changes["norm"] == "changed"  # float32 now
    assert changes["decoder.1.weight"] == "removed"
    assert difference.travel_files == difference.bundle_bytes  # nothing of B is there yet


def test_what_cannot_be_written_is_refused_and_nothing_is_left(parent, tmp_path):
    _, dense = tensors()
    with pytest.raises(UserError, match=r"decoder\.0\.weight is both sparse and dense"):
        write_around_sparse(
            parent, tmp_path / "b", dense={**dense, "decoder.0.weight": np.ones((8, 16))}, manifest=FIELDS
        )
    with pytest.raises(UserError, match="norm: contains NaN"):
        write_around_sparse(parent, tmp_path / "b", dense={**dense, "norm": np.full(8, np.nan)}, manifest=FIELDS)
    with pytest.raises(UserError, match="norm: 1e\\+06 overflows float16"):
        write_around_sparse(parent, tmp_path / "b", dense={**dense, "norm": np.full(8, 1e6)}, manifest=FIELDS)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    data = bytearray((parent / SPARSE_FILE).read_bytes())
    data[-1] ^= 1
    (parent / SPARSE_FILE).write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        write_around_sparse(parent, tmp_path / "b", dense=dense, manifest=FIELDS)
    with pytest.raises(UserError, match="damaged"):
        compare(parent, parent)


def test_the_program(parent, tmp_path, capsys):
    main([str(parent), str(parent), "--json"])
    assert json.loads(capsys.readouterr().out)["travel_files"] == 0
    program = "import sys; from edgenetllm.edge.diff import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(parent), str(parent)], capture_output=True, text=True, check=True
    )
    assert "tensors: 0 differ, 6 are the same" in done.stdout
    assert not {"torch", "transformers", "lightning", "hydra"} & set(done.stdout.split())
    refused = subprocess.run(
        [sys.executable, "-m", "edgenetllm.edge.diff", str(parent), str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "no such bundle folder" in refused.stderr
    assert "Traceback" not in refused.stderr
