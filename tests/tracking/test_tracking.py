"""A run always ends tidily, whatever happened in it; what it logs offline is all there for `wandb sync`."""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import matplotlib.image
import numpy as np
import pytest
import wandb
from test_config import settings
from tracking.offline_run import sittings
from tracking.wandb_server import listening

from edgenetllm.config import load_config
from edgenetllm.errors import UserError
from edgenetllm.report.run_labels import digest
from edgenetllm.run import Run
from edgenetllm.tracking.tracking import log_identity, log_results, tracked, wandb_mode
from edgenetllm.tracking.wandb_names import run_group, run_name, run_tags

CHOICES = {"task": "abr", "model": "tiny", "pruning": "wanda"}
TABLE = (["policy", "episode", "qoe"], [["bba", "trace 1", 1.0], ["sparse", "trace 1", 1.5]])


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    def make(*overrides: str, sweep: str | None = None, folder: str = "run"):
        resolved = settings("experiment=debug", *overrides)
        run = Run(tmp_path / folder, "train", resolved, CHOICES, sweep, words=["experiment=debug", *overrides])
        return load_config(resolved), run

    return make


@pytest.mark.parametrize("logger", ["wandb", "csv", "tensorboard"])
def test_results_reach_every_logger_and_the_run_is_closed(start, logger):
    config, run = start(f"logger={logger}")
    with tracked(config, run) as tracker:
        log_results(tracker, {"test/qoe": 1.25}, TABLE, run.folder)
    assert run.state()["status"] == "finished"
    assert wandb.run is None
    assert any(path.is_file() for path in (run.folder / ("wandb" if logger == "wandb" else logger)).rglob("*"))


SEVERAL = ["logger=[wandb,csv]", "+logger.two._target_=lightning.pytorch.loggers.CSVLogger", "+logger.two.name=two"]


