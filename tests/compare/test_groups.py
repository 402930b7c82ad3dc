"""Runs in one group, labels of groups, and that no run is dropped silently."""

from __future__ import annotations

import json
import re

import pytest
from compare.study_runs import Runs
from compare.test_page import one_section, sections, texts

from edgenetllm.compare.groups import group_runs
from edgenetllm.compare.page import page
from edgenetllm.compare.retention import draw_study, study_markdown
from edgenetllm.compare.retention import main as retention_main
from edgenetllm.compare.runs import find_runs
from edgenetllm.compare.seeds import main as seeds_main
from edgenetllm.compare.series import make_series
from edgenetllm.compare.study import make_study
from edgenetllm.errors import UserError
from edgenetllm.report.run_labels import differing, labels


@pytest.fixture
def runs(tmp_path) -> Runs:
    return Runs(tmp_path / "logs")


def variants(section) -> tuple[list[str], list[str]]:
    """Variants of the groups of sparse models, and of the dense ones."""
    return [group.variant for group in section.groups], [group.variant for group in section.dense]


def test_a_sweep_over_the_rank_makes_two_groups_with_their_dense_models(runs, tmp_path):
    for rank, dense_share in ((2, 1.0), (8, 0.9)):
        for seed in (1, 2):
            runs.write(0.9, seed=seed, dense_share=dense_share, settings={"adapter.rank": rank})
    section = one_section(runs.root)
    assert variants(section) == (["adapter.rank=2", "adapter.rank=8"],) * 2
    assert [group.seeds for group in (*section.groups, *section.dense)] == [[1, 2]] * 4
    assert not section.notes
    html = page([section], [], tmp_path / "page.html")
    assert "2 groups of runs that differ in nothing but their training seed, on" in html
    rows = [row for row in texts(html) if row and row[0] == "tiny"]
    assert [row[1:3] for row in rows] == [
        ["dense fp32", "adapter.rank=2"],
        ["dense fp32", "adapter.rank=8"],
        ["wanda", "adapter.rank=2"],
        ["wanda", "adapter.rank=8"],
    ]
    assert rows[0][5] != rows[1][5]  # the dense models differ
    of_runs = [row for row in texts(html) if row and row[0].startswith("2026")]
    assert [(row[6], row[-1]) for row in of_runs] == [(f"adapter.rank={rank}", "yes") for rank in (2, 2, 8, 8)]
    assert [series.name for series in make_series(section.groups)] == [
        "wanda (adapter.rank=2)", "wanda (adapter.rank=8)"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"trainer.adapter_lr": 0.001}, ["trainer.adapter_lr=(absent)", "trainer.adapter_lr=0.001"]),
        ({"budget.epochs": 1}, ["budget.epochs=1", "budget.epochs=4"]),
        ({"task.tokens": ["a", "b"]}, ["task.tokens=(absent)", "task.tokens=[a,b]"]),
        ({"code": "99ab"}, ["code 3fa9c1", "code 99ab"]),
        ({"threads": 2, "adapter.rank": None}, ["adapter.rank=8, threads (absent)", "adapter.rank=null, threads 2"]),
    ],
)
def test_a_group_is_labelled_by_the_keys_that_differ_as_they_are_typed(runs, settings, label):
    runs.write(0.9)
    runs.write(0.9, settings=settings)
    found = variants(one_section(runs.root))
    assert (sorted(found[0]), sorted(found[1])) == (label, label)


def test_keys_of_pruning_are_named_only_where_the_columns_say_the_same(runs):
    runs.write(0.9, "wanda")
    runs.write(0.9, "magnitude", settings={"pruning.windows": 8})
    runs.write(0.9, recovery="specialise", settings={"recovery.epochs": 3})
    assert variants(one_section(runs.root)) == ([""] * 3, [""])
    runs.write(0.8, "wanda", settings={"pruning.method.damping": 0.5})
    runs.write(0.7, "wanda", sparsity=0.8, settings={"pruning.method.damping": 0.5})
    section = one_section(runs.root)
    named = {(group.method, group.sparsity, group.variant) for group in section.groups if group.recovery is None}
    assert named == {
        ("magnitude", 0.4, ""),
        ("wanda", 0.4, "pruning.method.damping=(absent)"),
        ("wanda", 0.4, "pruning.method.damping=0.5"),
        ("wanda", 0.8, "pruning.method.damping=0.5"),
    }
    assert len(section.dense) == 1
    lines = make_series(section.groups)
    assert sorted(len(line.groups) for line in lines) == [1, 1, 1, 2]  # joined where only the sparsity differs
    assert len({line.name for line in lines}) == 4


