"""Bandwidth traces from files. What is not understood is refused, with file, line and what to type."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.columns import Columns, Typed, choose
from edgenetllm.tasks.abr.data.public_logs import is_hsdpa, read_gnettrack, read_hsdpa
from edgenetllm.tasks.abr.data.rows import Sample, checked, date_s, is_number, number, refuse, text_lines, ticks_per_second
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.abr.data.units import PER_SECOND, rate_unit, time_unit

Format = Literal["cooked", "mahimahi", "csv", "hsdpa", "gnettrack"]
PACKET_BITS = 1500 * 8
FEWEST_COUNTED = 6  # values that never fall: fewer of them may do so by chance
BY_CONVENTION = "seconds, Mbps"

Row = tuple[int, list[str]]  # line number from 1, and values


def read_folder(
    folder: Path, format: Format = "cooked", skip: Sequence[str] = (), typed: Typed | None = None
) -> list[Trace]:
    """Every file of a folder but those of `skip`, sorted by name. Raises UserError for an empty folder or a bad file."""
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".") and path.name not in skip
    )
    if not files:
        raise UserError(f"{folder} holds no traces")
    return [read(path, format, typed or Typed()) for path in files]


def read(path: Path, format: Format, typed: Typed) -> Trace:
    """A trace from a file of this format; only `cooked` and `csv` have use for what was typed of columns and units."""
    if format == "cooked":
        return read_cooked(path, typed)
    if format == "csv":
        return read_csv(path, typed)
    return {"mahimahi": read_mahimahi, "hsdpa": read_hsdpa, "gnettrack": read_gnettrack}[format](path)


def read_cooked(path: Path, typed: Typed | None = None) -> Trace:
    """`seconds Mbps` per line, white space between (Pensieve's form); lines that start with # are comments."""
    typed = typed or Typed()
    rows: list[Row] = []
    for line, text in enumerate(text_lines(path), 1):
        if text.lstrip().startswith("#"):
            _check_comment(path, line, text, typed)
        elif fields := text.split():
            rows.append((line, fields))
    return _two_columns(path, rows, typed, "cooked")


def read_csv(path: Path, typed: Typed | None = None) -> Trace:
    """Columns between commas, semicolons or tabs. A header says which is which; without one there are two, `seconds,Mbps`.

    The unit of the clock and of the bandwidth is read from the names of the columns, see columns.py; ISO dates and
    numbers since 1970 need none. A bandwidth holds since the row above, and so does an amount such as bytes.
    """
    typed = typed or Typed()
    header, rows = _split_csv(path)
    if header is None:
        if typed.column or typed.time_column:
            raise UserError(f"{path} has no header, so that data.column and data.time_column name nothing")
        return _two_columns(path, rows, typed, "csv")
    line, names = header
    if len(names) == 1:
        hint = _suggestion(names, "csv")
        refuse(path, line, f"a single column; columns stand between commas, semicolons or tabs{hint}")
    try:
        columns = choose(names, typed)
    except ValueError as error:
        refuse(path, line, f"{error}{_suggestion(names, 'csv')}")
    for row, cells in rows:
        if len(cells) != len(names):
            comma = " (decimal commas are not read)" if len(cells) > len(names) else ""
            refuse(path, row, f"{len(cells)} values under {len(names)} column names{comma}")
    return _from_columns(path, names, columns, rows, typed)


def read_mahimahi(path: Path, bin_s: float = 1.0) -> Trace:
    """One millisecond stamp per 1500-byte packet, ascending; turned into the mean rate of bins of `bin_s` seconds.

    As in mm-link (github.com/ravinet/mahimahi, src/frontend/link_queue.cc), time starts at 0, not at the first stamp, and
    the file repeats after its last stamp. A packet belongs to the time before its stamp, those at 0 to the first bin.
    """
    # Read the stamps and check each.
    stamps: list[int] = []
    for row, line in enumerate(text_lines(path), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not (text.isascii() and text.isdigit()):
            hint = _suggestion(text.split(), "mahimahi")
            refuse(path, row, f"{text[:40]!r} is not a whole number of milliseconds{hint}")
        if stamps and int(text) < stamps[-1]:
            refuse(path, row, f"the time stamps go backwards ({text} after {stamps[-1]})")
        stamps.append(int(text))
    # Check the trace as a whole.
    if not stamps:
        raise UserError(f"{path} is empty")
    if stamps[-1] == 0:
        raise UserError(f"{path}: all time stamps are 0, the trace has no length")
    if stamps[0] >= 1e11:
        raise UserError(f"{path}: the stamps are dates; mm-link counts milliseconds since the start of the trace")
    # Count packets in bins; the last bin may be shorter.
    end_ms, bin_ms = stamps[-1], bin_s * 1000
    edges_ms = np.append(np.arange(0, end_ms, bin_ms), end_ms)
    if len(edges_ms) > 2 and edges_ms[-1] - edges_ms[-2] < bin_ms / 2:  # too short to be a rate of its own
        edges_ms = np.delete(edges_ms, -2)
    bins = np.maximum(np.searchsorted(edges_ms, stamps, side="left"), 1) - 1
    packets = np.bincount(bins, minlength=len(edges_ms) - 1)
    mbps = packets * PACKET_BITS / np.diff(edges_ms) / 1e3
    return Trace(path.name, edges_ms / 1000, np.concatenate([mbps[:1], mbps]))


def _two_columns(path: Path, rows: Sequence[Row], typed: Typed, format: Format) -> Trace:
    """Rows of exactly two numbers: a clock and a bandwidth, seconds and Mbps unless their units were typed."""
    for line, fields in rows:
        if len(fields) != 2 or not all(map(is_number, fields)):
            decimal = any(re.fullmatch(r"[+-]?\d+,\d+", field) for field in fields)
            comma = " (decimal commas and thousands separators are not read)" if decimal else ""
            actual = f"found {len(fields)}: {' '.join(fields)[:60]!r}"
            refuse(path, line, f"expected two numbers, {BY_CONVENTION}, {actual}{comma}{_suggestion(fields, format)}")
    unit = rate_unit(typed.unit or "Mbps")
    assert unit is not None  # what was typed is checked where it is typed
    columns = Columns(0, 1, typed.time_unit or "s", unit)
    names = ["clock", "rate"]
    return _from_columns(path, names, columns, rows, typed, headed=False)


def _from_columns(
    path: Path, names: Sequence[str], columns: Columns, rows: Sequence[Row], typed: Typed, headed: bool = True
) -> Trace:
    """The trace of a clock and a bandwidth, each in its unit. Raises UserError with file and line."""
    times, shown = _times(path, columns, rows, guessable=not (headed or typed.time_unit))
    values = _numbers(path, columns.rate, rows)
    reading = f"{names[columns.clock]} in {shown}, {names[columns.rate]} in {columns.unit.text}"
    if columns.unit.amount:
        _refuse_totals(path, names[columns.rate], values, typed)
        values = _per_second(times, values)
        reading += " since the row above"
    samples = [
        Sample(line, time_s, value * columns.unit.megabits)
        for (line, _), time_s, value in zip(rows, times, values, strict=True)
    ]
    by_convention = not headed and typed == Typed() and shown == "s"
    return checked(path, samples, "" if by_convention else reading)


def _times(path: Path, columns: Columns, rows: Sequence[Row], guessable: bool) -> tuple[list[float], str]:
    """The clock of each row in seconds, and what it was read as. Raises UserError as `ticks_per_second` does."""
    if not rows:
        return [], "s"
    first = rows[0][1][columns.clock]
    if not is_number(first) and date_s(first) is not None:
        dates = [(line, cells[columns.clock], date_s(cells[columns.clock])) for line, cells in rows]
        for line, text, seconds in dates:
            if seconds is None:
                refuse(path, line, f"{text[:40]!r} is not a date, as the row above has")
        return [seconds for _, _, seconds in dates if seconds is not None], "dates"
    clock = _numbers(path, columns.clock, rows)
    per_second = ticks_per_second(path, rows[0][0], clock[0], columns.time_unit, guessable)
    shown = next(unit for unit, ticks in PER_SECOND.items() if ticks == per_second)
    return [value / per_second for value in clock], shown


def _numbers(path: Path, column: int, rows: Sequence[Row]) -> list[float]:
    """A column as finite numbers. Raises UserError with file and line."""
    values = []
    for line, cells in rows:
        try:
            values.append(number(cells[column]))
        except ValueError as error:
            refuse(path, line, str(error))
    return values


def _per_second(times: Sequence[float], amounts: Sequence[float]) -> list[float]:
    """Amounts over the time since the row above; the first row, of which that is not known, repeats the second."""
    gaps = [now - before for before, now in pairwise(times)]
    rates = [amount / gap if gap > 0 else amount for amount, gap in zip(amounts[1:], gaps, strict=True)]
    return [*(rates[:1] or amounts[:1]), *rates]


def _refuse_totals(path: Path, name: str, amounts: Sequence[float], typed: Typed) -> None:
    """Raises UserError where amounts never fall, as in a counter since the start, unless their unit was typed."""
    rising = all(before <= now for before, now in pairwise(amounts))
    if rising and len(set(amounts)) >= FEWEST_COUNTED and typed.unit is None:
        raise UserError(
            f"{path}: {name} never falls, so that it may count since the start; write the amount of each row, "
            "or type data.unit=bytes (kB, MB) where it is that already"
        )


def _split_csv(path: Path) -> tuple[Row | None, list[Row]]:
    """Header, if there is one, and rows, without blank lines and comments. A comment above the rows may be the header."""
    lines, comment = text_lines(path), None
    first = next((text for text in lines if text.strip() and not text.lstrip().startswith("#")), "")
    unquoted = re.sub(r'"[^"]*"', "", first)
    delimiter = next((mark for mark in (";", "\t") if mark in unquoted), ",")
    rows: list[Row] = []
    try:
        parsed = csv.reader(lines, delimiter=delimiter, strict=True)
        for fields in parsed:
            cells = [cell.strip() for cell in fields]
            if cells and cells[0].startswith("#"):
                comment = comment if rows else (parsed.line_num, [cells[0].lstrip("# "), *cells[1:]])
            elif any(cells):
                rows.append((parsed.line_num, cells))
    except csv.Error as error:
        refuse(path, parsed.line_num, f"not a CSV ({error})")
    if rows and not any(map(is_number, rows[0][1])):
        return rows[0], rows[1:]
    named = comment and rows and len(comment[1]) == len(rows[0][1]) > 1 and not any(map(is_number, comment[1]))
    return (comment if named else None), rows


def _check_comment(path: Path, line: int, text: str, typed: Typed) -> None:
    """Raises UserError where a comment of two words names other units than the convention's, and none were typed."""
    names = text.lstrip("# \t").split()
    if len(names) != 2 or typed.unit or typed.time_unit:
        return
    clock, rate = time_unit(names[0]), rate_unit(names[1])
    if (clock or "s") != "s" or (rate is not None and (rate.megabits, rate.amount) != (1.0, False)):
        units = f"data.time_unit={clock or 's'} data.unit={rate.text if rate else 'Mbps'}"
        refuse(path, line, f"the comment names other units than {BY_CONVENTION}: type {units}")


def _suggestion(fields: Sequence[str], format: Format) -> str:
    """The words to type where the values of a line look like those of another format; empty where they do not."""
    text = " ".join(fields)
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    numbers = all(map(is_number, words))
    looks_like = {
        "hsdpa: raw logs of the HSDPA (3G) set of Norway and the 4G set of Ghent": is_hsdpa(words),
        "gnettrack: logs of the 4G and 5G sets of UCC": "DL_bitrate" in words,
        "csv: columns between commas, semicolons or tabs, with names in a header": bool(re.search("[,;]", text)),
        "cooked: `seconds Mbps` between spaces": numbers and len(words) == 2,
        "mahimahi: one time stamp a line": numbers and len(words) == 1 and words[0].isdigit(),
    }
    for description, likely in looks_like.items():
        name, holds = description.split(": ", 1)
        if likely and name != format:
            return f"; this looks like data.format={name} ({holds})"
    if len(fields) > 2 or not numbers:
        return "; data.format=csv reads columns whose names stand in a header" if format != "csv" else ""
    return ""
