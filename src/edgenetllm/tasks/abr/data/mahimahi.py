"""Traces in the form of Mahimahi: when the link can carry a packet."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.limits import check_duration, check_rows, text_lines, within_limits
from edgenetllm.tasks.abr.data.rows import refuse
from edgenetllm.tasks.abr.data.suggestion import suggestion
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.reading import shown

PACKET_BITS = 1500 * 8
DIGITS = 18  # of a stamp: more is no time that fits 64 bits


def read_mahimahi(path: Path, bin_s: float = 1.0) -> Trace:
    """One millisecond stamp per 1500-byte packet, ascending; turned into the mean rate of bins of `bin_s` seconds.

    As in mm-link (github.com/ravinet/mahimahi, src/frontend/link_queue.cc), time starts at 0, not at the first stamp, and
    the file repeats after its last stamp. A packet belongs to the time before its stamp, those at 0 to the first bin.
    """
    stamps = _stamps(path)
    # Count packets in bins; the last bin may be shorter.
    end_ms, bin_ms = int(stamps[-1]), bin_s * 1000
    check_duration(path, end_ms / 1000)
    check_rows(path, int(end_ms / bin_ms))
    edges_ms = np.append(np.arange(0, end_ms, bin_ms), end_ms)
    if len(edges_ms) > 2 and edges_ms[-1] - edges_ms[-2] < bin_ms / 2:  # too short to be a rate of its own
        edges_ms = np.delete(edges_ms, -2)
    bins = np.maximum(np.searchsorted(edges_ms, stamps, side="left"), 1) - 1
    packets = np.bincount(bins, minlength=len(edges_ms) - 1)
    mbps = packets * PACKET_BITS / np.diff(edges_ms) / 1e3
    return within_limits(path, Trace(path.name, edges_ms / 1000, np.concatenate([mbps[:1], mbps])))


def _stamps(path: Path) -> np.ndarray:
    """The stamps in milliseconds, (packets,). Raises UserError with file and line, and for a trace without length."""
    stamps = array("q")
    last = 0
    for row, line in enumerate(text_lines(path), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not (text.isascii() and text.isdigit() and len(text) <= DIGITS):
            hint = suggestion(text.split(), "mahimahi")
            refuse(path, row, f"{shown(text, 40)} is not a whole number of milliseconds{hint}")
        stamp = int(text)
        if stamp < last:
            refuse(path, row, f"the time stamps go backwards ({stamp} after {last})")
        last = stamp
        stamps.append(stamp)
    if not stamps:
        raise UserError(f"{path} is empty")
    if stamps[-1] == 0:
        raise UserError(f"{path}: all time stamps are 0, the trace has no length")
    if stamps[0] >= 1e11:
        raise UserError(f"{path}: the stamps are dates; mm-link counts milliseconds since the start of the trace")
    return np.array(stamps, np.int64)
