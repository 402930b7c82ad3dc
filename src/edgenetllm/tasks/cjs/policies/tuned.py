"""The weights of rules that ship with the package, of each the ones for the TPC-H setting whose cluster is nearest in size.

The linear rule's were found by `scripts/tune_cjs_rule.py`, the wide rule's by evolution (`expert/evolution.py`) from
these: `python train.py task=cjs data=tpch experience=expert` with the options that `evolved_rule.json` names.
"""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.cjs.policies.wide_rule import LINEAR_WEIGHTS, WIDE_WEIGHTS


def load_weights(executors: int) -> npt.NDArray[np.float64]:
    """LINEAR_WEIGHTS for a cluster of this size."""
    return _nearest("tuned_rule.json", executors, LINEAR_WEIGHTS)


def load_evolved(executors: int) -> npt.NDArray[np.float64]:
    """WIDE_WEIGHTS for a cluster of this size."""
    return _nearest("evolved_rule.json", executors, WIDE_WEIGHTS)


def _nearest(name: str, executors: int, weights: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """The weights for the setting whose cluster is nearest in size, as a ratio."""
    stored = json.loads((files("edgenetllm.tasks.cjs.policies") / name).read_text())
    nearest = min(stored.values(), key=lambda entry: abs(np.log(entry["executors"] / executors)))
    return np.array([nearest["weights"][weight] for weight in weights])
