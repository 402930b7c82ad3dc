"""The public recordings as arrays: found in a folder or in one archive below `paths.data_dir`, else fetched and checked."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.archive import BadArchive, wanted_members
from edgenetllm.tasks.fetch import Source, find, hash_of_files
from edgenetllm.tasks.supervised.data.windows import Recording
from edgenetllm.tasks.task import SPLITS, Split
from edgenetllm.tasks.vp.data.sources import PUBLIC, source_of

ARCHIVE = "viewports.tar.xz"  # of both sets, each in a folder of its name
AXES = ("roll", "pitch", "yaw")


def read_public(name: str, data_dir: Path) -> dict[Split, list[Recording]]:
    """The recordings of a public set by split, (rows, roll pitch yaw) in degrees.

    Raises UserError when they can neither be found nor fetched, are not the published ones, or hold no numbers.
    """
    folder, archive = data_dir / "vp" / name, data_dir / "vp" / ARCHIVE
    source = source_of(name)
    if not folder.is_dir() and archive.is_file():
        files, where = _unpacked(archive, name, source), archive
    else:
        where = find(folder, source)
        files = {file: (folder / file).read_bytes() for file in source.names}
    return {
        split: [_recording(file, files[file], where) for file in PUBLIC[name].files(split)] for split in SPLITS
    }


def _unpacked(archive: Path, name: str, source: Source) -> Mapping[str, bytes]:
    """The files of a set in the archive, checked like those of a folder."""
    wanted = {f"{name}/{file}": file for file in source.names}
    try:
        files = dict(wanted_members(archive, lambda inside: wanted.get(str(PurePosixPath(inside)))))
    except BadArchive as error:
        raise UserError(f"{archive} is not a readable archive: {error}") from None
    if hash_of_files(sorted(files.items())) != source.sha256:
        raise UserError(
            f"{archive} does not hold the published recordings of {name}: {len(files)} of {source.files} files; "
            "delete it to fetch them"
        )
    return files


def _recording(file: str, content: bytes, where: Path) -> Recording:
    """One recording of `time,roll,pitch,yaw`. Its clock is not read: rows are evenly spaced, as the public protocol has it."""
    try:
        rows = np.loadtxt(io.BytesIO(content), delimiter=",", ndmin=2)
    except ValueError as error:
        raise UserError(f"{where}: {file}: {error}") from None
    if rows.shape[1] != 1 + len(AXES) or not np.isfinite(rows).all():
        raise UserError(f"{where}: {file}: {rows.shape[1]} columns of numbers, not time, {', '.join(AXES)}")
    video, _, viewer = file.partition("/")
    return Recording(f"{video}/{viewer.rpartition('_')[2].removesuffix('.csv')}", np.ascontiguousarray(rows[:, 1:]))
