"""A matrix survives its encoding in every form: exactly where it is zero, and as near as the type of its values allows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenetllm.edge import positions
from edgenetllm.edge.encoding import BITS, Form, decode, encode, form_of, nonzeros_of
from edgenetllm.edge.floats import narrow, widen
from edgenetllm.edge.quantise import group_size
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.errors import UserError

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MASKS = ["bitmask", "delta", "none"]
MATRICES = {
    "rows": st.integers(1, 9),
    "columns": st.integers(1, 40),
    "sparsity": st.sampled_from([0.0, 0.4, 0.9, 0.98, 1.0]),
    "exponent": st.integers(-45, 4),
    "seed": st.integers(0, 99),
}


def matrix(rows: int, columns: int, sparsity: float, seed: int = 0, exponent: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)) * 10.0**exponent
    return np.where(rng.random((rows, columns)) < sparsity, 0, weight).astype(np.float32)


def zeros_of(weight: np.ndarray) -> int:
    return int((weight == 0).sum())


def round_trip(weight: np.ndarray, form: Form) -> Any:
    return decode(encode(weight, form), form, weight.shape, zeros_of(weight))


@given(**MATRICES, dtype=st.sampled_from(list(DTYPES)), mask=st.sampled_from(MASKS))
@settings(max_examples=300, deadline=None)
def test_zeros_are_exact_and_floats_are_rounded_once(rows, columns, sparsity, exponent, seed, dtype, mask):
    """Torch's own rounding is the reference."""
    weight = matrix(rows, columns, sparsity, seed, exponent)
    result = round_trip(weight, Form(dtype, mask))
    assert np.array_equal(result == 0, weight == 0)
    assert np.array_equal(np.sign(result), np.sign(weight))
    rounded = torch.from_numpy(weight).to(DTYPES[dtype]).float().numpy()
    assert np.array_equal(result[rounded != 0], rounded[rounded != 0])


@given(**MATRICES, dtype=st.sampled_from(["I8", "I4"]), mask=st.sampled_from(MASKS), group=st.sampled_from([None, 4]))
@settings(max_examples=400, deadline=None)
def test_zeros_are_exact_and_integers_are_near(rows, columns, sparsity, exponent, seed, dtype, mask, group):
    weight = matrix(rows, columns, sparsity, seed, exponent)
    form = Form(dtype, mask, group_size(columns, group))
    result = round_trip(weight, form)
    dense = result.dense()
    assert np.array_equal(dense == 0, weight == 0)
    assert np.array_equal(np.sign(dense), np.sign(weight))
    scales = np.repeat(result.scales, form.group, axis=1)
    if dtype == "I8":  # half a step, but for what would have become zero
        near = np.abs(weight) >= scales / 2
        assert np.all(np.abs(dense - weight)[near] <= 0.501 * scales[near])
        assert np.all(np.abs(result.values[~near]) <= 1)
    else:
        assert np.all(result.values[weight != 0] % 2 != 0)
        inside = np.abs(weight) <= scales * (13 if mask == "none" and zeros_of(weight) else 15)
        assert np.all(np.abs(dense - weight)[inside] <= 1.01 * scales[inside])


def test_integers_of_4_bits_use_all_of_them():
    result = round_trip(matrix(64, 256, 0.4), Form("I4", "bitmask", 256))
    assert set(np.unique(result.values)) == {0, *range(-15, 16, 2)}
    dense = round_trip(matrix(64, 256, 0.4), Form("I4", "none", 256))
    assert set(np.unique(dense.values)) == {0, *range(-13, 14, 2)}


def test_smaller_groups_are_nearer():
    weight = matrix(32, 256, 0.0) * np.linspace(0.1, 1, 256, dtype=np.float32)
    errors = {}
    for dtype in ("I8", "I4"):
        for group in (256, 32):
            errors[dtype, group] = float(
                np.square(round_trip(weight, Form(dtype, "bitmask", group)).dense() - weight).sum()
            )
    assert errors["I8", 32] < errors["I8", 256] < 0.1 * errors["I4", 32] < 0.1 * errors["I4", 256]


@pytest.mark.parametrize(
    ("columns", "group", "size"), [(576, None, 576), (576, 64, 64), (576, 128, 144), (9, 64, 9), (7, 2, 7)]
)
def test_a_group_is_the_next_divisor(columns, group, size):
    assert group_size(columns, group) == size


