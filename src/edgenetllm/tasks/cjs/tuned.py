"""The weights of the linear rule that ship with the package, found by `python -m edgenetllm.tasks.cjs.tuning`."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.cjs.rules import LINEAR_WEIGHTS


def load_weights(executors: int) -> npt.NDArray[np.float64]:
    """Tuned on TPC-H in the setting whose cluster is nearest in size, as a ratio."""
    stored = json.loads((files("edgenetllm.tasks.cjs") / "tuned_rule.json").read_text())
    nearest = min(stored.values(), key=lambda entry: abs(np.log(entry["executors"] / executors)))
    return np.array([nearest["weights"][name] for name in LINEAR_WEIGHTS])
