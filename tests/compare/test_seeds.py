"""Several training seeds in one table: who is compared with whom, on which episodes, and what does not fit together."""

from __future__ import annotations

import re

import numpy as np
import pytest
from compare.study_runs import Runs

from edgenetllm.compare.seeds import main


@pytest.fixture
def runs(tmp_path) -> Runs:
    return Runs(tmp_path)


def table(capsys, *words: object) -> dict[str, list[str]]:
    assert main([str(word) for word in words]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in rows}


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", cell)]


def test_seeds_are_averaged_and_compared_on_the_same_episodes(runs, capsys):
    folders = [runs.write(0.9, seed=seed) for seed in (1, 2, 3)]
    found = table(capsys, *folders)
    by_seed = numbers(found["sparse"][1])
    assert len(by_seed) == 3
    assert numbers(found["sparse"][0])[0] == pytest.approx(np.mean(by_seed), abs=1e-3)
    mean, low, high = numbers(found["dense"][2])
    assert low < mean < high < 0  # a tenth is missing on every episode, however much these differ
    assert mean == pytest.approx(numbers(found["sparse"][0])[0] - numbers(found["dense"][0])[0], abs=2e-3)
    one = numbers(table(capsys, folders[0])["dense"][2])
    assert one[0] == pytest.approx(by_seed[0] - numbers(table(capsys, folders[0])["dense"][0])[0], abs=2e-3)


def test_other_runs_are_compared_by_their_dense_models(runs, capsys):
    folders = [runs.write(1.0, seed=seed) for seed in (1, 2)]
    others = [runs.write(1.0, seed=seed, dense_share=0.5, model="other") for seed in (4, 5, 6)]
    found = table(capsys, *folders, "--against", *others)
    assert len(numbers(found["other, dense, of the others"][1])) == 3
    mean, low, high = numbers(found["other, dense, of the others"][2])
    assert 0 < low < mean < high
    assert mean == pytest.approx(
        numbers(found["sparse"][0])[0] - numbers(found["other, dense, of the others"][0])[0], abs=2e-3
    )


def test_what_does_not_fit_together_is_said(runs, capsys, tmp_path):
    folder, elsewhere = runs.write(0.9), runs.write(0.9, seed=2, episode="other")
    assert main([str(folder), str(elsewhere)]) == 2
    assert "were tested on different episodes" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "results.json: No such file or directory; a finished run leaves this file" in capsys.readouterr().err
