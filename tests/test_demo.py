"""scripts/demo.py, the whole loop between cloud and edge, with a tiny model: make demo."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from small import ROOT
from typed import surroundings


@pytest.mark.slow
def test_the_loop_is_closed_and_its_page_shows_every_step(tmp_path):
    folder = tmp_path / "demo"
    command = [sys.executable, str(ROOT / "scripts/demo.py"), f"--folder={folder}"]
    words = ["model=tiny", "model.layers=null", "budget=debug", "trainer.threads=1"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, env=surroundings(), cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    # What travelled is there: two bundles, and the decisions of the second one.
    sparse = {(folder / "edge" / name / "sparse.safetensors").read_bytes() for name in ("bundle", "specialised")}
    assert len(sparse) == 1
    lines = [line for file in (folder / "edge/decisions").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len({json.loads(line)["session"] for line in lines}) == 60
    # The page says what the terminal says.
    page = (folder / "index.html").read_text()
    for row in ("the bundle as it was shipped", "specialised at the site", "adapted again from the logs", "optimum"):
        assert row in page
        assert row in done.stdout
    again = subprocess.run([*command], capture_output=True, text=True, check=False, env=surroundings(), cwd=ROOT)
    assert "is there already: name a new one" in again.stderr
