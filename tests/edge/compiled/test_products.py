"""Packed matrices and their products: exact sums, every layout and processor alike, caches that never hurt."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from llvmlite import binding

from edgenetllm.edge.compiled import cache, instructions, layouts
from edgenetllm.edge.compiled.layouts import Field, Layout, Packed, aligned_bytes, pack, pack_bf16
from edgenetllm.edge.compiled.products import multiply, plane_bytes, quantise
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.errors import UserError

INT8 = [Layout.DENSE, Layout.BITMASK, Layout.TILES]
SETS = sorted(instructions.available())
# Rows and columns that fill blocks of 16 and windows of 64 and that do not, more than 1024 columns, and one of each.
SHAPES = [(1, 1), (16, 64), (5, 3), (33, 70), (48, 576), (17, 1100), (40, 129)]
ZEROS = [0.0, 0.4, 0.9, 0.99, 1.0]


def matrix(shape: tuple[int, int], zeros: float, seed: int = 0) -> QuantisedMatrix:
    rng = np.random.default_rng(seed)
    values = rng.integers(-127, 128, shape).astype(np.int8)
    values[rng.random(shape) < zeros] = 0
    return QuantisedMatrix(values, rng.uniform(0.001, 0.1, (shape[0], 1)).astype(np.float32))


def activations(m: int, columns: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((m, columns)).astype(np.float32)


def product(packed: Packed, x: npt.NDArray[np.float32], vector: bool, offset: int = 128) -> npt.NDArray[np.float32]:
    """The product by a matrix that lies at `offset` in an arena full of other bytes."""
    m, columns = x.shape
    arena = aligned_bytes(offset + packed.nbytes)
    arena[:] = 0xA5
    arena[offset:] = packed.data
    planes, scales = aligned_bytes(plane_bytes(m, columns)), np.zeros(m, np.float32)
    planes[:] = 0x5A
    quantise(x, planes, scales, m)
    out = np.full((m + 1, int(packed.info[Field.ROWS])), np.nan, np.float32)
    multiply(arena, packed.info, offset, x, planes, scales, out, m, vector)
    assert np.isnan(out[m]).all()  # nothing is written after the last token
    return out[:m]


def expected(weights: QuantisedMatrix, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same in numpy: 64-bit integers, both scales in float64, rounded once to float32."""
    largest = np.abs(x).max(1)
    inverse = np.divide(np.float32(32767), largest, where=largest > 0, out=np.zeros_like(largest))
    whole = (x * inverse[:, None] + np.float32(32768.5)).astype(np.int64) - 32768
    totals = whole @ weights.values.T.astype(np.int64)
    scales = (largest / np.float32(32767)).astype(np.float64)[:, None] * weights.scales[:, 0].astype(np.float64)
    return (totals * scales).astype(np.float32)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("layout", INT8)
def test_products_are_exact(layout: Layout, name: str) -> None:
    for seed, shape in enumerate(SHAPES):
        for zeros in ZEROS:
            weights = matrix(shape, zeros, seed)
            for m in range(1, 10):
                x = activations(m, shape[1], seed + m)
                result = product(pack(weights, layout), x, vector=name == "avx512")
                np.testing.assert_array_equal(result, expected(weights, x), f"{shape} {zeros} {m}")


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("layout", INT8)
def test_many_tokens_and_unequal_rows(layout: Layout, name: str) -> None:
    """More tokens than are multiplied at once, and rows that tiles have to put into another order."""
    weights = matrix((100, 192), 0.5)
    weights.values[::3] *= np.random.default_rng(1).random(weights.values[::3].shape) < 0.2
    x = activations(37, 192)
    result = product(pack(weights, layout), x, vector=name == "avx512")
    np.testing.assert_array_equal(result, expected(weights, x))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("layout", INT8)
