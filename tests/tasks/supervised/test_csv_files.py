"""CSV files: what is read, and what is refused by line, column and reason."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_series import series, write_wave

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.forecast.data import csv_files
from edgenetllm.tasks.forecast.data.csv_files import read_table

BAD = {
    "a,b\n1,2\n3\n": "line 3 has 1 fields, the header has 2",
    "a,b\n1,2\n3,4,5\n": "line 3 has 3 fields, the header has 2",
    "a,b\n1,2\n3,nan\n": "line 3, column b: 'nan' is no finite number",
    "a,b\n1,2\n3,-inf\n": "line 3, column b: '-inf' is infinite",
    "a,b\n1,2\n3,1e30\n": "line 3, column b: '1e30' is infinite or beyond",
    "a,b\n1,2\n3,x7\n": "line 3, column b: 'x7' is no finite number",
    "a,b\n1,2\n3,1_0\n": "line 3, column b: '1_0' is no finite number",
    "a,b\n1,2\n3,\n": "line 3, column b: the field is empty",
    "a,b,b\n1,2,3\n": "names the column 'b' 2 times",
    "a,bb\n1,2\n": "names no column 'b'.* there are a, bb",
    "a,b\n": "no row below the header",
    "": "line 1 is empty",
    "\n1,2\n": "line 1 is empty",
    'a,b\n1,"2\n': "line 2: not a row of a CSV file",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=BAD[text]) as refused:
        read_table(path, ["a", "b"])
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_are_no_text_or_too_large(tmp_path, monkeypatch):
    path = tmp_path / "one.csv"
    path.write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(UserError, match="no text in UTF-8"):
        read_table(path, ["a", "b"])
    path.write_bytes(b"a,b\n1,\x00\n")
    with pytest.raises(UserError, match="line 2"):
        read_table(path, ["a", "b"])
    path.write_text("a,b\n" + "1,2\n" * 20)
    monkeypatch.setattr(csv_files, "MOST_ROWS", 10)
    with pytest.raises(UserError, match="line 12: more than the 10 rows"):
        read_table(path, ["a", "b"])
    monkeypatch.setattr(csv_files, "MOST_BYTES", 10)
    with pytest.raises(UserError, match="read into memory"):
        csv_files.files_of(path)
    with pytest.raises(UserError, match="no such file"):
        csv_files.files_of(tmp_path / "absent.csv")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "gone.csv").symlink_to(tmp_path / "absent.csv")
    with pytest.raises(UserError, match=r"gone\.csv cannot be read \(No such file"):
        csv_files.files_of(tmp_path / "links")
    (tmp_path / "links" / "gone.csv").unlink()
    os.mkfifo(tmp_path / "links" / "pipe.csv")
    with pytest.raises(UserError, match=r"pipe\.csv is not a plain file"):
        csv_files.files_of(tmp_path / "links")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.csv file"):
        csv_files.files_of(tmp_path / "empty")


def test_only_the_columns_that_are_asked_for_are_read(tmp_path):
    path = tmp_path / "one.csv"
    path.write_bytes("\ufeffa,text,b\r\n1, x ,2\r\n\r\n3,,4e0\r\n".encode())
    np.testing.assert_array_equal(read_table(path, ["b", "a"]).values, [[2, 1], [4, 3]])
    path.write_text("a;b\n1;2\n")
    assert read_table(path, ["a"], separator=";").values.tolist() == [[1]]


def test_a_question_of_the_test_split_lies_behind_everything_that_was_learnt(tmp_path):
    task = series(write_wave(tmp_path / "wave.csv"), inputs=["mbps", "time_s"])
    last = {split: task.environment(split).history[..., 1].max() for split in ("train", "val", "test")}
    first = {split: task.environment(split).history[..., 1].min() for split in ("train", "val", "test")}
    answers = 4
    assert last["train"] + answers < first["val"] + 1
    assert last["val"] + answers < first["test"] + 1


def test_a_series_is_cut_where_its_clock_jumps_and_a_clock_must_rise(tmp_path):
    path = write_wave(tmp_path / "wave.csv")
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[:100] + rows[150:]) + "\n")
    task = series(path, time="time_s", inputs=["mbps", "time_s"])
    assert "cut at 1 gaps of time_s" in task.describe_data()
    seen = {split: task.environment(split).history[..., 1] for split in ("train", "val", "test")}
    assert seen["train"].max() < seen["val"].min() < seen["val"].max() < seen["test"].min()
    path.write_text("\n".join(rows[:4] + rows[50:]) + "\n")
    assert (
        "1 of them have fewer than the 12 rows of a question, and give none"
        in series(path, time="time_s").describe_data()
    )
    path.write_text("\n".join([*rows[:100], rows[50], *rows[100:]]) + "\n")
    with pytest.raises(UserError, match="time_s does not rise at row 100"):
        series(path, time="time_s").describe_data()


def test_groups_are_kept_apart(tmp_path):
    for number in range(6):
        path = write_wave(tmp_path / f"site{number}.csv", rows=60 + number)
    task = series(tmp_path, split="group")
    assert len({name.split(" @")[0] for split in ("train", "val", "test") for name in task.episode_names(split)}) == 6
    lines = [f"{line},{'abc'[n % 3]}" for n, line in enumerate(write_wave(path).read_text().splitlines()[1:])]
    path.write_text("\n".join(["time_s,mbps,delay_ms,site", *lines]) + "\n")
    task = series(path, split="group", group="site")
    assert {task.episode_names(split)[0].split(" @")[0] for split in ("train", "val", "test")} == {
        "site5/a",
        "site5/b",
        "site5/c",
    }


def test_a_column_that_never_changes_and_too_few_rows_are_refused(tmp_path):
    path = tmp_path / "flat.csv"
    path.write_text("mbps,delay_ms\n" + "1,2\n" * 200)
    with pytest.raises(UserError, match="the column mbps never changes"):
        series(path).environment("test")
    with pytest.raises(UserError, match="no recording of the val split"):
        series(write_wave(tmp_path / "short.csv", rows=60)).environment("test")
    with pytest.raises(UserError, match="name each column once"):
        series(path, inputs=["mbps", "mbps"])


def test_the_error_of_an_answer_is_in_units_of_a_step(tmp_path):
    task = series(write_wave(tmp_path / "wave.csv"))
    played = play(task.environment("test"), task.seeds("test"), task.baselines()["still"])
    figures = task.summarise(played.record, played.reward, played.valid)
    right, last = task.environment("test").right[..., 0], task.environment("test").history[:, -1, 0]
    by_hand = np.abs(right - last[:, None]).mean(1)
    np.testing.assert_allclose(figures["mae_1"], by_hand)
    np.testing.assert_allclose(figures["mase"], by_hand / task.unit[0])
    assert [metric.label for metric in task.metrics] == ["mean absolute scaled error", "MAE of mbps"]
