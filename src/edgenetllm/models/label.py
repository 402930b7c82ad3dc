"""The name that a model has in results, tables, checkpoints and folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgenetllm.errors import UserError

OF_THE_HUB_CACHE = re.compile(
    r"models--.+--(?P<name>[^/]+?)/snapshots/[0-9a-f]+$"
)  # .../models--owner--name/snapshots/...


def model_label(settings: Mapping[str, Any]) -> str:
    """The label of the plain settings of the group `model`: the name of its folder or hub repository, else `name`.

    `model=llama2 model.path=/models/tinyllama` is `tinyllama`. Characters that folders and tables do not take become a
    hyphen. Raises UserError where nothing is left.
    """
    path = settings.get("path")
    if path is None:
        return _clean(str(settings["name"]), "model.name")
    folder = Path(str(path)).expanduser()
    if folder.name in ("", ".."):  # `.` and `..` name a folder only once they are resolved
        folder = folder.resolve()
    cached = OF_THE_HUB_CACHE.search(folder.as_posix())
    return _clean(cached["name"] if cached else folder.name, "model.path")


def _clean(name: str, key: str) -> str:
    label = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).lstrip("._+-").rstrip("-")
    if not label:
        raise UserError(f"{key}={name}: a model needs a name that has a letter (A to Z) or a digit")
    return label
