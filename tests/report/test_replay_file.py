"""replay.parquet keeps every decision that was really made, and nothing else."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgenetllm.errors import UserError
from edgenetllm.plotting import policies_of, select
from edgenetllm.report.episodes import Columns, read_replay, write_replay


def test_round_trip_of_ragged_episodes(tmp_path: Path) -> None:
    shape = (3, 4)
    reward = np.arange(12.0).reshape(shape)
    wanted = reward.copy()
    wanted[0, 0] = np.nan
    rows: dict[str, Columns] = {
        "dense": {"action": np.ones(shape, int), "reward": reward, "return_to_go": wanted, "level": reward + 1},
        "bba": {"action": np.zeros(shape, int), "reward": -reward, "level": reward},
    }
    short = np.arange(4) < np.array([[4], [2], [1]])
    valid = {"dense": short, "bba": np.ones(shape, bool)}
    write_replay(tmp_path / "r.parquet", rows, ["b", "a", "c"], valid)
    table = read_replay(tmp_path / "r.parquet")
    assert table.column_names == [
        "policy", "episode", "step", "action", "reward", "return_to_go", "decision_ms", "level"
    ]  # fmt: skip
    assert pa.types.is_dictionary(table.schema.field("policy").type)
    assert policies_of(table) == ["dense", "bba"]
    assert table["episode"].unique().to_pylist() == ["b", "a", "c"]
    dense = select(table, "dense")
    assert dense["reward"].to_pylist() == reward[short].tolist()
    assert dense["step"].to_pylist() == [0, 1, 2, 3, 0, 1, 0]
    assert dense["return_to_go"].to_pylist() == [None, *reward[short][1:].tolist()]
    assert select(table, "bba")["return_to_go"].null_count == 12
    assert table["decision_ms"].null_count == len(table)
    assert select(table, "bba", "a")["level"].to_pylist() == reward[1].tolist()


def test_why_another_policy_decided_is_a_column_where_any_policy_says_so(tmp_path: Path) -> None:
    shape, valid = (2, 2), np.array([[True, True], [True, False]])
    plain: Columns = {"action": np.ones(shape, int), "reward": np.ones(shape)}
    reason = np.array([["deadline", None], [None, "outside"]], object)
    rows: dict[str, Columns] = {"sparse": plain, "guarded": {**plain, "reason": reason, "decision_ms": np.ones(shape)}}
    write_replay(tmp_path / "r", rows, ["a", "b"], dict.fromkeys(rows, valid))
    table = read_replay(tmp_path / "r")
    assert select(table, "guarded")["reason"].to_pylist() == ["deadline", None, None]
    assert select(table, "guarded")["decision_ms"].to_pylist() == [1, 1, 1]
    assert select(table, "sparse")["reason"].null_count == 3
    write_replay(tmp_path / "r", {"sparse": plain}, ["a", "b"], {"sparse": valid})
    assert "reason" not in read_replay(tmp_path / "r").column_names


def test_an_action_of_several_numbers(tmp_path: Path) -> None:
    action = np.arange(12).reshape(2, 3, 2)
    write_replay(
        tmp_path / "r",
        {"fifo": {"action": action, "reward": np.ones((2, 3))}},
        ["a", "b"],
        {"fifo": np.ones((2, 3), bool)},
    )
    assert read_replay(tmp_path / "r")["action"].to_pylist() == action.reshape(6, 2).tolist()


@pytest.mark.parametrize(
    ("columns", "episodes", "reason"),
    [
        ({"action": np.ones((2, 3))}, ["a", "b"], r"lacks .*reward"),
        ({"action": np.ones((2, 3)), "reward": np.ones((2, 4))}, ["a", "b"], "reward is"),
        ({"action": np.ones((2, 3)), "reward": np.ones((2, 3))}, ["a"], "1 names"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path: Path, columns: Columns, episodes: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        write_replay(tmp_path / "r", {"bba": columns}, episodes, {"bba": np.ones((2, 3), bool)})


def test_files_that_are_no_replay(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_replay(tmp_path / "absent")
    (tmp_path / "text").write_text("policy,episode\n")
    with pytest.raises(UserError, match="not a readable parquet"):
        read_replay(tmp_path / "text")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other")
    with pytest.raises(UserError, match=r"other: not the file of a run, the columns \['policy'"):
        read_replay(tmp_path / "other")