def test_the_largest_sums_fit(layout: Layout, name: str) -> None:
    """Every weight and activation at its extreme, for as many columns as any model has and one token with no activation."""
    for sign in (1, -1):
        weights = QuantisedMatrix(np.full((16, 11008), 127 * sign, np.int8), np.ones((16, 1), np.float32))
        x = np.stack([np.full(11008, 3.0), np.full(11008, -3.0), np.zeros(11008)]).astype(np.float32)
        result = product(pack(weights, layout), x, vector=name == "avx512")
        np.testing.assert_array_equal(result, expected(weights, x))
        np.testing.assert_allclose(result[:, 0], np.array([1, -1, 0]) * 3.0 * 127 * sign * 11008, rtol=1e-6)


def test_bfloat16_is_rounded_to_nearest() -> None:
    torch = pytest.importorskip("torch")
    dense = activations(33, 70, 5)
    x = activations(3, 70)
    rounded = torch.from_numpy(dense).bfloat16().double().numpy()
    np.testing.assert_allclose(product(pack_bf16(dense), x, vector=False), x @ rounded.T, atol=2e-5)


def test_activations_have_sixteen_bits() -> None:
    """An error of at most half of a 32767th of the largest activation, for each activation."""
    x = activations(1, 640)
    identity = QuantisedMatrix(np.eye(640, dtype=np.int8), np.ones((640, 1), np.float32))
    result = product(pack(identity), x, vector="avx512" in SETS)
    assert np.abs(result - x).max() <= 0.51 * np.abs(x).max() / 32767


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_token_that_is_not_finite_stays_so(value: float) -> None:
    x = activations(2, 64)
    x[1, 7] = value
    for name in SETS:
        result = product(pack(matrix((16, 64), 0.5)), x, vector=name == "avx512")
        assert np.isfinite(result[0]).all()
        assert not np.isfinite(result[1]).any()


def test_layouts_are_small() -> None:
    """Bytes a weight of matrices of SmolLM2's size: the resident sizes that the edge engine promises."""
    shape = (576, 1536)
    sizes = {zeros: pack(matrix(shape, zeros)).nbytes / (shape[0] * shape[1]) for zeros in (0.0, 0.4, 0.9, 0.95)}
    assert sizes[0.0] < 1.02
    assert sizes[0.4] < 0.75
    assert sizes[0.9] < 0.27
    assert sizes[0.95] < 0.17
    assert [pack(matrix(shape, zeros)).layout for zeros in (0.0, 0.4, 0.9)] == INT8


def test_a_row_waits_for_the_others() -> None:
    """Rows with the same number of values in other columns share their steps: five here, not one for each window."""
    values = np.zeros((16, 64 * 5), np.int8)
    for row in range(16):
        values[row, 64 * (row % 5) + np.arange(4)] = 1
    packed = pack(QuantisedMatrix(values, np.ones((16, 1), np.float32)), Layout.TILES)
    steps = (int(packed.info[Field.STARTS]) - 192 - layouts.LINE) // 128
    assert steps <= 5


