"""The command `edgenetllm.edge.serve` in a process of its own, and requests to it without anything but Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STARTED = re.compile(r"serving .*, up to \d+ sessions of [\d.]+ MB at (http://127\.0\.0\.1:\d+)\n")


@contextmanager
def started(
    python: str | Path, folder: Path, *options: str, **environment: str
) -> Iterator[tuple[subprocess.Popen, str]]:
    """An agent that serves the bundle at any free port, and its address."""
    process = subprocess.Popen(
        [str(python), "-m", "edgenetllm.edge.serve", str(folder), "--port=0", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder.parent, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        found = STARTED.fullmatch(line)
        assert found is not None, line + process.stderr.read()
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def post(address: str, body: Any, token: str | None = None) -> Any:
    """The answer to a POST request of this body."""
    headers = {"Content-Type": "application/json", **({} if token is None else {"Authorization": f"Bearer {token}"})}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())