def test_models_of_one_name_are_distinguished_by_their_settings(runs):
    runs.write(0.9, settings={"model.layers": 2})
    runs.write(0.9, settings={"model.layers": 4})
    runs.write(0.9, model="other", settings={"model.layers": 9})
    assert variants(one_section(runs.root)) == (["", "model.layers=2", "model.layers=4"],) * 2


def test_a_run_that_does_not_say_what_determines_it_is_left_out_with_the_reason(runs, tmp_path):
    runs.write(0.9)
    older = runs.write(0.9, seed=2, older=True)
    finished, left_out = find_runs([runs.root])
    assert len(finished) == 1
    assert [(run.folder, "no identity" in run.reason) for run in left_out] == [(older, True)]
    assert "its adaptation is of an older version" in page(sections(runs.root), left_out, tmp_path / "page.html")


def test_runs_are_ordered_by_their_start_and_those_without_come_first(runs):
    first, second, old = runs.write(0.9), runs.write(0.9), runs.write(0.9)
    (old / "run.json").write_text('{"status": "finished"}')
    for folder, hour in ((first, 9), (second, 8)):
        state = {"status": "finished", "started": f"2026-01-01T0{hour}:00:00.000000+00:00"}
        (folder / "run.json").write_text(json.dumps(state))
    assert [run.folder for run in find_runs([runs.root])[0]] == [old, second, first]


def test_the_results_of_one_of_several_tasks_started_with_the_run(runs):
    folder = runs.write(0.9)
    part = folder / "abr"
    part.mkdir()
    for name in ("results.json", "metrics.parquet"):
        (folder / name).rename(part / name)
    ((run,), _) = find_runs([runs.root])
    assert run.started == json.loads((folder / "run.json").read_text())["started"]


def test_an_unpruned_run_is_explained_where_a_later_one_stands_for_its_dense_model(runs, tmp_path):
    plain = runs.write(1.0, None, 0.0)
    runs.write(0.9)
    html = page(sections(runs.root), [], tmp_path / "page.html")
    (row,) = [row for row in texts(html) if row and row[0] == plain.name]
    assert row[-1] == "no: unpruned, and a later run has the same dense parent"


def test_a_baseline_that_runs_report_otherwise_is_noted(runs):
    runs.write(0.9, baselines={"expert": 0.9})
    last = runs.write(0.9, seed=2, baselines={"expert": 1.1})
    (note,) = one_section(runs.root).notes
    assert note.startswith("expert reaches from ")
    assert f"the row is that of {last.name}" in note


def test_notes_on_the_data_reach_page_study_and_seed_table(runs, capsys):
    said = "3 test traces share a recording with training (data.allow_shared=true)"
    first, second = runs.write(0.9, notes=[said]), runs.write(0.9, seed=2)
    assert f"{first.name}: {said}" in one_section(runs.root).notes
    assert f"{first.name}: {said}" in study_markdown(make_study([runs.root], resamples=100))
    assert seeds_main([str(first), str(second)]) == 0
    assert f"- {first.name}: {said}" in capsys.readouterr().out


def test_a_study_has_a_curve_for_what_pruning_does_otherwise(runs):
    for sparsity in (0.4, 0.8):
        runs.write(0.9, sparsity=sparsity)
        runs.write(0.7, sparsity=sparsity, settings={"pruning.windows": 8})
    runs.write(0.1, None, sparsity=1.0, settings={"pruning.windows": 8})
    study = make_study([runs.root], resamples=100)
    assert [(cell.variant, cell.sparsity) for cell in study.cells] == [
        ("pruning.windows=(absent)", 0.4), ("pruning.windows=(absent)", 0.8),
        ("pruning.windows=8", 0.4), ("pruning.windows=8", 0.8),
    ]  # fmt: skip
    text = study_markdown(study)
    assert len(re.findall(r"^\| wanda \(pruning\.windows=8\) \| \d", text, re.M)) == 2
    assert "| wanda (pruning.windows=8) | 40 % | 1 |" in text
    draw_study(study, runs.root / "study.png")
    assert (runs.root / "study.png").read_bytes().startswith(b"\x89PNG")


