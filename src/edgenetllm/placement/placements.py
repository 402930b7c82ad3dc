"""Group `placement`: where the decisions of a run's model are made, and over which link; options of evaluation alone.

Each placement adds rows to a results table, one for each round trip time: `cloud_100ms` is the dense model, played with the
delay of a link of 100 ms. The other rows decide in no time, as the public protocols do.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Affects, Location
from edgenetllm.errors import UserError
from edgenetllm.option_types import NUMBER, CountOrZero, FolderPath, Seed, Text, listed
from edgenetllm.placement.link import Link, LinkTrace, link_trace
from edgenetllm.tasks.abr.data.readers import Format, read_folder
from edgenetllm.tasks.abr.data.sources import SOURCES
from edgenetllm.tasks.fetch import find

PUBLIC_LINKS = {"norway": "abr/norway/test", "fcc": "abr/fcc/test"}  # 3G, and broadband

ROW_DIGITS = ".10g"  # of a round trip time in the name of a row

Milliseconds = Annotated[float, Field(ge=0, lt=1e6), NUMBER]


def _distinct(values: list[float]) -> list[float]:
    if len({f"{value:{ROW_DIGITS}}" for value in values}) < len(values):
        raise ValueError("name each round trip time once")
    return values


RoundTrips = Annotated[
    list[Milliseconds],
    Field(min_length=1),
    BeforeValidator(listed, json_schema_input_type=Milliseconds | list[Milliseconds]),
    AfterValidator(_distinct),
]


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Placement:
    """No placement, and the base of the others: every decision takes effect at once."""

    name: Annotated[str, Affects("nothing")] = "none"  # of a class: rows are called by it

    @property
    def rtts_ms(self) -> list[float]:
        """Round trip times, a row for each; 0 where there is no link."""
        return []

    def row(self, rtt_ms: float) -> str:
        """The name of a row in results."""
        return f"{self.name}_{rtt_ms:{ROW_DIGITS}}ms"

    def fingerprint(self) -> str | None:
        """A hash of the link's traces; None without a link."""
        return None


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Shared(Placement):
    """Options that all placements have, so that one sweep sets them for all: the link, and the times of both engines.

    Each placement reads those that it needs; its row in results names them.
    """

    data_dir: Annotated[FolderPath, Location("data_dir")] = Path("data")
    traces: Text = "norway"  # norway, fcc, or a folder of traces under paths.data_dir
    format: Format = "cooked"  # of that folder
    rtt_ms: RoundTrips = Field(default_factory=lambda: [0.0, 50.0, 100.0, 200.0, 400.0])
    loss: Annotated[float, Field(ge=0, le=0.5), NUMBER] = 0.0  # probability that a packet is lost
    rto_ms: Milliseconds = 200.0  # waited beyond a round trip before a packet is sent again, doubled each time
    uplink: Annotated[float, Field(ge=1e-3, le=1e3), NUMBER] = 1.0  # bandwidth upwards, as a fraction of the trace's
    overhead_bytes: CountOrZero = 300  # of headers, per message
    seed: Seed = 0  # which trace each episode has, where it starts, what is lost
    cloud_ms: Milliseconds | None = None  # of a decision of the dense model; null: measured on this machine, in torch
    edge_ms: Milliseconds | None = None  # of a decision of the bundle; null: measured on this machine


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Edge(Shared):
    """All at the edge: the sparse bundle decides, and nothing is sent."""

    name: Annotated[Literal["edge"], Affects("nothing")] = "edge"

    @property
    def rtts_ms(self) -> list[float]:
        return [0.0]

    def row(self, rtt_ms: float) -> str:
        return self.name


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Linked(Shared):
    """A placement that sends something over the link."""

    @property
    def rtts_ms(self) -> list[float]:
        return self.rtt_ms

    def fingerprint(self) -> str | None:
        digest = hashlib.sha256()
        for trace in self.read():
            digest.update(trace.seconds.tobytes() + trace.megabits.tobytes())
        return digest.hexdigest()[:16]

    def read(self) -> list[LinkTrace]:
        """The traces. Raises UserError for a folder that is not there, damaged files, and traces that carry nothing."""
        if self.traces in PUBLIC_LINKS:
            name = PUBLIC_LINKS[self.traces]
            folder, skip = find(self.data_dir / name, SOURCES[name]), SOURCES[name].damaged
        else:
            folder, skip = self.data_dir / self.traces, ()
            if not folder.is_dir():
                raise UserError(
                    f"placement.traces={self.traces}: there is no folder {folder}; there are {', '.join(PUBLIC_LINKS)}, and "
                    "folders of traces under paths.data_dir"
                )
        traces = read_folder(folder, self.format if self.traces not in PUBLIC_LINKS else "cooked", skip)
        return [link_trace(trace, f"placement.traces={self.traces}") for trace in traces]

    def link(self, rtt_ms: float, traces: list[LinkTrace]) -> Link:
        """The link of this round trip time."""
        return Link(
            traces,
            rtt_ms,
            loss=self.loss,
            rto_ms=self.rto_ms,
            uplink=self.uplink,
            overhead_bytes=self.overhead_bytes,
            seed=self.seed,
        )


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Cloud(Linked):
    """All in the cloud: the observation goes up, the dense model decides, the action comes down."""

    name: Annotated[Literal["cloud"], Affects("nothing")] = "cloud"


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Split(Linked):
    """Encoder and head at the edge, the dense backbone in the cloud: tokens go up, a hidden state comes down.

    `cloud_ms` is the time of both halves together.
    """

    name: Annotated[Literal["split"], Affects("nothing")] = "split"


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Adaptive(Linked):
    """The bundle decides at the edge; where its guard is unsure and the link allows, the dense model in the cloud is asked.

    The link allows where the answer would be there within `deadline_ms` if the bandwidth stayed as it is and nothing was
    lost; an answer that is not there by then is not waited for.
    """

    name: Annotated[Literal["adaptive"], Affects("nothing")] = "adaptive"
    deadline_ms: Annotated[float, Field(gt=0, lt=1e6), NUMBER] = 300.0
    ask: Literal["outside", "always"] = "outside"  # of its guard's range; always: whenever the link allows
