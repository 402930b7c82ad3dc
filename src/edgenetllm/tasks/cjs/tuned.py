"""The weights of the linear rule that ship with the package, found by `python -m edgenetllm.tasks.cjs.tuning`."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.cjs.rules import LINEAR_WEIGHTS


def load_weights(setting: str) -> npt.NDArray[np.float64]:
    """For a setting, tuned on TPC-H; those of `default` stand in for settings that were not tuned."""
    stored = json.loads((files("edgenetllm.tasks.cjs") / "tuned_rule.json").read_text())
    weights = stored.get(setting, stored["default"])["weights"]
    return np.array([weights[name] for name in LINEAR_WEIGHTS])
