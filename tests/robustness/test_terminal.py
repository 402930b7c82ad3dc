"""No name of a file, run or option reaches the terminal, a table or a page as anything but text."""

from __future__ import annotations

import ast
import json
import logging
import shutil
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from small import ROOT
from typed import ABR, outcome, runs

from edgenetllm import console
from edgenetllm.compare.__main__ import main as compare
from edgenetllm.errors import UserError
from edgenetllm.printable import printable, say, shortened, single_line
from edgenetllm.report.results import Results
from edgenetllm.report.table import print_report, to_markdown
from edgenetllm.report.text import markdown, markdown_table
from edgenetllm.sweeps.summary import print_summary
from edgenetllm.tracking.wandb_names import run_name

CLEAR, TITLE, LEFT = "\x1b[2J", "\x1b]0;owned\x07", "\u202e"
HOSTILE = f"a{CLEAR}b{TITLE}c\r\nerror: d{LEFT}\x9b31m"


@given(st.text())
def test_printable_text_is_printable_and_keeps_what_was(text):
    shown = single_line(text)
    assert all(one.isprintable() or one.isspace() for one in shown)
    assert not set(shown) & {"\n", "\r", "\x1b", "\x9b", "\x07"}
    assert "".join(printable(one) for one in text) == printable(text)
    if text.isprintable():
        assert shown == text == printable(text)


def test_an_error_is_a_line_for_each_of_its_arguments():
    error = UserError(f"run={HOSTILE}: not there", "  resume=b\nc")
    assert str(error).splitlines() == [
        r"run=a\x1b[2Jb\x1b]0;owned\x07c error: d\u202e\x9b31m: not there",
        "resume=b c",
    ]
    assert len(str(UserError("x" * 100_000))) < 1500
    assert len(shortened("x" * 100_000)) <= 1400


def test_messages_are_said_on_a_line_each(capsys):
    say(f"run: {HOSTILE}", "second")
    assert capsys.readouterr().out.splitlines() == [r"run: a\x1b[2Jb\x1b]0;owned\x07c error: d\u202e\x9b31m", "second"]


def test_the_package_prints_by_one_function_alone():
    """`say` of printable.py, and tables by rich: then every text was made visible."""
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "src/edgenetllm").rglob("*.py"))
        if path.name != "printable.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == [], "use edgenetllm.printable.say"


def test_warnings_and_records_of_libraries_are_made_visible(capsys, caplog):
    with warnings.catch_warnings():
        console.prepare()
        warnings.simplefilter("always")
        warnings.warn(f"Checkpoint directory {HOSTILE} exists", stacklevel=1)
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert r"\x1b[2J" in error
    record = logging.LogRecord("lightning", logging.INFO, "", 1, "Restoring %s", (HOSTILE,), None)
    assert console._useful.filter(record)
    assert "\x1b" not in record.getMessage()


def test_markdown_has_no_html_code_or_link_from_a_name():
    name = "<script>a</script>|`b`&[c](http://d)\n# e"
    assert markdown(name) == r"&lt;script&gt;a&lt;/script&gt;\|\`b\`&amp;[c]\(http://d) # e"
    (row,) = markdown_table(["h"], [[name]])[2:]
    assert row.count("\n") == 0
    assert row.startswith("| &lt;script")


@given(st.text())
def test_a_markdown_cell_never_ends_its_row(text):
    (row,) = markdown_table(["h"], [[text]])[2:]
    assert not set(row) & {"<", ">", "\n", "\r", "\x1b"}
    assert row.replace(r"\|", "").count("|") == 2 + 0 * len(text)


@pytest.fixture
def hostile(trained, tmp_path) -> Path:
    """A run whose results hold names with HTML, as far as they may, in a folder whose name has escapes."""
    run = tmp_path / "logs/train" / f"run{CLEAR}<b>"
    shutil.copytree(runs(trained, "train")[0], run, ignore=shutil.ignore_patterns("wandb"))
    facts = json.loads((run / "abr/results.json").read_text())
    facts["data"] = "<img src=x onerror=alert(1)>|`x`"
    facts["notes"] = ["a note with <script>alert(1)</script> & `code` [link](http://x)"]
    layers = facts["pruning"]["layers"]
    layers["layers.0.<b>|x"] = dict(next(iter(layers.values())))
    (run / "abr/results.json").write_text(json.dumps(facts))
    return run


