"""Viewport prediction: directions on the sphere, rules, the learnt baseline, and the public recordings where they lie."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_series import series, viewers, write_wave

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.supervised.policies.rules import LinearRegression, Still, Velocity
from edgenetllm.tasks.vp.data.datasets import Public
from edgenetllm.tasks.vp.data.recordings import read_public
from edgenetllm.tasks.vp.data.sources import PUBLIC
from edgenetllm.tasks.vp.gaze import great_circle
from edgenetllm.tasks.vp.task import VpTask

DATA = Path(os.environ.get("EDGENETLLM_DATA", "data"))


def test_distances_on_the_sphere():
    gaze = np.array([[0.0, 0, 0], [50, 0, 0], [0, 0, 180], [0, 90, 10], [0, -90, 0]])
    others = np.array([[0.0, 0, 90], [0, 0, 0], [0, 0, -180], [0, 90, 170], [0, 90, 0]])
    np.testing.assert_allclose(great_circle(gaze, others), [90, 0, 0, 0, 180], atol=1e-5)


def test_rules_by_hand():
    """A head that turns by 8 degrees a row, over the seam at 180; with one row out of line for the regression."""
    line = {"history": np.array([170.0, 178, -174, -166])[None, :, None]}
    arguments = (2, [0], [360.0])
    assert Still(*arguments).act(line)[0, :, 0].tolist() == [-166, -166]
    np.testing.assert_allclose(Velocity(*arguments).act(line)[0, :, 0], [-158, -150])
    np.testing.assert_allclose(LinearRegression(*arguments).act(line)[0, :, 0], [-158, -150])
    bent = {"history": np.array([0.0, 1, 5])[None, :, None]}
    expected = np.polyval(np.polyfit([0, 1, 2], [0, 1, 5], 1), [3, 4])
    np.testing.assert_allclose(LinearRegression(2, [0], [0.0]).act(bent)[0, :, 0], expected)


def test_the_learnt_baseline_learns_once_and_is_found_again(tmp_path):
    task = series(write_wave(tmp_path / "wave.csv"))
    seeds = task.seeds("test")

    def error(policy) -> float:
        played = play(task.environment("test"), seeds, policy)
        return float(task.summarise(played.record, played.reward, played.valid)["mase"].mean())

    lstm = task.baselines()["lstm"]
    assert error(lstm) < 0.7 * min(error(task.baselines()[name]) for name in ("still", "velocity", "linear_regression"))
    (stored,) = (tmp_path / "baselines").glob("lstm-*.npz")
    written = stored.stat().st_mtime_ns
    again = series(tmp_path / "wave.csv").baselines()["lstm"]
    assert error(again) == error(lstm)
    assert stored.stat().st_mtime_ns == written
    longer = series(tmp_path / "wave.csv", horizon=8, answer_rows=4)
    assert longer.tuned_as(task).identity() != longer.baselines()["lstm"].identity()


def test_viewers_of_a_split_are_in_no_other(tmp_path):
    task = viewers(tmp_path)
    names = {split: {name.split(" @")[0] for name in task.episode_names(split)} for split in ("train", "val", "test")}
    assert not names["train"] & names["val"] | names["train"] & names["test"] | names["val"] & names["test"]
    for videos in (public.videos for public in PUBLIC.values()):
        assert len({video for split in videos.values() for video in split}) == sum(map(len, videos.values()))


def test_an_archive_of_other_recordings_is_refused(tmp_path):
    (tmp_path / "vp").mkdir()
    with tarfile.open(tmp_path / "vp" / "viewports.tar.xz", "w:xz"):
        pass
    with pytest.raises(UserError, match="does not hold the published recordings of Jin2022"):
        read_public("Jin2022", tmp_path)
    (tmp_path / "vp" / "viewports.tar.xz").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a readable archive"):
        read_public("Jin2022", tmp_path)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_public_recordings(tmp_path, name):
    if not any((DATA / "vp" / place).exists() for place in (name, "viewports.tar.xz")):
        pytest.skip("the public recordings are not there")
    data = Public(name=name.lower(), set=name, data_dir=DATA, history=10, horizon=20, train_step=15, test_step=15)
    task = VpTask(name="vp", data=data, cache_dir=tmp_path, history=10, answer_rows=20)
    assert {split: len(task.seeds(split)) for split in ("train", "val", "test")} == {
        "Jin2022": {"train": 8820, "val": 1754, "test": 1698},
        "Wu2017": {"train": 16530, "val": 999, "test": 1395},
    }[name]
    played = play(task.environment("test"), task.seeds("test"), task.baselines()["still"])
    figures = task.summarise(played.record, played.reward, played.valid)
    assert 5 < figures["error_deg"].mean() < 25
    assert (figures["sphere_deg"] <= 180).all()
