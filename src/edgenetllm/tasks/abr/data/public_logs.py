"""Raw logs of public measurement studies: HSDPA (3G) of Norway, 4G of Ghent, 4G and 5G of Cork (UCC)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import isfinite
from pathlib import Path

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.csv_rows import csv_cells
from edgenetllm.tasks.abr.data.limits import text_lines
from edgenetllm.tasks.abr.data.rows import Sample, checked, date_s, is_number, number, refuse, within_rows
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.abr.data.units import epoch_unit
from edgenetllm.reading import shown

HSDPA_COLUMNS = "time since 1970, milliseconds, latitude, longitude, bytes, milliseconds since the row above"
GAP_MS = 10  # the two clocks of a row may differ by so much


def is_hsdpa(fields: Sequence[str]) -> bool:
    """True where these values can be a row of a raw HSDPA log."""
    if len(fields) != 6 or not all(is_number(field) and isfinite(float(field)) for field in fields):
        return False
    since_1970, _, latitude, longitude, received, lasted_ms = map(float, fields)
    place = abs(latitude) <= 90 and abs(longitude) <= 180
    return epoch_unit(since_1970) in ("s", "ms") and place and received >= 0 and lasted_ms >= 0


def read_hsdpa(path: Path) -> Trace:
    """A log with the six columns of the Norwegian HSDPA set: bytes received and the milliseconds that they took.

    Riiser et al., "Commute path bandwidth traces from 3G networks" (MMSys 2013), https://datasets.simula.no/hsdpa-tcp-logs:
    column 1 counts seconds since 1970, column 2 milliseconds since any start, 3 and 4 are the place, column 5 counts the
    bytes since the row above and column 6 the milliseconds. The 4G logs of Ghent (van der Hooft et al., IEEE
    Communications Letters 2016, https://users.ugent.be/~jvdrhoof/dataset-4g) differ in column 1, which is in
    milliseconds. The first row only starts the clock. Time between rows that column 6 does not cover was not measured:
    it is left out, and the trace says so. Raises UserError for anything else, with file and line.
    """
    samples: list[Sample] = []
    clock_ms = elapsed_ms = 0.0
    gaps = 0
    for line, fields in within_rows(path, _fields(path)):
        if not is_hsdpa(fields):
            actual = shown(" ".join(fields[:60]))
            refuse(path, line, f"data.format=hsdpa has six columns ({HSDPA_COLUMNS}), found {actual}")
        now_ms, received, lasted_ms = float(fields[1]), float(fields[4]), float(fields[5])
        if samples:
            passed_ms = now_ms - clock_ms
            if lasted_ms <= 0 or passed_ms < lasted_ms - max(GAP_MS, 0.02 * lasted_ms):
                refuse(path, line, f"{lasted_ms:g} ms since the row above, but its clock advances by {passed_ms:g} ms")
            gaps += passed_ms > lasted_ms + max(GAP_MS, 0.02 * lasted_ms)
            elapsed_ms += lasted_ms
        samples.append(Sample(line, elapsed_ms / 1e3, received * 8 / (lasted_ms * 1e3) if lasted_ms else 0.0))
        clock_ms = now_ms
    if not samples:
        raise UserError(f"{path} is empty")
    return checked(path, samples, "bytes over the milliseconds of each row", _unmeasured(gaps))


def read_gnettrack(path: Path) -> Trace:
    """A log of the app G-NetTrack Pro: the clock is `Timestamp`, the bandwidth `DL_bitrate` in kbps.

    This is the form of the public 4G and 5G sets of University College Cork: Raca et al., "Beyond throughput: a 4G LTE
    dataset" (MMSys 2018) and "Beyond throughput, the next generation: a 5G dataset" (MMSys 2020),
    github.com/uccmisl/5Gdataset. Stamps such as 2019.12.16_13.40.04 have whole seconds: rows of the same second are one
    sample, their mean. A row whose DL_bitrate is `-` is left out. `State` is I where nothing was being downloaded; such
    rows stay, as in published uses of the sets, and the trace says so. Raises UserError with file and line.
    """
    # The columns.
    lines = text_lines(path)
    first = next(lines, "")
    rows = csv_cells(path, chain([first], lines), "\t" if "\t" in first else ",", strict=False)
    _, header = next(rows, (1, []))
    if not {"Timestamp", "DL_bitrate"} <= set(header):
        refuse(path, 1, "data.format=gnettrack needs a header with the columns Timestamp and DL_bitrate")
    clock, rate = header.index("Timestamp"), header.index("DL_bitrate")
    state = header.index("State") if "State" in header else None

    # Every second with its rates, in the order of the file.
    seconds: dict[float, tuple[int, list[float]]] = {}
    idle = missing = 0
    for line, cells in within_rows(path, rows):
        if len(cells) != len(header):
            refuse(path, line, f"{len(cells)} values under {len(header)} column names")
        if cells[rate] == "-":
            missing += 1
            continue
        time_s = date_s(cells[clock])
        if time_s is None:
            refuse(path, line, f"{shown(cells[clock], 40)} is not a time stamp such as 2019.12.16_13.40.04")
        try:
            kbps = number(cells[rate])
        except ValueError as error:
            refuse(path, line, f"DL_bitrate: {error}")
        if seconds and time_s < (last := next(reversed(seconds))):
            refuse(path, line, f"the time does not advance ({last - time_s:g} s back)")
        seconds.setdefault(time_s, (line, []))[1].append(kbps)
        idle += state is not None and cells[state] == "I"
    # The mean of every second, and what the reader should know of the file.
    samples = [Sample(line, time_s, sum(rates) / len(rates) / 1e3) for time_s, (line, rates) in seconds.items()]
    cautions = [
        "the rate of rows while nothing was being downloaded (State is I) is not what the link could carry"
        * bool(idle),
        "rows without a DL_bitrate are left out" * bool(missing),
    ]
    return checked(path, samples, "Timestamp, and DL_bitrate in kbps", "; ".join(filter(None, cautions)))


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row, without blank lines and comments."""
    numbered = ((row, line.replace(",", " ").split()) for row, line in enumerate(text_lines(path), 1))
    return ((row, fields) for row, fields in numbered if fields and not fields[0].startswith("#"))


def _unmeasured(gaps: int) -> str:
    return "time that no row covers is left out" if gaps else ""
