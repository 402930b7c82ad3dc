"""A video, ladder and QoE of the user's own through the commands, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typed import ABR, call, runs

from edgenetllm.report.results import Results
from edgenetllm.tasks.abr.data.ladder import Ladder
from edgenetllm.tasks.abr.data.synthetic import generate_video

LADDER = Ladder((400.0, 1000.0, 2500.0), 2.0)


def write(folder: Path, seed: int, chunks: int) -> Path:
    """A folder of size tables with its ladder."""
    folder.mkdir()
    for level, row in enumerate(generate_video(seed, chunks, LADDER)):
        (folder / f"video_size_{level}").write_text("\n".join(map(str, row.tolist())))
    (folder / "ladder.json").write_text(json.dumps({"bitrates_kbps": LADDER.bitrates_kbps, "chunk_s": LADDER.chunk_s}))
    return folder


@pytest.mark.slow
def test_a_video_of_three_levels_is_learned_pruned_and_replayed(tmp_path):
    first, second = write(tmp_path / "first", 1, 20), write(tmp_path / "second", 2, 20)
    typed = ["task.rebuffer_penalty=6", "task.switch_penalty=0.5", "evaluation.bounds=true", "logger=csv"]
    output = call("train.py", tmp_path, *ABR, f"data.video={first}", *typed)
    assert "20 chunks: 400, 1000, 2500 kbps, chunks of 2 s" in output
    (parent,) = runs(tmp_path, "train")
    results = Results.load(parent / "abr/results.json")
    assert {"dense", "sparse", "bba", "optimum"} <= set(results.policies)
    assert not any("pensieve" in name for name in results.policies)
    assert any("takes off 6 for a second of stalling and 0.5 times" in note for note in results.notes)
    bitrate = results.policies["sparse"]["test/bitrate_mbps"].mean
    assert 0.4 <= bitrate <= 2.5
    assert results.policies["sparse"]["test/qoe"].mean <= results.policies["optimum"]["test/qoe"].mean
    assert (parent / "abr/plots/timeline.png").stat().st_size > 0

    call("evaluate.py", tmp_path, f"run={parent}", f"data.video={second}", "logger=csv")
    elsewhere = Results.load(runs(tmp_path, "evaluate")[-1] / "abr/results.json")
    assert elsewhere.data_hash != results.data_hash
    assert np.isfinite(elsewhere.policies["sparse"]["test/qoe"].mean)

    refused = call("evaluate.py", tmp_path, f"run={parent}", "data.chunks=10", "logger=csv", ok=False)
    assert "policy.tasks.abr.time.weight" in refused  # one for each chunk


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.video=video9", "data.video=video9: choose video1, video2, synthetic, or a folder"),
        ("data.chunk_s=0", "data.chunk_s=0: give a number above 0"),
        ("data.bitrates_kbps=[300]", "data.bitrates_kbps=[300]: give a list, of at least 2 entries"),
        ("task.switch_penalty=-1", "task.switch_penalty=-1: give a number from 0 to"),
        ("task.rebuffer_penalty=inf", "task.rebuffer_penalty=inf: give a number from 0 to"),
    ],
)
def test_a_mistake_is_named_before_anything_starts(tmp_path, word, message):
    output = call("train.py", tmp_path, *ABR, word, ok=False)
    assert message in output
    assert not runs(tmp_path, "train")
