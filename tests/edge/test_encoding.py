"""A sparse matrix survives its encoding: exactly where it is zero, and to the last bit that the value type holds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgenetllm.edge.encoding import DTYPES, Values, bits_per_weight, decode, dense_bytes, encode
from edgenetllm.errors import UserError

VALUES: list[Values] = ["fp32", "fp16", "bf16"]


def sparse_matrix(shape: tuple[int, ...], sparsity: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    weight[torch.rand(shape, generator=generator) < sparsity] = 0
    return weight


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 19),
    sparsity=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
    values=st.sampled_from(VALUES),
    exponent=st.integers(-45, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_zeros_are_exact_and_values_are_rounded_once(
    rows: int, columns: int, sparsity: float, values: Values, exponent: int, seed: int
) -> None:
    weight = sparse_matrix((rows, columns), sparsity, seed) * 10.0**exponent
    parts = encode(weight, values)
    result = decode(parts, weight.shape)
    assert torch.equal(result == 0, weight == 0)
    rounded = weight.to(DTYPES[values]).float()
    kept = rounded != 0
    assert torch.equal(result[kept], rounded[kept])
    assert torch.equal(result.sign(), weight.sign())
    assert parts["mask"].numel() == -(-weight.numel() // 8)
    assert parts["values"].numel() == int((weight != 0).sum())


def test_bit_order_is_the_documented_one() -> None:
    parts = encode(torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 2.0, 0, 3.0]]), "fp32")
    assert parts["mask"].tolist() == [0b10000001, 0b01000000]
    assert parts["values"].tolist() == [1, 2, 3]


def test_a_value_too_small_for_fp16_stays_a_non_zero() -> None:
    result = decode(encode(torch.tensor([1e-30, -1e-30, 0.0]), "fp16"), (3,))
    assert result.tolist() == [2.0**-24, -(2.0**-24), 0.0]


def test_narrowing_on_decode_keeps_the_zeros_too() -> None:
    result = decode(encode(torch.tensor([1e-30, 0.0]), "fp32"), (2,), torch.float16)
    assert result.dtype == torch.float16
    assert (result == 0).tolist() == [False, True]


@pytest.mark.parametrize(
    ("weight", "values", "reason"),
    [
        (7e4, "fp16", "overflows float16"),
        (3.4e38, "bf16", "overflows"),
        (np.nan, "fp32", "NaN"),
        (np.inf, "fp16", "NaN"),
    ],
)
def test_what_cannot_be_stored_names_the_tensor(weight: float, values: Values, reason: str) -> None:
    with pytest.raises(UserError, match=f"layers.0.*{reason}"):
        encode(torch.tensor([1.0, weight]), values, name="layers.0")


def test_inconsistent_parts_are_refused() -> None:
    weight = sparse_matrix((3, 5), 0.4)
    good = encode(weight, "fp16")
    mask, values = good["mask"], good["values"]
    padded = mask.clone()
    padded[-1] |= 1
    flipped = mask.clone()
    flipped[0] ^= 0x80
    zero, infinite = values.clone(), values.clone()
    zero[0], infinite[0] = 0, torch.inf
    for parts, reason in [
        ({"mask": mask}, "parts"),
        ({"mask": mask[:1], "values": values}, "mask of 2 bytes"),
        ({"mask": mask.short(), "values": values}, "mask of 2 bytes"),
        ({"mask": padded, "values": values}, "padding"),
        ({"mask": flipped, "values": values}, "non-zeros but"),
        ({"mask": mask, "values": values[1:]}, "non-zeros but"),
        ({"mask": mask, "values": values.reshape(1, -1)}, "vector"),
        ({"mask": mask, "values": values.to(torch.int16)}, "vector"),
        ({"mask": mask, "values": zero}, "is zero"),
        ({"mask": mask, "values": infinite}, "infinite"),
    ]:
        with pytest.raises(UserError, match=f"w: .*{reason}"):
            decode(parts, weight.shape, name="w")


def test_sizes_by_hand() -> None:
    shapes = [(4, 10), (7,)]
    assert dense_bytes(shapes, "fp32") == 4 * 47
    assert dense_bytes(shapes, "fp16") == 2 * 47
    assert dense_bytes(shapes, "int8") == 40 + 2 * 4 + 2 * 7
    weight = torch.ones(100, 80)
    weight[:, :32] = 0  # 40 %
    assert bits_per_weight([encode(weight, "fp16")], weight.numel()) == pytest.approx(1 + 0.6 * 16)
    assert sum(part.nbytes for part in encode(weight, "fp16").values()) > dense_bytes([weight.shape], "int8")
