"""The layer report names the right matrices, and its map has each figure in its place."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from edgenetllm.report.layers import error_line, layer_rows, layers_markdown
from edgenetllm.report.layers_plot import PANELS, _grids, _norm, layer_map
from edgenetllm.report.results import Results


def pruned(results: Results, layers: object) -> Results:
    return results.model_copy(update={"pruning": {"method": "wanda", "layers": layers}})


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["layers.3.self_attn.q_proj", "layers.11.mlp.up_proj"], [(3, "q_proj"), (11, "up_proj")]),
        (["layers.3.self_attn.q_proj.base_layer", "model.layers.0.mlp.x.weight"], [(3, "q_proj"), (0, "x")]),
        (
            ["h.2.attn.c_attn", "h.2.attn.c_proj", "h.2.mlp.c_proj"],
            [(2, "c_attn"), (2, "attn.c_proj"), (2, "mlp.c_proj")],
        ),
        (
            ["layers.1.mlp.experts.7.w1", "encoder.network.0", "encoder.layers.2.q_proj"],
            [(1, "w1"), (None, "encoder.network.0"), (None, "encoder.layers.2.q_proj")],
        ),
    ],
)
def test_a_name_says_block_and_kind(results: Results, names: list[str], places: list[tuple[int | None, str]]) -> None:
    rows = layer_rows(pruned(results, {name: {"zeros": 1, "weights": 2} for name in names}))
    assert [(row.block, row.kind) for row in rows] == places
    assert [row.name for row in rows] == names


def test_summary_and_a_row_for_each_matrix(results: Results) -> None:
    text = layers_markdown(results)
    lines = text.splitlines()
    assert lines[0] == (
        "abr on synthetic: tiny, wanda owl at sparsity 40%: 260 of 600 weights are zero (43.33%) in 4 matrices"
    )
    assert lines[2] == "- mean output error 0.2917, worst 0.5 in layers.1.self_attn.q_proj"
    assert [line for line in lines if line.startswith("| ")] == [
        "| kind, mean | matrices | zeros | sparsity | error | cosine |",
        "| q_proj | 2 | 60 | 30.0% | 0.375 | 0.5 |",
        "| down_proj | 2 | 200 | 50.0% | 0.125 | 0.5 |",
        "| matrix | block | zeros | sparsity | error | cosine |",
        "| q_proj | 0 | 40 | 40.0% | 0.25 | 0.75 |",
        "| down_proj | 0 | 50 | 25.0% | 0.125 | 0.5 |",
        "| q_proj | 1 | 20 | 20.0% | 0.5 | 0.25 |",
        "| down_proj | 1 | 150 | 75.0% | – | – |",
    ]


def test_without_calibration_there_are_only_zeros(results: Results) -> None:
    changed = pruned(results, {"layers.0.q": {"zeros": 1, "weights": 4}})
    assert error_line(layer_rows(changed)) is None
    assert "worst" not in layers_markdown(changed)
    assert layer_rows(results.model_copy(update={"pruning": None})) == []


@pytest.mark.parametrize(
    "entry", [[1, 2], {"zeros": 1}, {"zeros": 1, "weights": 0}, {"zeros": 1, "weights": 2, "a": 1}]
)
def test_a_malformed_entry_is_named(results: Results, entry: object) -> None:
    fields = results.model_dump(mode="json", by_alias=True)
    with pytest.raises(ValidationError, match=r"layers\.layers\.0\.q"):
        Results.model_validate({**fields, "pruning": {**fields["pruning"], "layers": {"layers.0.q": entry}}})


def test_every_figure_is_in_its_place_and_unknown_panels_are_left_out(results: Results) -> None:
    grids = _grids(layer_rows(results))
    np.testing.assert_array_equal(grids["sparsity"], [[0.4, 0.2], [0.25, 0.75]])
    np.testing.assert_array_equal(grids["relative output error"], [[0.25, 0.5], [0.125, np.nan]])
    np.testing.assert_array_equal(grids["output cosine"], [[0.75, 0.25], [0.5, np.nan]])
    assert list(grids) == list(PANELS)
    assert list(_grids(layer_rows(pruned(results, {"layers.0.q": {"zeros": 1, "weights": 4}})))) == ["sparsity"]


def test_equal_figures_and_zero_errors_can_be_drawn(results: Results, tmp_path: Path) -> None:
    assert _norm("sparsity", np.array([0.5, 0.501])).vmax == pytest.approx(0.5505)
    assert _norm("relative output error", np.array([0.0, 0.01, 1.0])).vmin == pytest.approx(0.01 / 1.2)
    for error in (0.0, 1.0):
        full = {f"layers.{b}.q": {"zeros": 4, "weights": 4, "error": error, "cosine": 0.0} for b in range(3)}
        layer_map(layer_rows(pruned(results, full)), tmp_path / f"{error}.png")
        assert (tmp_path / f"{error}.png").read_bytes().startswith(b"\x89PNG")
    layer_map(layer_rows(pruned(results, {"project_in": {"zeros": 1, "weights": 4}})), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
