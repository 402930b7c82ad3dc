"""evaluate.py replay=player as a user types it, with a tiny model."""

from __future__ import annotations

import pytest
from test_config import settings
from typed import call, runs

from edgenetllm.affects import options_for
from edgenetllm.commands import with_lists
from edgenetllm.compare.runs import read_run
from edgenetllm.config import Config, load_config
from edgenetllm.errors import UserError
from edgenetllm.report.episodes import read_replay
from edgenetllm.report.results import Results
from edgenetllm.tasks.abr.player.browser import find_browser


def chromium() -> str | None:
    try:
        return find_browser(None)
    except UserError:
        return None


needs_chromium = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["replay.cloud_ms=0,100"], ["replay.cloud_ms=[0,100]"]),
        (["replay.policies=sparse,bba", "data=a,b"], ["replay.policies=[sparse,bba]", "data=a,b"]),
        (["replay.cloud_ms=[0,100]"], ["replay.cloud_ms=[0,100]"]),
        (["replay.cloud_ms=100"], ["replay.cloud_ms=100"]),
        (["-m", "replay.cloud_ms=0,100"], ["-m", "replay.cloud_ms=0,100"]),
    ],
)
def test_several_values_of_a_list_are_one_run_and_with_m_a_sweep(words, expected):
    assert with_lists(words) == expected


def test_one_value_stands_for_a_list():
    replay = load_config(settings("replay=player", "replay.cloud_ms=100", "replay.policies=bba")).replay
    assert replay.cloud_ms == [100]
    assert replay.policies == ["bba"]


def test_a_run_in_the_simulator_has_the_identity_that_it_had_before_there_was_a_player():
    """Its stored configuration had no such section."""
    now = settings()
    before = {key: value for key, value in now.items() if key != "replay"}
    assert options_for("evaluation", now, Config) == options_for("evaluation", before, Config)
    assert load_config(before).replay.name == "simulator"
    played = options_for("evaluation", settings("replay=player"), Config)
    assert played["replay.cloud_ms"] == [0]
    assert not {"replay.browser", "replay.port", "replay.sessions", "replay.show", "replay.name"} & set(played)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replay.policies=[sparse,nobody]"], "replay.policies=nobody: choose among dense, sparse, fixed_1, bba"),
        pytest.param(
            ["replay.policies=[bba,bba]"],
            "replay.policies=['bba', 'bba']: name each of them once",
            marks=pytest.mark.slow,
        ),
        pytest.param(["replay.cloud_ms=0,0"], "name each of them once", marks=pytest.mark.slow),
        pytest.param(["replay.cloud_ms=-1"], "give a number from 0 to 60000", marks=pytest.mark.slow),
        pytest.param(["replay.speed=17"], "give a number above 0 and at most 16", marks=pytest.mark.slow),
        (["replay.traces=21"], "replay.traces=21: there are 20 test traces"),
        (["replay.browser=/nowhere/chromium"], "replay.browser='/nowhere/chromium': nothing lies there"),
        (["replay.tracs=2"], "replay.traces"),
    ],
)
def test_what_cannot_be_played_is_refused_before_anything_starts(trained, words, message):
    parent, before = runs(trained, "train")[0], runs(trained, "evaluate")
    output = call("evaluate.py", trained, f"run={parent}", "replay=player", *words, "logger=csv", ok=False)
    assert message in output
    assert runs(trained, "evaluate") == before


def test_a_simulator_has_no_options_of_the_player(trained):
    parent = runs(trained, "train")[0]
    output = call("evaluate.py", trained, f"run={parent}", "replay.speed=8", "logger=csv", ok=False)
    assert "replay.speed" in output


def test_training_in_the_player_is_refused(tmp_path):
    output = call("train.py", tmp_path, "experiment=debug", "replay=player", ok=False)
    assert "replay=player: evaluate.py run=... plays the bundle of a finished run in the player" in output


@needs_chromium
def test_a_dry_run_says_what_would_be_played(trained):
    parent = runs(trained, "train")[0]
    words = ["replay=player", "replay.traces=3", "replay.cloud_ms=0,100", "replay.speed=8", "dry_run=true"]
    output = call("evaluate.py", trained, f"run={parent}", *words, "logger=csv")
    assert "would play 18 sessions of about 24 s each, 1 at a time" in output


@needs_chromium
@pytest.mark.slow
def test_a_bundle_plays_in_the_player_and_finished_sessions_are_kept(trained):
    parent = runs(trained, "train")[0]
    words = ["replay=player", "replay.traces=1", "replay.policies=[sparse,bba]", "replay.speed=16", "logger=csv"]
    output = call("evaluate.py", trained, f"run={parent}", *words)
    run = runs(trained, "evaluate")[-1] / "abr"
    # Results as from the simulator, which say what they are.
    results = Results.load(run / "results.json")
    assert set(results.policies) == {"sparse", "bba"}
    assert results.replay is not None
    assert results.replay["speed"] == 16
    assert str(results.replay["chromium"]).startswith(("Chromium", "Google Chrome"))
    assert results.identity is not None
    assert results.identity["replay.cloud_ms"] == [0]
    assert "in a real player at 16 times its pace" in output
    replay = read_replay(run / "replay.parquet")
    assert replay.num_rows == 2 * 47
    assert {"clock_s", "bandwidth_mbps", "buffer_s", "waited_s"} <= set(replay.column_names)
    for name in ("table.md", "player.md", "player_chunks.parquet", "metrics.parquet", "plots/timeline.png"):
        assert (run / name).is_file(), name
    # No comparison takes them for figures of the simulator.
    with pytest.raises(UserError, match="played in a real player"):
        read_run(run)
    # One policy more: those that were played are found again.
    again = call("evaluate.py", trained, f"run={parent}", *words, "replay.policies=[sparse,bba,fixed_1]")
    assert "player: 2 of 3 sessions were played before" in again
    figures = Results.load(runs(trained, "evaluate")[-1] / "abr" / "results.json").policies
    assert {name: figures[name] for name in results.policies} == results.policies
