"""Traces in the form of Mahimahi: when the link can carry a packet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.reading import read_lines, shown
from edgenetllm.tasks.abr.data.limits import LARGEST_PACKET_FILE, check_duration, check_rows, within_limits
from edgenetllm.tasks.abr.data.rows import refuse
from edgenetllm.tasks.abr.data.suggestion import suggestion
from edgenetllm.tasks.abr.data.traces import Trace

PACKET_BITS = 1500 * 8
DIGITS = 18  # of a stamp: more is no time that fits 64 bits


def read_mahimahi(path: Path, bin_s: float = 1.0) -> Trace:
    """One millisecond stamp per 1500-byte packet, ascending; turned into the mean rate of bins of `bin_s` seconds.

    As in mm-link (github.com/ravinet/mahimahi, src/frontend/link_queue.cc), time starts at 0, not at the first stamp, and
    the file repeats after its last stamp. A packet belongs to the time before its stamp, those at 0 to the first bin.
    """
    # Count packets in bins.
    bin_ms, end_ms = bin_s * 1000, 0
    packets: list[int] = []
    for stamp in _stamps(path):
        last = max(int(-(-stamp // bin_ms)), 1)  # number of bins until this stamp
        if last > len(packets):
            check_duration(path, stamp / 1000)
            check_rows(path, last)
            packets += [0] * (last - len(packets))
        packets[-1] += 1
        end_ms = stamp
    if not packets:
        raise UserError(f"{path} is empty")
    if end_ms == 0:
        raise UserError(f"{path}: all time stamps are 0, the trace has no length")
    # The last bin may be shorter; one that is too short to be a rate of its own is part of the one before.
    edges_ms = np.append(np.arange(len(packets)) * bin_ms, end_ms)
    if len(packets) > 1 and edges_ms[-1] - edges_ms[-2] < bin_ms / 2:
        edges_ms = np.delete(edges_ms, -2)
        packets[-2:] = [packets[-2] + packets[-1]]
    mbps = np.array(packets) * PACKET_BITS / np.diff(edges_ms) / 1e3
    return within_limits(path, Trace(path.name, edges_ms / 1000, np.concatenate([mbps[:1], mbps])))


def _stamps(path: Path) -> Iterator[int]:
    """The stamps in milliseconds, ascending. Raises UserError with file and line for anything else."""
    last = -1
    for row, line in enumerate(read_lines(path, LARGEST_PACKET_FILE), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not (text.isascii() and text.isdigit() and len(text) <= DIGITS):
            hint = suggestion(text.split(), "mahimahi")
            refuse(path, row, f"{shown(text, 40)} is not a whole number of milliseconds{hint}")
        stamp = int(text)
        if stamp < last:
            refuse(path, row, f"the time stamps go backwards ({stamp} after {last})")
        if last < 0 and stamp >= 1e11:
            raise UserError(f"{path}: the stamps are dates; mm-link counts milliseconds since the start of the trace")
        last = stamp
        yield stamp
