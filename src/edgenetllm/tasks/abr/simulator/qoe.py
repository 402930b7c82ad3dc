"""Quality of experience: the reward of a chunk.

reward = quality - rebuffer_penalty * rebuffer_s - switch_penalty * |quality - last quality|, in the three forms of Pensieve
(Mao et al., SIGCOMM 2017, section 5.1, table 1; after Yin et al., SIGCOMM 2015), whose switch_penalty is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.ladder import PUBLIC, Ladder

BITRATES_MBPS = PUBLIC.mbps
LEVELS = PUBLIC.levels

QoEName = Literal["lin", "log", "hd"]


@dataclass(frozen=True)
class QoE:
    """One form: `quality` (levels,) of each bitrate, `rebuffer_penalty` per second, `switch_penalty` per unit of quality."""

    name: str
    quality: npt.NDArray[np.float64]
    rebuffer_penalty: float
    switch_penalty: float = 1.0

    def reward(
        self, level: npt.NDArray[np.int64], last_level: npt.NDArray[np.int64], rebuffer_s: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Arrays of one shape in, reward of that shape out."""
        quality = self.quality[level]
        change = np.abs(quality - self.quality[last_level])
        return quality - self.rebuffer_penalty * rebuffer_s - self.switch_penalty * change


REBUFFER_PENALTIES: dict[str, float] = {"lin": 4.3, "log": 2.66, "hd": 8.0}
HD = np.array([1.0, 2.0, 3.0, 12.0, 15.0, 20.0])  # quality of the public bitrates


def qoe_of(
    name: str, ladder: Ladder = PUBLIC, rebuffer_penalty: float | None = None, switch_penalty: float | None = None
) -> QoE:
    """A form for the bitrates of a ladder; a penalty that is None is that of the form.

    Raises UserError for `hd` with other bitrates than the public ones, as its qualities are a table of these.
    """
    if name == "hd" and ladder.bitrates_kbps != PUBLIC.bitrates_kbps:
        raise UserError("task.qoe=hd is a table of the public bitrates: type task.qoe=lin or task.qoe=log")
    quality = {"lin": ladder.mbps, "log": np.log(ladder.mbps / ladder.mbps[0]), "hd": HD}[name]
    return QoE(
        name,
        quality,
        REBUFFER_PENALTIES[name] if rebuffer_penalty is None else rebuffer_penalty,
        1.0 if switch_penalty is None else switch_penalty,
    )


FORMS: dict[str, QoE] = {name: qoe_of(name) for name in REBUFFER_PENALTIES}  # for the public ladder
