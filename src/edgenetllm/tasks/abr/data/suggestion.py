"""The format that a line of a trace file looks like, to be named where another one cannot read it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgenetllm.tasks.abr.data.public_logs import is_hsdpa
from edgenetllm.tasks.abr.data.rows import is_number


def suggestion(fields: Sequence[str], format: str) -> str:
    """The words to type where the values of a line look like those of another format; empty where they do not."""
    text = " ".join(fields[:100])[:3000]
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