def test_tables_of_a_hostile_run_are_text(hostile, capsys):
    assert compare([str(hostile)]) == 0
    output = capsys.readouterr().out
    assert "\x1b[2J" not in output
    assert r"run\x1b[2J<b>" in output
    for name in ("table.md", "layers.md"):
        text = (hostile / "abr" / name).read_text()
        assert not set(text) & {"<", "\x1b"}, name
        assert "](http" not in text
    lines = to_markdown(Results.load(hostile / "abr/results.json")).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len({row.replace(r"\|", "").count("|") for row in rows}) == 1


def test_the_page_of_a_hostile_run_is_text(hostile, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert compare([str(tmp_path / "logs"), "--out", str(out)]) == 0
    text = out.read_text()
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert "\x1b" not in text
    assert "\x1b" not in capsys.readouterr().out


def test_markup_of_rich_is_text_in_tables(tmp_path):
    jobs = {f"[red]job{CLEAR}": ["seed=1", f"task=[bold]x{TITLE}"], "other": ["seed=2"]}
    facts = {"stage": "train", "identity": "0", "arguments": [], "jobs": jobs}
    (tmp_path / "sweep.json").write_text(json.dumps(facts))
    (tmp_path / f"[red]job{CLEAR}").mkdir()
    (tmp_path / f"[red]job{CLEAR}" / "run.json").write_text('{"status": "failed", "error": "E: \\u001b[2J\\nx [red]y"}')
    with (tmp_path / "out").open("w") as file:
        print_summary(tmp_path, Console(file=file, width=200))
    text = (tmp_path / "out").read_text()
    assert "\x1b" not in text
    assert r"[red]job\x1b[2J" in text
    assert r"E: \x1b[2J x [red]y" in text


def test_a_printed_report_folds_units_but_no_names(hostile):
    with (hostile / "out").open("w") as file:
        print_report(
            Results.load(hostile / "abr/results.json"), {"bundle": hostile / "b"}, Console(file=file, width=60)
        )
    assert "\x1b" not in (hostile / "out").read_text()


DIRECTED = {
    "a run that is not there": ("evaluate", [f"run=nowhere{CLEAR}"]),
    "a run of two lines": ("prune", ["run=nowhere\nerror: b"]),
    "an option that is not there": ("train", [f"task=abr{CLEAR}"]),
    "a key that is not there": ("train", [f"budget.epochz{CLEAR}=3"]),
    "a value that is none": ("train", ["budget.epochs=x\x1b[2Jy"]),
    "a folder that is none": ("train", [f"resume=nowhere{TITLE}"]),
    "a sweep that is not there": ("train", ["-m", f"resume=nowhere{TITLE}"]),
    "a folder of logs": ("train", ["experience=recorded", f"experience.folder=nowhere{CLEAR}"]),
}


LONG = [pytest.mark.slow, pytest.mark.robustness]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "a run that is not there" else LONG) for name in DIRECTED]
)
def test_what_is_typed_reaches_the_terminal_as_text(tmp_path, name):
    stage, words = DIRECTED[name]
    code, output = outcome([f"{stage}.py", *words, *ABR[:1], f"paths.log_dir={tmp_path}/logs"], tmp_path)
    assert code == 2, output
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "Traceback" not in output
    assert sum(line.startswith("error: ") for line in output.splitlines()) == 1


def test_names_for_the_experiment_logger_are_one_line():
    class Typed:
        settings = {"task": {"name": "abr"}, "model": {"name": "tiny"}, "data": {"name": "x"}, "seed": 1}  # noqa: RUF012
        words = (f"pruning={CLEAR}wanda\nx",)

        def state(self) -> dict[str, object]:
            return {"words": list(self.words)}

    assert run_name(Typed()) == r"pruning=\x1b[2Jwanda x seed=1"  # type: ignore[arg-type]
