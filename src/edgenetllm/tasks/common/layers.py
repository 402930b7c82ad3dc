"""Layers of small networks as compiled code: they add up float32 numbers one input after another, for rows of any number.

Weights are (inputs, outputs), the transpose of torch's, so that the innermost loop runs over outputs that lie side by side.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.compiled import Compiler

Floats = npt.NDArray[np.float32]

njit = Compiler(Path(__file__).parent, ("layers",))

# erf(t) / t as a ratio of two polynomials of (t / 4)^2, fitted here on [0, 4] by reweighted least squares: at most 2e-8 off,
# 4e-7 in float32. Beyond 4, erf is 1 within 2e-8.
ABOVE = tuple(np.float32(c) for c in (1.128379, 3.1392844, 13.6861858, 16.3912468, 18.8742027, 2.0710754))
BELOW = tuple(np.float32(c) for c in (1, 8.1154175, 29.8133316, 63.2449417, 79.6853790, 39.3024330))
A0, A1, A2, A3, A4, A5 = ABOVE
B0, B1, B2, B3, B4, B5 = BELOW
END = np.float32(4)
HALF = np.float32(0.5)
ONE = np.float32(1)
SIXTEENTH = np.float32(1 / 16)
ROOT_HALF = np.float32(0.5**0.5)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def gelu(x):
    """x * Phi(x) with the normal distribution's Phi, in place, for a vector."""
    for k in range(x.shape[0]):
        t = min(max(x[k] * ROOT_HALF, -END), END)
        s = t * t * SIXTEENTH
        above = ((((A5 * s + A4) * s + A3) * s + A2) * s + A1) * s + A0
        below = ((((B5 * s + B4) * s + B3) * s + B2) * s + B1) * s + B0
        x[k] = HALF * x[k] * (ONE + t * above / below)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def affine(x, weight, bias, out):
    """out = x @ weight + bias for a vector."""
    for k in range(out.shape[0]):
        out[k] = bias[k]
    for i in range(x.shape[0]):
        value, row = x[i], weight[i]
        for k in range(out.shape[0]):
            out[k] += value * row[k]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _affine_rows(x, weight, bias, out):
    for n in range(x.shape[0]):
        affine(x[n], weight, bias, out[n])


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _two_layers(x, weight1, bias1, weight2, bias2, out):
    inner = np.empty(bias1.shape[0], np.float32)
    for n in range(x.shape[0]):
        affine(x[n], weight1, bias1, inner)
        gelu(inner)
        affine(inner, weight2, bias2, out[n])


def linear(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """(n, inputs) -> (n, outputs)."""
    out = np.empty((len(x), len(bias)), np.float32)
    _affine_rows(x, weight, bias, out)
    return out


def two_layers(x: Floats, weight1: Floats, bias1: Floats, weight2: Floats, bias2: Floats) -> Floats:
    """A linear map, GELU, and another linear map: (n, inputs) -> (n, outputs)."""
    out = np.empty((len(x), len(bias2)), np.float32)
    _two_layers(x, weight1, bias1, weight2, bias2, out)
    return out
