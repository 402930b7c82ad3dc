"""Norms, activations and softmax of float32 rows, written so that LLVM makes vector code of them."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Sums in any order and fused multiplications; not and infinity keep their meaning.
FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}
# For functions that compiled code calls: without a check for division by zero, which loops could not be vector code with,
# and without wrappers for Python, which take longer to compile than the functions.
compiled = numba.njit(nogil=True, fastmath=FAST, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


@intrinsic
def _round(context, x):  # type: ignore[no-untyped-def]
    """The nearest whole number, as float32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.rint.f32"), arguments)

    return types.float32(types.float32), generate


@intrinsic
def _power_of_two(context, exponent):  # type: ignore[no-untyped-def]
    """2 to a whole number between -126 and 127, given as float32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        whole = builder.fptosi(arguments[0], ir.IntType(32))
        biased = builder.add(whole, ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.float32), generate


LOG2_E = np.float32(1.4426950408889634)
TERMS = [np.float32(np.log(2.0) ** power / float(np.prod(np.arange(1.0, power + 1)))) for power in range(8)]
T1, T2, T3, T4, T5, T6, T7 = TERMS[1:]  # Taylor series of 2 ** x


@numba.njit(nogil=True, fastmath=FAST, error_model="numpy", inline="always")
def exponential(x):  # type: ignore[no-untyped-def]
    """e ** x in float32, to about one part in a million; x is cut to [-87, 87]."""
    scaled = LOG2_E * min(max(x, np.float32(-87)), np.float32(87))
    whole = _round(scaled)
    f = scaled - whole
    series = np.float32(1) + f * (T1 + f * (T2 + f * (T3 + f * (T4 + f * (T5 + f * (T6 + f * T7))))))
    return series * _power_of_two(whole)


@compiled
def rms_norm(x, weight, epsilon, out):  # type: ignore[no-untyped-def]
    """x / root mean square * weight, of one row."""
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    factor = np.float32(1) / np.sqrt(total / np.float32(len(x)) + np.float32(epsilon))
    for i in range(len(x)):
        out[i] = x[i] * factor * weight[i]


@compiled
def layer_norm(x, weight, bias, epsilon, out):  # type: ignore[no-untyped-def]
    """(x - mean) / standard deviation * weight + bias, of one row."""
    count = np.float32(len(x))
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i]
    mean = total / count
    squares = np.float32(0)
    for i in range(len(x)):
        squares += (x[i] - mean) * (x[i] - mean)
    factor = np.float32(1) / np.sqrt(squares / count + np.float32(epsilon))
    for i in range(len(x)):
        out[i] = (x[i] - mean) * factor * weight[i] + bias[i]


@compiled
def softmax(scores):  # type: ignore[no-untyped-def]
    """Replace one row of scores by its softmax."""
    highest = scores[0]
    for i in range(1, len(scores)):
        highest = max(highest, scores[i])
    total = np.float32(0)
    for i in range(len(scores)):
        scores[i] = exponential(scores[i] - highest)
        total += scores[i]
    factor = np.float32(1) / total
    for i in range(len(scores)):
        scores[i] *= factor


@compiled
def silu_gate(gate, up, out):  # type: ignore[no-untyped-def]
    """silu(gate) * up."""
    for i in range(len(out)):
        out[i] = gate[i] / (np.float32(1) + exponential(-gate[i])) * up[i]


@compiled
def gelu_new(x, out):  # type: ignore[no-untyped-def]
    """GELU by its tanh approximation: 0.5 (1 + tanh(y)) = 1 / (1 + exp(-2 y))."""
    for i in range(len(out)):
        y = np.float32(0.7978845608028654) * (x[i] + np.float32(0.044715) * x[i] * x[i] * x[i])
        out[i] = x[i] / (np.float32(1) + exponential(np.float32(-2) * y))


@compiled
def relu(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] = max(x[i], np.float32(0))


@compiled
def add(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] += x[i]


@compiled
def copy(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):  # much faster to compile than an assignment of arrays
        out[i] = x[i]


@compiled
def scale(x, factor, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] = x[i] * factor