def test_a_failure_closes_every_logger_as_failed(start, mylab):
    words = [f"+logger.lines._target_={mylab}.pieces.Lines", "+logger.lines.server=here"]
    config, run = start(*SEVERAL, *words)

    def job() -> None:
        with tracked(config, run) as tracker:
            tracker.log_metrics({"val/qoe": 2.5})
            raise ValueError("no such trace")

    with pytest.raises(ValueError, match="no such trace"):
        job()
    (logged,) = sittings(run.folder)
    assert (logged.exit_code, len(logged.alerts)) == (1, 1)
    assert logged.summary["val/qoe"] == 2.5
    for name in ("csv", "two"):
        (file,) = (run.folder / name).glob("version_0/metrics.csv")
        assert "2.5" in file.read_text()
    lines = (run.folder / "lines.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == {"status": "failed"}
    assert json.loads(lines[1])["params"]["budget.epochs"] == run.settings["budget"]["epochs"]
    log = (run.folder / "run.log").read_text()
    assert "ERROR edgenetllm.run: the run failed" in log
    assert "ValueError: no such trace" in log


def test_a_logger_that_does_not_open_closes_those_that_did(start, mylab):
    words = [f"+logger.lines._target_={mylab}.pieces.Lines", "+logger.lines.server=down"]
    config, run = start("logger=wandb", *words)
    with pytest.raises(UserError, match=r"logger\.lines: .*the server is down"), tracked(config, run):
        pass
    (logged,) = sittings(run.folder)
    assert logged.exit_code == 1
    assert wandb.run is None
    assert run.state()["status"] == "failed"


def test_a_second_logger_of_wandb_is_refused(start):
    config, run = start("logger=wandb", "+logger.b._target_=lightning.pytorch.loggers.WandbLogger")
    with pytest.raises(UserError, match=r"logger\.b: W&B has one run in a process"), tracked(config, run):
        pass


def test_arguments_of_wandb_are_those_of_its_node(start):
    config, run = start("logger=wandb", "+logger.wandb.job_type=mine", "logger.project=ours")
    with tracked(config, run):
        pass
    (logged,) = sittings(run.folder)
    assert logged.job_type == "mine"


def test_no_logger_at_all(start):
    config, run = start("~logger.csv")
    with tracked(config, run) as tracker:
        log_results(tracker, {"test/qoe": 1.25}, TABLE, run.folder)
    assert tracker == []


def test_the_log_of_a_run_has_what_is_printed_and_what_libraries_say(start, capsys):
    config, run = start("logger=csv")
    before = sys.stdout, logging.getLogger().handlers[:]
    with tracked(config, run):
        print("half a line, ", end="")
        print("and the rest")
        print("a warning of ours", file=sys.stderr)
        print("10 %\r20 %\r30 %", file=sys.stderr)
        logging.getLogger("lightning.pytorch.utilities.rank_zero").info("of Lightning")
        logging.getLogger("somelib").warning("of a library")
    assert (sys.stdout, logging.getLogger().handlers) == before
    print("after the run")
    log = (run.folder / "run.log").read_text()
    for line in (
        "INFO edgenetllm.run: half a line, and the rest",
        "INFO edgenetllm.run: a warning of ours",
        "INFO lightning.pytorch.utilities.rank_zero: of Lightning",
        "WARNING somelib: of a library",
        "INFO edgenetllm.run: finished",
    ):
        assert log.count(line) == 1
    assert "%" not in log
    assert "after the run" not in log
    assert "half a line, and the rest" in capsys.readouterr().out


def test_what_is_logged_offline_is_in_the_file_that_is_synced(start):
    config, run = start("logger=wandb", "sparsity=0.6")
    (run.folder / "plots").mkdir(parents=True)
    matplotlib.image.imsave(run.folder / "plots" / "qoe_cdf.png", np.zeros((2, 2)))
    with tracked(config, run) as tracker:
        log_results(tracker, {"test/qoe": 1.25, "bundle/mb": 3.5}, TABLE, run.folder)
    (logged,) = sittings(run.folder)
    assert (logged.id, logged.job_type, logged.exit_code) == (run.id, "train", 0)
    assert logged.config["budget.epochs"] == run.settings["budget"]["epochs"]
    assert logged.config["sparsity"] == 0.6
    assert {key: logged.config[key] for key in CHOICES} == CHOICES
    assert not [key for key, value in logged.config.items() if isinstance(value, dict) and key != "_wandb"]
    assert (logged.summary["test/qoe"], logged.summary["bundle/mb"]) == (1.25, 3.5)
    (uploads,) = (run.folder / "wandb").glob("offline-run-*/files")
    table = next(name for name in logged.files if name.startswith("media/table/test/table"))
    assert json.loads((uploads / table).read_text()) == {"columns": TABLE[0], "data": TABLE[1]}
    assert (uploads / next(name for name in logged.files if "qoe_cdf" in name)).is_file()
    assert not logged.alerts


def test_runs_of_a_sweep_over_any_key_can_be_compared_by_group_name_and_tags(start):
    logged = {}
    for rank in (2, 8):
        for seed in (1, 2):
            typed = [f"adapter.rank={rank}", f"seed={seed}"]
            config, run = start("logger=wandb", *typed, sweep="ranks", folder=f"r{rank}s{seed}")
            with tracked(config, run):
                pass
            (logged[rank, seed],) = sittings(run.folder)
    groups = {place: one.group for place, one in logged.items()}
    assert groups[2, 1] == groups[2, 2] != groups[8, 1] == groups[8, 2]
    assert groups[8, 1].startswith("abr-tiny-synthetic adapter.rank=8 experiment=debug ")
    assert logged[8, 2].name == "experiment=debug adapter.rank=8 seed=2"
    assert sorted(logged[8, 2].tags) == sorted(["experiment=debug", "adapter.rank=8", "seed=2", "ranks"])
    assert logged[8, 2].config["folder"] == "ranks/r8s2"


def test_a_typed_group_wins(start):
    config, run = start("logger=wandb", "logger.group=mine", "logger.tags=[a]", sweep="ranks")
    with tracked(config, run):
        pass
    (logged,) = sittings(run.folder)
    assert (logged.group, sorted(logged.tags)) == ("mine", ["a", "experiment=debug", "ranks"])


def test_words_that_change_no_result_name_nothing(tmp_path):
    words = [
        "sweep=ranks",
        "paths.cache_dir=/a",
        "callbacks.progress_bar=false",
        "logger=wandb",
        "run=/b",
        "+adapter.x=1",
    ]
    run = Run(tmp_path / "x", "train", settings("experiment=debug"), CHOICES, words=words)
    assert run_name(run) == "+adapter.x=1 seed=1"
    assert run_group(run).startswith("abr-tiny-synthetic +adapter.x=1 ")
    assert run_tags(run, ["mine"]) == ["mine", "sweep=ranks", "+adapter.x=1"]


def test_long_words_keep_names_within_limits_and_apart(tmp_path):
    resolved = settings("experiment=debug")
    long = [f"task.features={'x' * 200}{end}" for end in "ab"]
    runs = [Run(tmp_path / end, "train", resolved, CHOICES, words=[word]) for end, word in zip("ab", long, strict=True)]
    for name in (run_group, run_name, lambda run: run_tags(run, [])[0]):
        names = [name(run) for run in runs]
        assert len(set(names)) == 2
        assert max(map(len, names)) <= 128
    assert max(len(tag) for run in runs for tag in run_tags(run, [])) <= 64


def test_settings_that_were_not_typed_tell_groups_apart_too(tmp_path):
    groups = [
        run_group(
            Run(tmp_path / "x", "train", settings("experiment=debug", *more), CHOICES, words=["experiment=debug"])
        )
        for more in ([], ["budget.epochs=7"], ["seed=9"], ["paths.cache_dir=elsewhere"])
    ]
    assert groups[0] != groups[1]
    assert groups[0] == groups[2] == groups[3]


def test_the_group_of_the_comparison_page_is_in_the_config(start, results):
    config, run = start("logger=wandb")
    identity = {"adapter.rank": 8, "code": "3fa9c1"}
    with tracked(config, run) as tracker:
        log_identity(tracker, results.model_copy(update={"identity": identity}))
    (logged,) = sittings(run.folder)
    assert (logged.config["identity"], logged.config["identity.code"]) == (digest(identity), "3fa9c1")


@contextmanager
def silent_server() -> Iterator[str]:
    """It takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def no_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("surroundings", [no_server, silent_server])
def test_a_key_without_a_network_goes_on_offline(start, monkeypatch, capsys, surroundings):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    began = time.monotonic()
    with surroundings() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        config, run = start("logger=wandb")
        with tracked(config, run) as tracker:
            log_results(tracker, {"test/qoe": 1.25}, TABLE, run.folder)
    assert time.monotonic() - began < 20
    (logged,) = sittings(run.folder)
    assert logged.summary["test/qoe"] == 1.25
    assert run.state()["status"] == "finished"
    assert f"warning: logger=wandb: {url} does not answer, so this run is logged offline" in capsys.readouterr().err


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A W&B server for this process, which has a key for it."""
    with listening() as found:
        wandb.teardown()  # it keeps the server that it found in the environment first
        monkeypatch.delenv("WANDB_MODE", raising=False)
        for name, value in found.surroundings(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield found
    wandb.teardown()


def test_a_server_that_answers_is_used(start, server):
    assert wandb_mode("auto") == "online"
    config, run = start("logger=wandb", "adapter.rank=8")
    with tracked(config, run):
        pass
    (sent, *_) = server.all("UpsertBucket")
    assert (sent["groupName"], sent["displayName"]) == (run_group(run), "experiment=debug adapter.rank=8 seed=1")


def test_a_wrong_key_is_an_error(start, server):
    server.knows_the_key = False
    config, run = start("logger=wandb")
    with pytest.raises(UserError, match="logger=wandb does not start"), tracked(config, run):
        pass


def test_a_server_that_stops_answering_is_as_good_as_none(start, server, monkeypatch, capsys):
    server.answers = False
    monkeypatch.setattr("edgenetllm.tracking.tracking.START_S", 3.0)
    config, run = start("logger=wandb")
    with tracked(config, run):
        pass
    assert len(sittings(run.folder)) == 1
    assert "does not answer, so this run is logged offline" in capsys.readouterr().err


def test_online_that_was_typed_fails_soon_without_a_network(start, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    began = time.monotonic()
    with no_server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        config, run = start("logger=wandb", "logger.mode=online")
        with pytest.raises(UserError, match=r"logger\.mode=online: .* does not answer"), tracked(config, run):
            pass
    assert time.monotonic() - began < 10
    assert run.state()["status"] == "failed"


def test_a_resumed_run_is_the_same_run_in_the_same_group(start):
    config, run = start("logger=wandb", sweep="nightly")
    with pytest.raises(KeyboardInterrupt), tracked(config, run):
        raise KeyboardInterrupt
    config, run = start("logger=wandb", f"resume={run.folder}")  # not as a job of the sweep
    with tracked(config, run) as tracker:
        log_results(tracker, {"test/qoe": 1.25}, TABLE, run.folder)
    first, second = sittings(run.folder)
    assert (first.id, first.group, first.exit_code, second.exit_code) == (second.id, second.group, 1, 0)
    assert first.name == second.name
    assert "nightly" in second.tags


def test_a_failure_is_alerted_with_its_first_line_before_the_run_closes(start):
    config, run = start("logger=wandb")
    with pytest.raises(ValueError, match="no such trace"), tracked(config, run):
        raise ValueError("no such trace\nand much else")
    (logged,) = sittings(run.folder)
    assert logged.alerts == [("ERROR", "train failed", f"{run.folder}: ValueError: no such trace")]
    assert logged.exit_code == 1
    assert run.state()["status"] == "failed"
    assert wandb.run is None


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_who_interrupts_a_run_needs_no_alert(start, interruption):
    config, run = start("logger=wandb")
    with pytest.raises(interruption), tracked(config, run):
        raise interruption
    (logged,) = sittings(run.folder)
    assert (logged.alerts, logged.exit_code) == ([], 1)
    assert run.state()["status"] == "interrupted"


def test_a_logger_that_fails_too_does_not_hide_the_error(start, capsys):
    config, run = start("logger=wandb")

    def job() -> None:
        with tracked(config, run):
            wandb.finish()  # so that the alert raises
            raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        job()
    assert "the experiment logger could not record the failure" in capsys.readouterr().err
    assert run.state()["status"] == "failed"


def test_disabled_writes_nothing(start, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config, run = start("logger=wandb")
    with tracked(config, run) as tracker:
        log_results(tracker, {"test/qoe": 1.25}, TABLE, run.folder)
    assert not sittings(run.folder)
    assert run.state()["status"] == "finished"


@pytest.mark.parametrize(
    ("mode", "surroundings", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {"WANDB_MODE": "online"}, "online"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("auto", {"NETRC": "api.wandb.ai"}, "online"),
        ("auto", {"NETRC": "wandb.example.org"}, "offline"),
        ("auto", {"NETRC": "wandb.example.org", "WANDB_BASE_URL": "https://wandb.example.org"}, "online"),
    ],
)
def test_online_needs_a_key_of_the_server_in_use(tmp_path, monkeypatch, mode, surroundings, expected):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {surroundings.get('NETRC', 'example.org')} login user password secret\n")
    netrc.chmod(0o600)
    for name, value in {**surroundings, "NETRC": str(netrc)}.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(mode) == expected


def test_a_wandb_that_does_not_start_is_explained(start):
    config, run = start("logger=wandb", "logger.project=a/b")  # W&B refuses a slash
    with pytest.raises(UserError, match=r"logger=wandb does not start \(.*logger.mode=offline"), tracked(config, run):
        pass
    assert run.state()["status"] == "failed"


@pytest.mark.parametrize("name", ["wandb", "csv", "tensorboard"])
def test_the_saved_configuration_of_an_older_run_is_still_read(name):
    resolved = settings("experiment=debug", f"logger={name}")
    nodes = load_config(resolved).logger.nodes
    for key in ("entity", "upload", name):
        del resolved["logger"][key]
    resolved["logger"]["name"] = name
    logger = load_config(resolved).logger
    assert (logger.upload, logger.nodes) == (["adaptation", "bundle"], nodes)


def test_id_start_and_words_outlive_an_interruption(start):
    _, run = start("logger=csv")
    run.start()
    first = run.state()
    run.finish("interrupted")
    run.words = ["resume=true"]
    run.start()
    state = json.loads((run.folder / "run.json").read_text())
    assert (run.id, state["status"]) == (first["id"], "running")
    assert datetime.now(UTC) - datetime.fromisoformat(first["started"]) < timedelta(minutes=1)
    assert (state["started"], state["words"]) == (first["started"], ["experiment=debug", "logger=csv"])
