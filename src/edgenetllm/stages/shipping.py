"""How long each form of a bundle takes over recorded links, as far as their traces are on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgenetllm.edge.shipping import shipping_times
from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.readers import Format, read_folder

# Link -> folder under paths.data_dir, and its format. 4G is no public set of `data=`: Ghent's logs, put there by hand.
LINKS: dict[str, tuple[str, Format]] = {
    "3G": ("abr/norway/test", "cooked"),
    "4G": ("abr/4g", "hsdpa"),
    "broadband": ("abr/fcc/test", "cooked"),
}


def shipping(sizes: Mapping[str, Any], data_dir: Path) -> dict[str, dict[str, Any]]:
    """Link -> its folder, the number of traces and the median seconds of the bundle and of each of its `forms`.

    A link without traces on this machine has 0 of them and no seconds: nothing is downloaded for it.
    """
    named = {"bundle": sizes["bytes"], **sizes["forms"]}
    links: dict[str, dict[str, Any]] = {}
    for link, (folder, format) in LINKS.items():
        try:
            traces = read_folder(data_dir / folder, format) if (data_dir / folder).is_dir() else []
        except UserError:  # somebody's own files: no reason to end a run whose bundle is written
            traces = []
        seconds = shipping_times(named, traces) if traces else {}
        links[link] = {"folder": folder, "traces": len(traces), "seconds": seconds}
    return links
