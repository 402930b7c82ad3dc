"""A line for each split of a set of traces, and a warning where its figures cannot be right."""

import pytest

from edgenetllm.tasks.abr.data.datasets import Folder
from edgenetllm.tasks.abr.summary import describe, warnings


def folder_of(path, text, format):
    for part in ("train", "val", "test"):
        (path / part).mkdir()
        (path / part / "a").write_text(text)
    return Folder("folder", path, format, "synthetic", allow_shared=True).splits()


def test_a_set_is_described_in_a_line_for_each_split(tmp_path):
    parts = folder_of(tmp_path, "time_s,dl_kbps\n" + "".join(f"{t},{t}\n" for t in range(0, 202, 2)), "csv")
    lines = describe(parts)
    assert (
        lines[0] == "  train: 1 traces, 3.33 min, a sample every 2 s (median), 0.0119 / 0.101 / 0.19 Mbps (5, 50, 95 %)"
    )
    assert [line.split(":")[0].strip() for line in lines] == ["train", "validation", "test", "read"]
    assert lines[-1] == "  read: time_s in s, dl_kbps in kbps (3 traces)"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(0, 4e5), (1, 5e5), (2, 6e5)], "the median bandwidth of the test traces is 5.5e+05 Mbps"),
        ([(0, 0.004), (1, 0.005), (2, 0.006)], "the median bandwidth of the test traces is 0.0055 Mbps"),
        ([(0, 4), (1000, 5), (2000, 6)], "the test traces have a sample every 1e+03 s"),
        ([(0, 4), (60, 5), (120, 6)], None),
    ],
)
def test_what_is_implausible_is_said(tmp_path, rows, says):
    found = warnings(folder_of(tmp_path, "".join(f"{t} {mbps}\n" for t, mbps in rows), "cooked"))
    assert (says is None and not found) or any(text.startswith(says) for text in found)
