"""Bandwidth traces from files. What is not understood is refused, with file, line and what to type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.columns import Columns, Typed, choose
from edgenetllm.tasks.abr.data.csv_rows import Row, split_csv
from edgenetllm.tasks.abr.data.limits import text_lines
from edgenetllm.tasks.abr.data.mahimahi import read_mahimahi
from edgenetllm.tasks.abr.data.public_logs import read_gnettrack, read_hsdpa
from edgenetllm.tasks.abr.data.rows import Sample, checked, date_s, is_number, number, refuse, ticks_per_second, within_rows
from edgenetllm.tasks.abr.data.suggestion import suggestion
from edgenetllm.tasks.abr.data.traces import Trace
from edgenetllm.tasks.abr.data.units import PER_SECOND, rate_unit, time_unit
from edgenetllm.reading import plain, shown

Format = Literal["cooked", "mahimahi", "csv", "hsdpa", "gnettrack"]
FEWEST_COUNTED = 6  # values that never fall: fewer of them may do so by chance
BY_CONVENTION = "seconds, Mbps"


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
    return _two_columns(path, _cooked_rows(path, typed), typed, "cooked")


def read_csv(path: Path, typed: Typed | None = None) -> Trace:
    """Columns between commas, semicolons or tabs. A header says which is which; without one there are two, `seconds,Mbps`.

    The unit of the clock and of the bandwidth is read from the names of the columns, see columns.py; ISO dates and
    numbers since 1970 need none. A bandwidth holds since the row above, and so does an amount such as bytes.
    """
    typed = typed or Typed()
    header, rows = split_csv(path)
    if header is None:
        if typed.column or typed.time_column:
            raise UserError(f"{path} has no header, so that data.column and data.time_column name nothing")
        return _two_columns(path, rows, typed, "csv")
    line, names = header
    if len(names) == 1:
        hint = suggestion(names, "csv")
        refuse(path, line, f"a single column; columns stand between commas, semicolons or tabs{hint}")
    try:
        columns = choose(names, typed)
    except ValueError as error:
        refuse(path, line, f"{error}{suggestion(names, 'csv')}")
    # Of every row only the two columns are kept.
    used: list[Row] = []
    for row, cells in within_rows(path, rows):
        if len(cells) != len(names):
            comma = " (decimal commas are not read)" if len(cells) > len(names) else ""
            refuse(path, row, f"{len(cells)} values under {len(names)} column names{comma}")
        used.append((row, [cells[columns.clock], cells[columns.rate]]))
    names = [plain(names[columns.clock], 40), plain(names[columns.rate], 40)]
    return _from_columns(path, names, columns._replace(clock=0, rate=1), used, typed)


def _cooked_rows(path: Path, typed: Typed) -> Iterator[Row]:
    for line, text in enumerate(text_lines(path), 1):
        if text.lstrip().startswith("#"):
            _check_comment(path, line, text, typed)
        elif fields := text.split():
            yield line, fields


def _two_columns(path: Path, rows: Iterable[Row], typed: Typed, format: Format) -> Trace:
    """Rows of exactly two numbers: a clock and a bandwidth, seconds and Mbps unless their units were typed."""
    used: list[Row] = []
    for line, fields in within_rows(path, rows):
        if len(fields) != 2 or not all(map(is_number, fields)):
            decimal = any(re.fullmatch(r"[+-]?\d+,\d+", field) for field in fields)
            comma = " (decimal commas and thousands separators are not read)" if decimal else ""
            actual = f"found {len(fields)}: {shown(' '.join(fields[:60]))}"
            refuse(path, line, f"expected two numbers, {BY_CONVENTION}, {actual}{comma}{suggestion(fields, format)}")
        used.append((line, fields))
    unit = rate_unit(typed.unit or "Mbps")
    assert unit is not None  # what was typed is checked where it is typed
    columns = Columns(0, 1, typed.time_unit or "s", unit)
    names = ["clock", "rate"]
    return _from_columns(path, names, columns, used, typed, headed=False)


def _from_columns(
    path: Path, names: Sequence[str], columns: Columns, rows: Sequence[Row], typed: Typed, headed: bool = True
) -> Trace:
    """The trace of a clock and a bandwidth, each in its unit. Raises UserError with file and line."""
    times, clock_unit = _times(path, columns, rows, guessable=not (headed or typed.time_unit))
    values = _numbers(path, columns.rate, rows)
    reading = f"{names[columns.clock]} in {clock_unit}, {names[columns.rate]} in {columns.unit.text}"
    if columns.unit.amount:
        _refuse_totals(path, names[columns.rate], values, typed)
        values = _per_second(times, values)
        reading += " since the row above"
    samples = [
        Sample(line, time_s, value * columns.unit.megabits)
        for (line, _), time_s, value in zip(rows, times, values, strict=True)
    ]
    by_convention = not headed and typed == Typed() and clock_unit == "s"
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
                refuse(path, line, f"{shown(text, 40)} is not a date, as the row above has")
        return [seconds for _, _, seconds in dates if seconds is not None], "dates"
    clock = _numbers(path, columns.clock, rows)
    per_second = ticks_per_second(path, rows[0][0], clock[0], columns.time_unit, guessable)
    unit = next(unit for unit, ticks in PER_SECOND.items() if ticks == per_second)
    return [value / per_second for value in clock], unit


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


def _check_comment(path: Path, line: int, text: str, typed: Typed) -> None:
    """Raises UserError where a comment of two words names other units than the convention's, and none were typed."""
    names = text.lstrip("# \t").split()
    if len(names) != 2 or typed.unit or typed.time_unit:
        return
    clock, rate = time_unit(names[0]), rate_unit(names[1])
    if (clock or "s") != "s" or (rate is not None and (rate.megabits, rate.amount) != (1.0, False)):
        units = f"data.time_unit={clock or 's'} data.unit={rate.text if rate else 'Mbps'}"
        refuse(path, line, f"the comment names other units than {BY_CONVENTION}: type {units}")
