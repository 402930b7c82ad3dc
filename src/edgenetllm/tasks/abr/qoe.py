"""Quality of experience: the reward of a chunk.

reward = quality - rebuffer_penalty * rebuffer_s - |quality - last quality|, in the three forms of Pensieve (Mao et al.,
SIGCOMM 2017, section 5.1, table 1; after Yin et al., SIGCOMM 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

BITRATES_KBPS = np.array([300, 750, 1200, 1850, 2850, 4300], np.int64)
BITRATES_MBPS = BITRATES_KBPS / 1000.0
LEVELS = len(BITRATES_KBPS)

QoEName = Literal["lin", "log", "hd"]


@dataclass(frozen=True)
class QoE:
    """One form: `quality` (levels,) of each bitrate, `rebuffer_penalty` per second."""

    name: str
    quality: npt.NDArray[np.float64]
    rebuffer_penalty: float

    def reward(
        self, level: npt.NDArray[np.int64], last_level: npt.NDArray[np.int64], rebuffer_s: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Arrays of one shape in, reward of that shape out."""
        quality = self.quality[level]
        return quality - self.rebuffer_penalty * rebuffer_s - np.abs(quality - self.quality[last_level])


FORMS: dict[str, QoE] = {
    "lin": QoE("lin", BITRATES_MBPS, 4.3),
    "log": QoE("log", np.log(BITRATES_MBPS / BITRATES_MBPS[0]), 2.66),
    "hd": QoE("hd", np.array([1.0, 2.0, 3.0, 12.0, 15.0, 20.0]), 8.0),
}
