"""Pensieve (Mao et al., SIGCOMM 2017): the published network over the published state, with weights of our own.

State and network are those of section 4.2 of the paper and of `sim/` in github.com/hongzimao/pensieve. Differences:

- one-dimensional convolutions of four taps run along the last eight chunks and along the six sizes, as the paper says. There,
  tflearn takes the eight values for channels of a single position, which makes a dense layer of them
- the number of chunks left reaches the network. There, the branch for it reads another row of the state

Weights ship for the training traces of `data=norway` and `data=fcc`, trained by `scripts/train_pensieve.py` for `video1` and
QoE `lin` (the file says so itself). They can play any video of the public ladder and under any form of QoE, since sizes are
an input, but they never saw another form: with `task.qoe=log` or `hd` the row shows what a policy made for `lin` earns.

The row of a table is `pensieve` where weights of the data's own training traces exist, and `pensieve_fcc` on every other data
set: the weights of FCC's traces, the larger set, which share no run of samples with test traces of norway, oboe or puffer.
Norway's do with fcc-test. Both were trained with the splits of `data.seed=0` and the default `data.validation`; the test
traces are the same for every choice of these.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.protocol import CHUNKS, PAST
from edgenetllm.tasks.abr.simulator.qoe import BITRATES_MBPS, LEVELS
from edgenetllm.tasks.task import Array, Observation

Decisions = Literal["greedy", "sampled"]

OWN_WEIGHTS = ("norway", "fcc")  # data sets with weights of their own training traces
ELSEWHERE = "fcc"  # whose weights play all other data sets

FILTERS = 128  # of a convolution; also the units of a linear branch
TAPS = 4  # width of a convolution
HIDDEN = 128
BUFFER_SCALE_S = 10.0  # BUFFER_NORM_FACTOR of `sim/multi_agent.py`
DELAY_SCALE_S = 10.0  # the same
STATE_WIDTHS = (1, 1, PAST, PAST, LEVELS, 1)  # columns of the state, in the order of `states`


def states(observation: Observation) -> npt.NDArray[np.float32]:
    """Pensieve's state of each episode, (episodes, 25).

    Columns: last bitrate over the highest; buffer in 10 s; the last eight throughputs in megabytes per second and download
    times in 10 s, the latest last, zero before the start; sizes of the next chunk in megabytes;
    chunks left over 48, at most 1.
    """
    columns = [
        BITRATES_MBPS[observation["last_quality"]][:, None] / BITRATES_MBPS[-1],
        observation["buffer_s"][:, None] / BUFFER_SCALE_S,
        observation["past_throughput_mbps"] / 8,
        observation["past_delay_s"] / DELAY_SCALE_S,
        observation["next_sizes_mb"],
        np.minimum(observation["chunks_left"], CHUNKS)[:, None] / CHUNKS,
    ]
    return np.concatenate(columns, axis=1, dtype=np.float32)


class PensieveBody(nn.Module):
    """Six branches of 128 units or filters each, joined in a hidden layer of 128; actor and critic have one each."""

    def __init__(self) -> None:
        super().__init__()
        self.quality = nn.Linear(1, FILTERS)
        self.buffer = nn.Linear(1, FILTERS)
        self.throughput = nn.Conv1d(1, FILTERS, TAPS)
        self.delay = nn.Conv1d(1, FILTERS, TAPS)
        self.sizes = nn.Conv1d(1, FILTERS, TAPS)
        self.left = nn.Linear(1, FILTERS)
        positions = 3 + 2 * (PAST - TAPS + 1) + (LEVELS - TAPS + 1)
        self.hidden = nn.Linear(positions * FILTERS, HIDDEN)

    def forward(self, state: Tensor) -> Tensor:
        """(n, 25) to (n, 128)."""
        quality, buffer, throughput, delay, sizes, left = state.split(STATE_WIDTHS, dim=1)
        branches = [
            self.quality(quality),
            self.buffer(buffer),
            _slide(self.throughput, throughput),
            _slide(self.delay, delay),
            _slide(self.sizes, sizes),
            self.left(left),
        ]
        return F.relu(self.hidden(F.relu(torch.cat(branches, dim=1))))


def _slide(layer: nn.Conv1d, values: Tensor) -> Tensor:
    """The convolution of (n, width), flat: (n, positions * 128). As a product, which is faster than conv1d on a CPU."""
    windows = values.unfold(1, TAPS, 1)  # (n, positions, 4)
    return F.linear(windows, layer.weight[:, 0], layer.bias).flatten(1)


class PensieveNet(nn.Module):
    """The actor: logits of the six qualities."""

    def __init__(self) -> None:
        super().__init__()
        self.body = PensieveBody()
        self.output = nn.Linear(HIDDEN, LEVELS)

    def forward(self, state: Tensor) -> Tensor:
        """(n, 25) to (n, 6)."""
        return self.output(self.body(state))  # type: ignore[no-any-return]


class Pensieve:
    """The trained actor as a baseline: greedy, or sampled (as it is published) with numbers that depend on the seed alone."""

    def __init__(self, net: PensieveNet, name: str = "pensieve", sample_seed: int | None = None) -> None:
        self.net, self.name, self.sample_seed = net.eval(), name, sample_seed

    def start(self, episodes: int) -> None:
        if self.sample_seed is not None:
            self._generator = torch.Generator().manual_seed(self.sample_seed)

    @torch.inference_mode()
    def act(self, observation: Observation) -> Array:
        """Qualities (episodes,)."""
        logits = self.net(torch.from_numpy(states(observation)))
        self._probabilities = logits.softmax(1).numpy()
        if self.sample_seed is None:
            return np.asarray(logits.argmax(1).numpy())
        chosen = torch.multinomial(logits.softmax(1), 1, generator=self._generator)
        return np.asarray(chosen[:, 0].numpy())

    def targets(self, observation: Observation) -> npt.NDArray[np.float32]:
        """Probabilities of the six qualities in the decision just taken, (episodes, 6)."""
        return np.asarray(self._probabilities, np.float32)

    def identity(self) -> str:
        """A hash of the weights, and the seed of sampled decisions."""
        weights = hashlib.sha256(b"".join(value.numpy().tobytes() for value in self.net.state_dict().values()))
        return f"Pensieve({weights.hexdigest()[:16]}, sample_seed={self.sample_seed})"


def weights_of(data: str) -> Path:
    """The file of the weights trained on this data set's own training traces."""
    return Path(__file__).with_name(f"pensieve_{data}.safetensors")


def pensieve_for(data: str) -> Pensieve:
    """The baseline of a table on this data set, by the rule above; greedy or sampled as validation preferred."""
    if data in OWN_WEIGHTS:
        return load(weights_of(data), "pensieve")
    return load(weights_of(ELSEWHERE), f"pensieve_{ELSEWHERE}")


def load(path: Path, name: str = "pensieve") -> Pensieve:
    """Weights (stored in half precision) and the way of deciding, from one file.

    Raises UserError for a missing file or one of another network.
    """
    net = PensieveNet()
    try:
        with safe_open(path, "pt") as file:
            net.load_state_dict({key: file.get_tensor(key).float() for key in file.keys()})  # noqa: SIM118
        decisions = facts(path)["decisions"]
    except (OSError, RuntimeError, SafetensorError, KeyError) as error:
        raise UserError(f"{path} does not hold Pensieve's weights ({error})") from None
    return Pensieve(net, name, 0 if decisions == "sampled" else None)


def facts(path: Path) -> dict[str, object]:
    """Facts about the weights in the file: data, video, form of QoE, validation, iteration, greedy or sampled decisions."""
    with safe_open(path, "pt") as file:
        return dict(json.loads((file.metadata() or {})["facts"]))