def test_bit_order_is_the_documented_one():
    weight = np.array([[1.0, 0, 0, 0, 0], [0, 0, 2.0, 0, 3.0]], np.float32)
    parts = encode(weight, Form("F32", "bitmask"))
    assert parts["mask"][1].tolist() == [0b10000001, 0b01000000]
    assert parts["values"][1].tolist() == [1, 2, 3]
    assert encode(weight, Form("F32", "delta"))["deltas"][1].tolist() == [0x06, 0x10]


@given(gaps=st.lists(st.integers(0, 70), max_size=12), rest=st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_deltas_are_what_a_slow_reader_reads(gaps, rest):
    nonzero = np.array([bit for gap in gaps for bit in [0] * gap + [1]] + [0] * rest, bool)
    if not nonzero.size:
        return
    stream = positions.pack_deltas(nonzero)
    assert len(stream) == positions.deltas_bytes(nonzero)
    halves = [half for byte in stream.tolist() for half in (byte >> 4, byte & 15)]
    read: list[int] = []
    for half in halves:
        read += [0] * 15 if half == 15 else [0] * half + [1]
    padding = sum(read) - len(gaps)  # an unused last half reads as one more non-zero
    read = read[: len(read) - padding]
    assert padding in (0, 1)
    assert read + [0] * (nonzero.size - len(read)) == nonzero.astype(int).tolist()
    positions.check_deltas(stream, nonzero.size, len(gaps), "w")


def test_auto_takes_the_fewest_bytes():
    for sparsity, masks in (
        (0.0, ("none",) * 2),
        (0.4, ("bitmask",) * 2),
        (0.9, ("delta",) * 2),
        (0.15, ("bitmask", "none")),
    ):
        weight = matrix(64, 64, sparsity)
        for dtype, values, mask in (("F16", "fp16", masks[0]), ("I4", "int4", masks[1])):
            form = form_of(weight, values, "auto", None)
            assert (form.dtype, form.mask) == (dtype, mask)
            sizes = {}
            for each in MASKS:
                parts = encode(weight, Form(dtype, each, form.group))  # type: ignore[arg-type]
                sizes[each] = sum(array.nbytes for _, array in parts.values())
            assert min(sizes, key=lambda each: sizes[each]) == mask


def test_what_is_no_matrix_is_not_quantised():
    assert form_of(np.ones((2, 3, 4), np.float32), "int8", "none", None) == Form("F16", "none")


def test_a_value_too_small_for_its_type_stays_a_non_zero():
    weight = np.array([[1e-30, -1e-30, 0.0, 1.0]], np.float32)
    assert round_trip(weight, Form("F16", "bitmask")).tolist() == [[2.0**-24, -(2.0**-24), 0, 1]]
    for dtype in ("I8", "I4"):
        assert np.array_equal(round_trip(weight, Form(dtype, "none", 4)).values[0, :3], [1, -1, 0])


@given(bits=st.integers(0, 2**32 - 1))
@settings(max_examples=500, deadline=None)
def test_bfloat16_is_torchs(bits):
    value = np.array([bits], np.uint32).view(np.float32)
    expected = torch.from_numpy(value.copy()).bfloat16()
    if not bool(torch.isfinite(expected).all()):
        return
    stored = narrow(value, "BF16", "w")
    assert stored.tolist() == expected.view(torch.int16).numpy().view(np.uint16).tolist()
    assert np.array_equal(widen(stored, "BF16"), expected.float().numpy())


@pytest.mark.parametrize(
    ("weight", "dtype", "reason"),
    [
        (7e4, "F16", "overflows float16"),
        (3.4e38, "BF16", "overflows"),
        (np.nan, "F32", "NaN"),
        (np.inf, "F16", "NaN"),
        (np.nan, "I8", "NaN"),
        (3.4028e38, "I8", "scale"),
    ],
)
def test_what_cannot_be_stored_names_the_tensor(weight, dtype, reason):
    with pytest.raises(UserError, match=f"layers.0.*{reason}"):
        encode(
            np.array([[1.0, weight]], np.float32), Form(dtype, "none", 2 if dtype == "I8" else None), name="layers.0"
        )


def damaged(parts: dict, part: str, change: Any) -> dict:
    dtype, array = parts[part]
    array = array.copy()
    return {**parts, part: (dtype, change(array))}


def put(value: Any, at: int = 0) -> Any:
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[at] = value
        return array

    return change


def flip(bit: int, at: int) -> Any:
    def change(array: np.ndarray) -> np.ndarray:
        array[at] ^= bit
        return array

    return change


INCONSISTENT: list[tuple[Form, str, Any, str]] = [
    (Form("F16", "bitmask"), "mask", lambda a: a[:1], "mask is .* but the manifest says"),
    (Form("F16", "bitmask"), "mask", flip(1, -1), "padding"),
    (Form("F16", "bitmask"), "mask", flip(0x80, 0), "marks"),
    (Form("F16", "bitmask"), "values", lambda a: a[1:], "values is"),
    (Form("F16", "bitmask"), "values", lambda a: a.reshape(1, -1), "values is"),
    (Form("F16", "bitmask"), "values", put(0), "1 stored values are zero"),
    (Form("F16", "bitmask"), "values", put(np.inf), "infinite"),
    (Form("F16", "none"), "values", put(np.nan), "NaN"),
    (Form("F16", "none"), "values", put(0.0), "are zero"),
    (Form("F16", "delta"), "deltas", lambda a: a[:-1], "deltas"),
    (Form("F16", "delta"), "deltas", put(0xFF), "deltas"),
    (Form("F16", "delta"), "deltas", lambda a: np.append(a, np.uint8(0xFF)), "deltas"),
    (Form("I8", "bitmask", 5), "values", put(-128), "integers from -128"),
    (Form("I8", "bitmask", 5), "scales", put(0), "scale"),
    (Form("I8", "bitmask", 5), "scales", put(0x7F80), "scale"),
    (Form("I8", "bitmask", 5), "scales", put(0x7F7F), "scale"),
    (Form("I8", "bitmask", 5), "scales", put(0x8001), "scale"),
    (Form("I8", "bitmask", 5), "scales", lambda a: a[:2], "scales is"),
    (Form("I4", "none", 5), "values", put(0xFF), "integers from"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "part", "change", "reason"), INCONSISTENT)
def test_inconsistent_parts_are_refused(form, part, change, reason):
    weight = np.abs(matrix(3, 5, 0.4))
    weight[0, 0] = 1
    good = encode(weight, form)
    decode(good, form, weight.shape, zeros_of(weight))
    bad = damaged(good, part, change)
    with pytest.raises(UserError, match=f"w.*{reason}"):
        decode(bad, form, weight.shape, zeros_of(weight), name="w")
    with pytest.raises(UserError, match="has parts"):
        decode(
            {key: value for key, value in good.items() if key != part}, form, weight.shape, zeros_of(weight), name="w"
        )


def test_a_quantised_matrix_is_stored_as_it_is():
    rng = np.random.default_rng(0)
    quantised = QuantisedMatrix(rng.integers(-127, 128, (6, 8), np.int8), np.full((6, 2), 0.5, np.float32))
    for mask in MASKS:
        form = form_of(quantised, "int8", mask, None)  # type: ignore[arg-type]
        zeros = int((~nonzeros_of(quantised)).sum())
        result = decode(encode(quantised, form), form, quantised.shape, zeros)
        assert isinstance(result, QuantisedMatrix)
        assert np.array_equal(result.values, quantised.values)
        assert np.array_equal(result.scales, quantised.scales)
    with pytest.raises(UserError, match=r"w: (integers|an integer)"):
        encode(quantised, form_of(quantised, "int4", "bitmask", None), "w")


def test_bits_per_weight_by_hand():
    weight = np.ones((100, 80), np.float32)
    weight[:, :32] = 0  # 40 %
    expected = {"F16": 1 + 0.6 * 16, "I8": 1 + 0.6 * 8 + 16 / 80, "I4": 1 + 0.6 * 4 + 16 / 80}
    for dtype, bits in expected.items():
        form = Form(dtype, "bitmask", None if dtype == "F16" else 80)
        parts = encode(weight, form)
        assert 8 * sum(array.nbytes for _, array in parts.values()) / weight.size == pytest.approx(bits)
        assert bits > 0.6 * BITS[dtype]
    random = matrix(200, 200, 0.9)
    stream = 8 * encode(random, Form("I8", "delta", 200))["deltas"][1].nbytes / random.size
    density = 1 - zeros_of(random) / random.size
    assert stream == pytest.approx(4 * density / (1 - (1 - density) ** 15), rel=0.02)
    assert math.isclose(stream, 0.5, rel_tol=0.05)