def test_a_study_of_several_adaptations_is_refused_with_what_differs(runs, capsys):
    folder = runs.write(0.9)
    other = runs.write(0.9, seed=2, settings={"adapter.rank": 2, "code": "99"})
    assert retention_main([str(runs.root), "--out", str(runs.root / "out")]) == 2
    error = capsys.readouterr().err
    assert "runs that differ in adapter.rank: 8 or 2; code: 3fa9c1 or 99" in error
    assert str(folder) in error
    assert str(other) in error


def test_a_study_says_what_it_leaves_out(runs):
    runs.write(0.9)
    evaluated = runs.write(0.9, stage="evaluate", sparsity=0.8)
    failed = runs.write(0.9, seed=2)
    (failed / "run.json").write_text('{"status": "failed"}')
    (runs.root / "typo" / ".hydra").mkdir(parents=True)
    notes = make_study([runs.root], resamples=100).notes
    assert notes == [
        f"left out, as neither of train.py nor of prune.py: {evaluated.name} (evaluate.py)",
        f"left out, as without usable results: {failed.name} (failed, says run.json, though results.json is there)",
    ]


def test_a_seed_table_refuses_runs_that_differ_in_more_than_their_seed(runs, capsys):
    first = runs.write(0.9)
    other = runs.write(0.9, seed=2, settings={"adapter.rank": 2})
    again = runs.write(0.9)
    older = runs.write(0.9, seed=3, older=True)
    pruned = runs.write(0.9, seed=2, sparsity=0.8)
    assert seeds_main([str(first), str(other)]) == 2
    error = capsys.readouterr().err
    assert error.endswith(f"{first} and {other} differ in more than their training seed: adapter.rank: 8 or 2\n")
    assert seeds_main([str(first), str(again)]) == 2
    assert "both have the training seed 1" in capsys.readouterr().err
    assert seeds_main([str(first), str(older)]) == 2
    assert "older version" in capsys.readouterr().err
    assert seeds_main([str(first), str(pruned)]) == 2
    assert "sparsity: 0.4 or 0.8" in capsys.readouterr().err
    assert seeds_main([str(first), "--against", str(other)]) == 0  # another model, say
    capsys.readouterr()
    assert seeds_main([str(first), "--against", str(other), str(first)]) == 2  # but those among each other
    assert "adapter.rank: 2 or 8" in capsys.readouterr().err


def test_long_values_are_cut_and_still_differ():
    paths = [{"data.train": f"/a/very/long/way/to/the/traces/of/{name}/in/a/file.csv"} for name in ("one", "two")]
    short = labels(paths, [differing(paths)] * 2)
    assert len(set(short)) == 2
    assert max(map(len, short)) < 60
    hashes = [{"code": "3fa9c1aa0000"}, {"code": "3fa9c1ab0000"}, {"code": "77" * 20}]
    assert labels(hashes, [["code"]] * 3) == ["code 3fa9c1aa", "code 3fa9c1ab", "code 77777777"]


def test_long_labels_keep_the_keys_that_tell_groups_apart():
    many = [{f"task.option_{key}": key * number for key in range(1, 20)} for number in (1, 2)]
    assert labels(many, [differing(many)] * 2) == ["task.option_1=1, …", "task.option_1=2, …"]


def test_groups_do_not_depend_on_the_order_of_keys(runs):
    first, second = runs.write(0.9), runs.write(0.9, seed=2)
    fields = json.loads((second / "results.json").read_text())
    fields["identity"] = dict(reversed(fields["identity"].items()))
    (second / "results.json").write_text(json.dumps(fields))
    grouped = group_runs(find_runs([first, second])[0])
    assert [len(group.runs) for group in (*grouped.sparse, *grouped.dense)] == [2, 2]


def test_an_unreadable_identity_is_an_error_of_one_line(runs):
    folder = runs.write(0.9)
    fields = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(fields | {"identity": [1]}))
    with pytest.raises(UserError, match="identity"):
        find_runs([folder])