@pytest.mark.parametrize(
    ("weights", "layout", "message"),
    [
        (QuantisedMatrix(np.ones((2, 4), np.int8), np.ones((2, 2), np.float32)), None, "one scale for each row"),
        (matrix((1, 70000), 0.5), Layout.DENSE, "does not hold a matrix of 1 x 70000"),
        (matrix((1, 16385), 0.5), Layout.TILES, "does not hold a matrix of 1 x 16385"),
        (matrix((0, 4), 0.5), Layout.DENSE, "does not hold a matrix of 0 x 4"),
        (matrix((2, 4), 0.5), Layout.BF16, "form=bf16"),
    ],
)
def test_what_does_not_fit_is_refused(weights: QuantisedMatrix, layout: Layout | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pack(weights, layout)


def test_wide_sparse_matrices_are_not_tiles() -> None:
    assert pack(matrix((1, 16385), 0.95)).layout == Layout.BITMASK


def test_instructions() -> None:
    assert instructions.chosen("auto") == SETS[0]  # avx512 where it is there
    assert instructions.chosen("portable") == "portable"
    with pytest.raises(UserError, match="auto, avx512, portable"):
        instructions.chosen("sse9")


PROGRAM = """
import numpy as np
from edgenetllm.edge.compiled import instructions
from edgenetllm.edge.compiled.layouts import Layout, pack, aligned_bytes
from edgenetllm.edge.compiled.products import multiply, plane_bytes, quantise
from edgenetllm.edge.quantised import QuantisedMatrix
print(sorted(instructions.available()))
try:
    instructions.chosen("avx512")
except Exception as error:
    print(error)
values = (np.arange(16 * 128) % 7 - 3).astype(np.int8).reshape(16, 128)
x = np.linspace(-1, 1, 256, dtype=np.float32).reshape(2, 128)
planes, scales, out = aligned_bytes(plane_bytes(2, 128)), np.zeros(2, np.float32), np.zeros((2, 16), np.float32)
quantise(x, planes, scales, 2)
for layout in (Layout.DENSE, Layout.TILES):
    packed = pack(QuantisedMatrix(values, np.ones((16, 1), np.float32)), layout)
    multiply(packed.data, packed.info, 0, x, planes, scales, out, 2, False)
    assert np.allclose(out, x @ values.T, atol=1e-2), out
print("exact")
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_processor_without_avx512() -> None:
    """Compiled without the features that this processor may have: nothing of AVX-512 is emitted, the results are right."""
    features = binding.get_host_cpu_features()
    old = ",".join(
        f"{'-' if name.startswith('avx512') or not there else '+'}{name}" for name, there in features.items()
    )
    done = run(PROGRAM, NUMBA_CPU_NAME="x86-64-v3", NUMBA_CPU_FEATURES=old)
    assert done.returncode == 0, done.stderr
    assert "['portable']" in done.stdout
    assert "this processor lacks" in done.stdout
    assert "exact" in done.stdout


ROUNDING = """
import numpy as np
from edgenetllm.edge.compiled.layouts import aligned_bytes
from edgenetllm.edge.compiled.products import plane_bytes, quantise
planes, scales = aligned_bytes(plane_bytes(1, 64)), np.zeros(1, np.float32)
quantise(np.full((1, 64), 2.0, np.float32), planes, scales, 1)
assert (planes[:128] == 255).all(), planes
print("from the cache" if quantise.stats.cache_hits else "compiled")
"""


def test_compiled_code_is_kept(tmp_path: Path) -> None:
    """And files that were cut off, or are not what they should be, are no error: compiled again, and kept again."""
    folder = tmp_path / "edgenetllm" / "numba" / f"edge-{cache.source_hash()}"
    outputs = []
    for damaged in (None, "*.nbc", "*.nbi", "none"):
        for path in folder.glob(damaged) if damaged else ():
            path.write_bytes(path.read_bytes()[:100])
        outputs.append(run(ROUNDING, XDG_CACHE_HOME=str(tmp_path), NUMBA_CACHE_DIR="").stdout)
        assert {path.suffix for path in folder.iterdir()} == {".nbi", ".nbc"}
    assert outputs == ["compiled\n"] * 3 + ["from the cache\n"]


def test_a_folder_that_cannot_be_written_to_is_noted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = run(ROUNDING, XDG_CACHE_HOME=str(tmp_path / "file"), NUMBA_CACHE_DIR="")
    assert done.stdout == "compiled\n"
    assert done.stderr.count("compiled code cannot be kept") == 1


def test_the_cache_is_named_by_all_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A change of any file of the package is another folder."""
    before = cache.source_hash()
    for path in Path(cache.__file__).parent.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    cache.source_hash.cache_clear()
    assert cache.source_hash() == before
    (tmp_path / "intrinsics.py").write_text("changed")
    cache.source_hash.cache_clear()
    assert cache.source_hash() != before
    monkeypatch.undo()
    cache.source_hash.cache_clear()
    assert cache.source_hash() == before
