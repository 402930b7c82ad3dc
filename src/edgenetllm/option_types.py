"""The types of options, each with the values that it accepts, so that checks, error sentences and schema say the same.

A range stands in the annotation of an option and nowhere else:

    batch_size: Count
    lr: LearningRate
    loss: Annotated[float, Field(ge=0, le=0.5), NUMBER]
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, WithJsonSchema

from edgenetllm.disk import FAILING, FULL

LARGEST = 10**9  # of any count: beyond it stands a slip of the finger, and memory that no machine has
FOLDER_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
TYPED = "typed"  # the context of a value that was typed for this very command
LONGEST_PATH = 4095  # bytes, of Linux
LONGEST_NAME = 255  # bytes, of a file or folder
# Of paths this module asks os.path: where a folder may not be searched, pathlib raises PermissionError instead of saying no.


def _no_truth_value(value: Any) -> Any:
    """Raises ValueError for true and false, which Python counts as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")
    return value


def _folder_name(value: str) -> str:
    """Raises ValueError for a name that cannot be a part of a folder's."""
    if not re.fullmatch(FOLDER_NAME, value):
        raise ValueError("names of folders are made of it: use letters, digits and ._+- only")
    return value


NUMBER = BeforeValidator(_no_truth_value)  # the last annotation of every number, after its range

# Numbers. A range of two ends also keeps out infinity and NaN.
Count = Annotated[int, Field(ge=1, le=LARGEST), NUMBER]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST), NUMBER]
Processes = Annotated[int, Field(ge=1, le=10_000), NUMBER]  # or threads, devices, machines
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), NUMBER]  # what the generators of numpy, torch and Lightning all take
Positive = Annotated[float, Field(gt=0, le=LARGEST), NUMBER]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST), NUMBER]
Fraction = Annotated[float, Field(gt=0, le=1), NUMBER]
FractionOrZero = Annotated[float, Field(ge=0, le=1), NUMBER]
LearningRate = Annotated[float, Field(gt=0, le=100), NUMBER]

Text = Annotated[str, Field(min_length=1)]
Backend = Literal["joblib", "ray"]  # where pieces of work are computed
FolderName = Annotated[
    str, AfterValidator(_folder_name), WithJsonSchema({"type": "string", "pattern": f"^{FOLDER_NAME}$"})
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def listed(value: Any) -> Any:
    """A list of the one value that was typed."""
    return [value] if isinstance(value, str | int | float) else value


# Paths.
def _usable(value: Any) -> Any:
    """Raises ValueError for a path that no file can have; of what lies there nothing is asked."""
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    if not text.strip():
        raise ValueError("give a path")
    if "\0" in text:
        raise ValueError("a path holds no NUL byte")
    if len(os.fsencode(text)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in text.split("/")):
        raise ValueError("the path is longer than a file system takes")
    return value


def _problem_of_folder(path: Path) -> str | None:
    """The sentence on a path at which no folder is, or can be made; None where there is none."""
    there = _nearest(path)
    if not os.path.isdir(there):
        return f"{there} is a file, and a folder is needed"
    if not os.access(there, os.R_OK | os.X_OK):
        return f"{there} cannot be read by this user"
    return None


def _folder(path: Path) -> Path:
    """Raises ValueError where a file lies in the way; a folder that is not there yet will do."""
    if problem := _problem_of_folder(path):
        raise ValueError(problem)
    return path


def _writable_folder(path: Path, info: ValidationInfo) -> Path:
    """Raises ValueError where this user can neither write into the folder nor make it; where it was typed, it is tried."""
    _folder(path)
    there = _nearest(path)
    if not os.access(there, os.W_OK):
        raise ValueError(f"{there} cannot be written to by this user")
    if info.context == TYPED:
        try:
            os.rmdir(tempfile.mkdtemp(prefix=".edgenetllm-", dir=there))
        except OSError as error:
            if error.errno in (*FULL, *FAILING):  # no other value of this option need be better
                raise
            raise ValueError(f"{there} cannot be written to ({error.strerror})") from None
    return path


def _nearest(path: Path) -> Path:
    """The part of a path that is there: itself, or the first folder above it."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if os.path.exists(parent))


def _existing_folder(path: Path, info: ValidationInfo) -> Path:
    """Raises ValueError for a typed folder that is not there; that of a run of long ago may be gone."""
    if info.context != TYPED:
        return path
    _folder(path)
    if not os.path.isdir(path):
        raise ValueError("there is no such folder")
    return path


def _existing_file(path: Path, info: ValidationInfo) -> Path:
    """Raises ValueError for a typed file that is not there, or cannot be read."""
    if info.context != TYPED:
        return path
    if os.path.isdir(path):
        raise ValueError("it is a folder, and a file is needed")
    if not os.path.isfile(path):
        raise ValueError("there is no such file")
    if not os.access(path, os.R_OK):
        raise ValueError("it cannot be read by this user")
    return path


def _existing_path(path: Path, info: ValidationInfo) -> Path:
    """Raises ValueError where nothing is at a typed path, or nothing that can be read."""
    if info.context == TYPED and not os.path.exists(path):
        raise ValueError("nothing lies there")
    if info.context == TYPED and not os.access(path, os.R_OK):
        raise ValueError("it cannot be read by this user")
    return path


def _there_if_a_path(text: str, info: ValidationInfo) -> str:
    """Raises ValueError for a typed path at which nothing lies; without a slash or a tilde in front it may be a name."""
    if (
        info.context == TYPED
        and text.startswith(("/", "./", "../", "~"))
        and not os.path.exists(Path(text).expanduser())
    ):
        raise ValueError("nothing lies there")
    return text


def _path(kind: str, check: Callable[..., Path]) -> tuple[Any, ...]:
    """The annotations of a kind of path; `kind` is its `format` in the JSON schema."""
    schema = WithJsonSchema({"type": "string", "minLength": 1, "format": kind})
    return BeforeValidator(_usable), AfterValidator(check), schema


FolderPath = Annotated[Path, *_path("folder", _folder)]  # may be missing
WritableFolder = Annotated[Path, *_path("writable-folder", _writable_folder)]
ExistingFolder = Annotated[Path, *_path("existing-folder", _existing_folder)]
ExistingPath = Annotated[Path, *_path("existing-path", _existing_path)]  # a file or a folder
ExistingFile = Annotated[Path, *_path("existing-file", _existing_file)]
# A path, or a name of something else: a repository of the hub, a video.
PathOrName = Annotated[
    str,
    BeforeValidator(_usable),
    AfterValidator(_there_if_a_path),
    WithJsonSchema({"type": "string", "minLength": 1, "format": "path-or-name"}),
]
