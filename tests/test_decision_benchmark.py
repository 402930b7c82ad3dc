"""The benchmark of decisions runs, on a tiny model, and says of every row what was reached."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from small import ROOT


@pytest.mark.slow
def test_every_row_is_measured_and_compared_with_its_target(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks/decision.py"),
        "--quick",
        "--json",
        str(tmp_path / "figures.json"),
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = {row["name"]: row for row in figures["rows"]}
    for words in (
        "over transformers bf16",
        "whole decision, cjs",
        "recompute over",
        "bundle int4, 90 %",
        "cold start",
        "memory",
    ):
        assert any(words in name for name in rows), words
    for name, row in rows.items():
        assert row["value"] > 0, name
        enough = row["value"] <= row["target"] if row["most"] else row["value"] >= row["target"]
        assert (row["verdict"] != "missed") == enough, name
        assert name in printed
    assert all(ms > 0 for ms in (*figures["milliseconds"].values(), *figures["floor_ms"].values()))
    error = next(row["value"] for name, row in rows.items() if "with the same weights" in name)
    assert error < 0.3
