"""The plain types of an observation: what an environment gives and a policy decides on. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows whose number differs from episode to episode, such as the stages of a job graph."""

    values: Array  # (episodes, most rows, ...), zero beyond an episode's rows
    count: npt.NDArray[np.int32]  # (episodes,)


Observation = dict[str, Any]
"""One decision of many episodes: name -> array (episodes, ...) or Ragged. The task's folder says what a name means."""
