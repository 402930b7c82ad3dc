"""The tokens that a decision adds, as compiled code: what `models/task_networks.py` and `models/session.py` put together."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgenetllm.tasks.compiled import Compiler

EPSILON = np.float32(1e-5)  # of torch's LayerNorm
ONE = np.float32(1)

njit = Compiler(Path(__file__).parent, ("tokens",))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})
def finish(taken, before, returns, weight, bias, state, time, step, norm_weight, norm_bias, rms, out):
    """Write (episodes, tokens, width): the token of the action before (`taken` (episodes, width), or without any row), of the
    step `before`, the return-to-go that is left (`returns` (episodes,), scaled; (0,): none), the state's tokens; each with
    the embedding of its step, of mean 0 and variance 1, scaled and shifted, times `rms`."""
    width = out.shape[2]
    first = len(taken) > 0  # of the tokens of this step
    states = out.shape[1] - state.shape[1]
    for n in range(out.shape[0]):
        for k in range(out.shape[1]):
            token = out[n, k]
            # The token as its network gives it.
            if k < first:
                for i in range(width):
                    token[i] = taken[n, i]
            elif k < states:
                for i in range(width):
                    token[i] = returns[n] * weight[i] + bias[i]
            else:
                for i in range(width):
                    token[i] = state[n, k - states, i]
            if len(time):
                of_step = time[before if k < first else step]
                for i in range(width):
                    token[i] += of_step[i]
            # Layer norm.
            mean = np.float32(0)
            for i in range(width):
                mean += token[i]
            mean /= np.float32(width)
            square = np.float32(0)
            for i in range(width):
                token[i] -= mean
                square += token[i] * token[i]
            scale = ONE / np.sqrt(square / np.float32(width) + EPSILON)
            for i in range(width):
                token[i] = (token[i] * scale * norm_weight[i] + norm_bias[i]) * rms
