"""Adaptive bitrate streaming as a task: which traces, which video, which quality of experience, which tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, SkipValidation
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Affects, Location
from edgenetllm.errors import UserError
from edgenetllm.option_types import FolderName, FolderPath, NotNegative, Positive
from edgenetllm.progress import tqdm
from edgenetllm.tasks.abr.data.datasets import TraceData
from edgenetllm.tasks.abr.data.ladder import PUBLIC, Ladder
from edgenetllm.tasks.abr.data.own_video import FETCHED, Video, check_options, video_of
from edgenetllm.tasks.abr.data.splits import Splits
from edgenetllm.tasks.abr.data.traces import TraceSet, join
from edgenetllm.tasks.abr.data.videos import Videos, load_video
from edgenetllm.tasks.abr.networks.encoder import Features, FusedEncoder, PerFeatureEncoder
from edgenetllm.tasks.abr.policies.baselines import Bba, Bola, Fixed, RateBased
from edgenetllm.tasks.abr.policies.mpc import Mpc
from edgenetllm.tasks.abr.policies.optimum import solve
from edgenetllm.tasks.abr.policies.pensieve import pensieve_for
from edgenetllm.tasks.abr.policies.tuning import tune
from edgenetllm.tasks.abr.protocol import CHUNKS
from edgenetllm.tasks.abr.simulator.core import Clock
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import FORMS, QoE, QoEName, qoe_of
from edgenetllm.tasks.abr.summary import describe, warnings
from edgenetllm.tasks.common.heads import ChoiceHead
from edgenetllm.tasks.task import SPLITS, Encoder, Head, Metric, Policy, Split, Task

METRICS = (
    Metric("qoe", "QoE", "", True),
    Metric("bitrate_mbps", "bitrate", "Mbps", True),
    Metric("rebuffer_s", "rebuffering", "s/chunk", False),
    Metric("smoothness_mbps", "bitrate change", "Mbps", False),
)
CAUTIOUS = (0.6, 0.5)  # scale and error weight where there are no validation traces to tune them on


@dataclass(config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class AbrTask(Task):
    """Options of `task=abr`; `data` is the object of the data group."""

    name: FolderName
    data: SkipValidation[TraceData]
    data_dir: Annotated[FolderPath, Location("data_dir")]
    qoe: QoEName
    tokens: Annotated[Literal["fused", "per_feature"], Affects("adaptation")]
    noise: bool  # training delays times U(0.9, 1.1)
    temperature: Positive = Field()  # of the teacher's soft targets, in units of summed reward
    # Weights of a second of stalling and of a unit of change in quality; null: those of the form.
    rebuffer_penalty: NotNegative | None = None
    switch_penalty: NotNegative | None = None
    features: Annotated[Features, Affects("adaptation")] = "raw"  # history: of the fused encoder only
    # public: the round trip does not move the trace's clock, as in the public protocol; real: all time that passes does.
    clock: Clock = "public"
    # Videos of which each training episode draws one; none: the data's. Validation and test always play the data's.
    train_videos: list[Literal["video1", "video2", "synthetic", "generated"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not hasattr(self.data, "splits"):
            raise UserError(
                f"data={self.data.name} is not for task=abr, which plays traces: fcc, norway, oboe, puffer, ..."
            )
        if len(set(self.train_videos)) < len(self.train_videos):
            raise UserError(f"task.train_videos={self.train_videos}: name each video once")
        if self.tokens == "per_feature" and self.features == "history":
            raise UserError("task.features=history needs task.tokens=fused")
        check_options(self.data)
        if self.train_videos and (self._ladder != PUBLIC or self._chunks != CHUNKS):
            raise UserError(
                f"task.train_videos={self.train_videos} have {PUBLIC}, {CHUNKS} of them: with another ladder or number of "
                "chunks, type task.train_videos=[]"
            )
        self._qoe  # noqa: B018  a form that does not fit the ladder is said before anything starts

    metrics = METRICS
    return_scale = 50.0
    timeline = "edgenetllm.tasks.abr.timeline"

    @property
    def max_steps(self) -> int:
        """The chunks of a session less chunk 0, which is not a decision."""
        return self._chunks - 1

    def data_hash(self, splits: Sequence[Split] = SPLITS) -> str:
        digest = hashlib.sha256(repr((self.qoe, self.noise)).encode())
        weights = (self._qoe.rebuffer_penalty, self._qoe.switch_penalty)
        if self._ladder != PUBLIC or weights != (FORMS[self.qoe].rebuffer_penalty, FORMS[self.qoe].switch_penalty):
            digest.update(repr((self._ladder.bitrates_kbps, self._ladder.chunk_s, *weights)).encode())
        if self.clock != "public":
            digest.update(repr(("clock", self.clock)).encode())
        digest.update(repr(self.train_videos).encode() + self._videos.tables.tobytes())
        for split in splits:
            digest.update(self._sets[split].sha256().encode())
        return digest.hexdigest()

    def describe_data(self) -> list[str]:
        drawn = f" (training: one of {', '.join(self.train_videos)})" if self.train_videos else ""
        drawn += "" if self._is_public else f", {self._chunks} chunks: {self._ladder}"
        return [
            f"data: {self.data.name}, {self._splits.describe()}; video {self.data.video}{drawn}",
            *describe(self._splits),
        ]

    def notes(self) -> list[str]:
        shared = self._splits.shared_note()
        clock = ["the trace's clock is real: round trips move it, unlike in the public protocol"]
        clocked = clock if self.clock == "real" else []
        return [*([shared] if shared else []), *clocked, *self._video_notes(), *warnings(self._splits)]

    def environment(self, split: Split) -> AbrEnvironment:
        train = split == "train"
        videos = self._videos if train else replace(self._videos, drawn=(0,), generated=False)
        noise = train and self.noise
        return AbrEnvironment(self._traces(split), videos, self._qoe, random_start=train, noise=noise, clock=self.clock)

    def seeds(self, split: Split) -> npt.NDArray[np.int64]:
        return np.arange(len(self._traces(split)), dtype=np.int64)

    def episode_names(self, split: Split) -> list[str]:
        return list(self._traces(split).names)

    def baselines(self) -> dict[str, Policy]:
        policies: list[Policy] = [
            Fixed(1),
            Bba(levels=self._ladder.levels),
            Bola(bitrates_kbps=self._ladder.bitrates_kbps, chunk_s=self._ladder.chunk_s),
            RateBased(self._ladder.bitrates_kbps),
            self._mpc("fastmpc", 1, 0),
            self._mpc("robustmpc", 1, 1),
            *([pensieve_for(self.data.name)] if self._ladder == PUBLIC else []),
        ]
        return {policy.name: policy for policy in [*policies, self.teacher()]}

    def teacher(self) -> Mpc:
        """robustMPC with both constants tuned on validation; without validation traces, with cautious ones."""
        return self._mpc("robustmpc_tuned" if self._splits.val else "robustmpc_cautious", *self._tuned)

    def fallbacks(self) -> dict[str, dict[str, Any]]:
        """BBA, and robustMPC with the sizes of the data's video."""
        ladder, qoe, bba = self._ladder, self._qoe, Bba(levels=self._ladder.levels)
        planning = {
            "kind": "abr_mpc",
            "bitrates_kbps": list(ladder.bitrates_kbps),
            "chunk_s": ladder.chunk_s,
            "sizes": self._videos.tables[0].tolist(),
            "qoe": qoe.name,
            "quality": qoe.quality.tolist(),
            "rebuffer_penalty": qoe.rebuffer_penalty,
            "switch_penalty": qoe.switch_penalty,
            "bandwidth_scale": 1.0,
            "error_weight": 1.0,
        }
        by_buffer = {
            "kind": "abr_bba",
            "levels": ladder.levels,
            "reservoir_s": bba.reservoir_s,
            "cushion_s": bba.cushion_s,
        }
        return {"bba": by_buffer, "robustmpc": planning}

    def tuned_as(self, other: Task) -> Mpc | None:
        """robustMPC with the constants that do best on the validation traces of `other`."""
        if not isinstance(other, AbrTask) or not other._splits.val:
            return None
        return self._mpc("robustmpc_tuned_on_run", *other._tuned)

    def bounds(self, split: Split, progress: bool = False) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
        """The offline optimum of every trace, without training noise."""
        traces = self._traces(split)
        sizes, chunk_s = self._video.sizes, self._ladder.chunk_s
        ranges = list(zip(traces.offsets[:-1], traces.offsets[1:], traces.starts, strict=True))
        best = [
            solve(traces.time_s[a:b], traces.mbps[a:b], sizes, int(start), self._qoe, chunk_s, self.clock).mean_reward
            for a, b, start in tqdm(ranges, desc="offline optimum", unit="trace", disable=not progress)
        ]
        return {"optimum": {"qoe": np.array(best)}}

    def encoder(self, width: int) -> Encoder:
        network = FusedEncoder if self.tokens == "fused" else PerFeatureEncoder
        return network(width, self.features, self._ladder)

    def head(self, width: int) -> Head:
        return ChoiceHead(width, self._ladder.levels)

    @cached_property
    def _splits(self) -> Splits:
        return self.data.splits()

    @cached_property
    def _video(self) -> Video:
        """The video of the data set."""
        return video_of(self.data, self.data_dir)

    @property
    def _ladder(self) -> Ladder:
        """The ladder of the video; of a public one it is known before the video is fetched."""
        return PUBLIC if self.data.video in FETCHED else self._video.ladder

    @property
    def _chunks(self) -> int:
        return self.data.chunks or CHUNKS if self.data.video in FETCHED else self._video.sizes.shape[1]

    @property
    def _is_public(self) -> bool:
        return self._ladder == PUBLIC and self._chunks == CHUNKS

    @cached_property
    def _qoe(self) -> QoE:
        return qoe_of(self.qoe, self._ladder, self.rebuffer_penalty, self.switch_penalty)

    def _video_notes(self) -> list[str]:
        """Differences from the public protocol, a sentence each."""
        notes = []
        if not self._is_public:
            notes.append(f"the video is not of the public protocol: {self._chunks} chunks, {self._ladder}")
        if self._ladder != PUBLIC:
            notes.append("there is no row of Pensieve, whose weights that ship know the public ladder only")
        form = FORMS[self.qoe]
        if (self._qoe.rebuffer_penalty, self._qoe.switch_penalty) != (form.rebuffer_penalty, form.switch_penalty):
            notes.append(
                f"QoE {self.qoe} takes off {self._qoe.rebuffer_penalty:g} for a second of stalling and "
                f"{self._qoe.switch_penalty:g} times the change of quality (its own weights: {form.rebuffer_penalty:g} and "
                f"{form.switch_penalty:g})"
            )
        return notes

    @cached_property
    def _videos(self) -> Videos:
        """The videos that training draws from; number 0 is that of the data set."""
        loaded = [name for name in self.train_videos if name != "generated"]
        names = list(dict.fromkeys([self.data.video, *loaded]))
        tables = np.stack([self._video.sizes, *(load_video(name, self.data_dir) for name in names[1:])])
        if not self.train_videos:
            return Videos(tables, ladder=self._ladder)
        return Videos(tables, tuple(names.index(name) for name in loaded), "generated" in self.train_videos)

    @cached_property
    def _tuned(self) -> tuple[float, float]:
        if not self._splits.val:
            return CAUTIOUS
        return tune(self.environment("val"), self.seeds("val"), self._mpc("template", 1, 1))

    def _mpc(self, name: str, scale: float, weight: float) -> Mpc:
        return Mpc(name, self._videos, self._qoe, scale, weight, self.temperature)

    @cached_property
    def _sets(self) -> dict[str, TraceSet]:
        by_split = {name: getattr(self._splits, name) for name in ("train", "val", "test")}
        return {name: join(traces, self.data.starts(traces, name)) for name, traces in by_split.items()}

    def _traces(self, split: Split) -> TraceSet:
        self._splits.of(split, self.data.name)  # says why there are none
        return self._sets[split]
