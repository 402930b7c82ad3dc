"""One's own job profiles: a folder of JSON files, one for each job, which is called by its file without `.json`.

    {"stages": {
        "scan":  {"tasks": 40, "durations_ms": [900, 1100, 1000]},
        "count": {"tasks": 8, "needs": ["scan"], "durations_ms": {
            "fresh": [700], "first": {"10": [400, 420], "50": [600]}, "rest": [90, 110, 95]}}
    }}

tasks         of the stage, at least 1
needs         the stages whose output it reads; left out: none
durations_ms  measured durations of tasks, of which the simulator draws: a list, or lists by wave (see profiles.py), of which
              `first` is needed. Without `fresh`, a fresh task takes as long as one of the first wave and the warm-up; without
              `rest`, every task is one of the first wave
a wave        a list, or lists by the number of executors that the job had: the simulator, which looks durations up for 5, 10,
              20, 40, 50, 60, 80 and 100 executors, takes for each the nearest number that was measured, of two the smaller
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.data.limits import LARGEST_FILE, LONGEST_MS, MOST_STAGES, MOST_TASKS, check_limits
from edgenetllm.tasks.cjs.simulator.profiles import LEVELS, Profile, Stage
from edgenetllm.reading import listed, plain, read_json, shown

NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"  # of a profile: it is typed in data.names and written in recorded lists
WAVES = ("fresh", "first", "rest")


def read_folder(folder: Path) -> list[Profile]:
    """The profiles in a folder, in the order of their names; hidden files are left out.

    Raises UserError that names the folder, or file and field, of what is not in the form above.
    """
    if not folder.is_dir():
        raise UserError(f"data.path={folder}: there is no such folder")
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in files:
        if path.suffix != ".json" or not path.is_file() or not re.fullmatch(NAME, path.stem):
            raise UserError(
                f"{path}: a job profile is a file NAME.json, its name of letters, digits and _ . + -; keep others elsewhere"
            )
    if not files:
        raise UserError(f"data.path={folder}: there is no job profile in it, a file NAME.json for each")
    return [read_profile(path) for path in files]


def read_profile(path: Path) -> Profile:
    """One file. Raises UserError as `read_folder` does."""
    content = read_json(path, LARGEST_FILE)
    try:
        profile = _profile(path, content)
        check_limits(profile)
        return profile
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


class _BadField(ValueError):
    """An error that names a field and what is wrong with it."""


def _profile(path: Path, content: Any) -> Profile:
    _check_keys(content, "the file", needed={"stages"})
    described = content["stages"]
    if not isinstance(described, Mapping) or not described:
        raise _BadField("stages: expected an object with at least one stage")
    if len(described) > MOST_STAGES:
        raise _BadField(f"stages: {len(described):,} of them; the most that is read are {MOST_STAGES:,}")
    numbers = {name: number for number, name in enumerate(described)}
    stages, needs = [], {}
    for name, fields in described.items():
        where = f"stages.{plain(name)}"
        _check_keys(fields, where, needed={"tasks", "durations_ms"}, optional={"needs"})
        stages.append(_stage(fields, where))
        needs[name] = _needs(fields.get("needs", []), f"{where}.needs", numbers)
    try:
        tuple(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise _BadField(f"its stages wait for each other in a circle: {listed(error.args[1], mark=' -> ')}") from None
    edges = tuple((numbers[before], numbers[name]) for name, waited in needs.items() for before in waited)
    return Profile(path.stem, str(path), tuple(stages), edges)


def _check_keys(value: Any, where: str, needed: Collection[str], optional: Collection[str] = ()) -> None:
    known = sorted({*needed, *optional})
    if not isinstance(value, Mapping):
        raise _BadField(f"{where}: expected an object with {', '.join(known)}")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key[:60], known, n=1, cutoff=0.5)
            raise _BadField(
                f"{where}: {shown(key)} is no key here, {', '.join(known)} are"
                + (f"; did you mean {near[0]}?" if near else "")
            )
    for key in needed:
        if key not in value:
            raise _BadField(f"{where}: {key} is missing")


def _needs(names: Any, where: str, known: Collection[str]) -> list[str]:
    if not isinstance(names, list):
        raise _BadField(f"{where}: expected a list of stages")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise _BadField(f"{where}: there is no stage {shown(name)}, but {listed(known)}")
        if name in seen:
            raise _BadField(f"{where}: {plain(name)} stands twice")
        seen.add(name)
    return names


def _stage(fields: Mapping[str, Any], where: str) -> Stage:
    tasks, durations = fields["tasks"], fields["durations_ms"]
    if type(tasks) is not int or not 1 <= tasks <= MOST_TASKS:
        raise _BadField(f"{where}.tasks: {shown(tasks)}, expected a whole number from 1 to {MOST_TASKS}")
    where += ".durations_ms"
    if isinstance(durations, list):
        table = _table(durations, where)
        tables = {"fresh": {}, "first": table, "rest": table}
    else:
        _check_keys(durations, where, needed={"first"}, optional=WAVES)
        tables = {wave: _table(durations[wave], f"{where}.{wave}") if wave in durations else {} for wave in WAVES}
    if not any(value for table in tables.values() for row in table.values() for value in row):
        raise _BadField(f"{where}: every duration is 0")
    return Stage(tasks, **tables)


def _table(wave: Any, where: str) -> dict[int, list[float]]:
    """Executor count of the simulator -> the list of the nearest measured count."""
    if isinstance(wave, list):
        row = _durations(wave, where)
        return dict.fromkeys(LEVELS, row)
    if not isinstance(wave, Mapping) or not wave:
        raise _BadField(f"{where}: expected a list of milliseconds, or lists by the number of executors")
    measured: dict[int, list[float]] = {}
    for executors, row in wave.items():
        if not re.fullmatch(r"[1-9][0-9]{0,6}", executors):
            raise _BadField(f"{where}: {shown(executors)} is no number of executors")
        measured[int(executors)] = _durations(row, f"{where}.{executors}")
    return {level: measured[min(sorted(measured), key=lambda count: abs(count - level))] for level in LEVELS}


def _durations(row: Any, where: str) -> list[float]:
    if not isinstance(row, list) or not row:
        raise _BadField(f"{where}: expected a list of milliseconds, at least one")
    for number, value in enumerate(row):
        if type(value) not in (int, float) or not 0 <= value <= LONGEST_MS:  # NaN is in no interval
            raise _BadField(
                f"{where}[{number}]: {shown(value)}, expected milliseconds: finite, not negative, at most {LONGEST_MS:.0f}"
            )
    return [float(value) for value in row]
