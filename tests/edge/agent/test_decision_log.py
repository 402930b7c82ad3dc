"""A log loses nothing without a word: whole files, crashes, full disks, several writers, rotation, bounded memory."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from edgenetllm.edge.agent import decision_log as module
from edgenetllm.edge.agent.decision_log import DecisionLog, encode
from edgenetllm.edge.agent.log_file import LogFile, recover
from edgenetllm.edge.agent.logged import LoggedSession, decision_record
from edgenetllm.errors import UserError
from edgenetllm.tasks.observation import Ragged


def wait_until(condition) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.005)


def published(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for path in published(folder) for line in path.read_text().splitlines()]


def left_open(folder: Path) -> list[Path]:
    return list(folder.glob(".*.part"))


def test_what_is_written_is_in_whole_files_after_close(tmp_path):
    with DecisionLog(tmp_path / "new" / "logs", rotate_bytes=200) as log:
        for step in range(20):
            log.write({"step": step, "text": "x" * 50})
    assert [row["step"] for row in logged(log.folder)] == list(range(20))  # the order of the names is that of time
    assert len(published(log.folder)) >= 7  # three lines each
    assert max(path.stat().st_size for path in published(log.folder)) <= 200
    assert left_open(log.folder) == []
    assert (log.written, log.lost, log.problem) == (20, 0, None)
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.write({})


def test_a_file_that_is_old_enough_is_published_though_nothing_more_comes(tmp_path):
    with DecisionLog(tmp_path, rotate_seconds=0.05) as log:
        log.write({"step": 0})
        wait_until(lambda: published(tmp_path))
        log.write({"step": 1})
        wait_until(lambda: len(published(tmp_path)) == 2)


def test_a_log_without_a_decision_leaves_nothing(tmp_path):
    DecisionLog(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_values_of_any_kind_become_json_and_what_is_not_finite_is_not_known():
    row = {
        "plain": 1, "float32": np.float32(0.1), "flag": np.bool_(True), "nan": float("nan"), "strange": object(),
        "array": np.array([[1.5, np.inf]]), "rows": Ragged(np.arange(6.0).reshape(1, 3, 2), np.array([2], np.int32)),
    }  # fmt: skip
    read = json.loads(encode(row))
    assert np.float32(read.pop("float32")) == np.float32(0.1)
    assert read == {
        "plain": 1, "flag": True, "nan": None, "strange": None, "array": [[1.5, None]], "rows": [[0.0, 1.0], [2.0, 3.0]],
    }  # fmt: skip


CRASHING = """
import os, signal, sys, time
from edgenetllm.edge.agent.decision_log import DecisionLog
log = DecisionLog(sys.argv[1])
for step in range(100):
    log.write({"step": step})
while log.written < 100:
    time.sleep(0.01)
os.write(log._file.descriptor, b'{"step": 100, "half')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_whole_lines_for_the_next_start(tmp_path):
    done = subprocess.run([sys.executable, "-c", CRASHING, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert published(tmp_path) == []
    with DecisionLog(tmp_path) as log:
        assert log.recovered == published(tmp_path)
    assert [row["step"] for row in logged(tmp_path)] == list(range(100))
    assert left_open(tmp_path) == []


def test_zeros_after_a_loss_of_power_and_empty_files_are_cut(tmp_path):
    (tmp_path / ".decisions-1.part").write_bytes(b'{"step": 0}\n{"st\0\0\0\n\0')
    (tmp_path / ".decisions-2.part").write_bytes(b'{"half')
    assert recover(tmp_path) == [tmp_path / "decisions-1.jsonl"]
    assert logged(tmp_path) == [{"step": 0}]
    assert left_open(tmp_path) == []


def test_the_open_file_of_a_living_process_is_left_alone(tmp_path):
    with DecisionLog(tmp_path) as one:
        one.write({"by": "one"})
        wait_until(lambda: one.written)
        with DecisionLog(tmp_path) as other:
            assert other.recovered == []
            other.write({"by": "other"})
        one.write({"by": "one"})
    assert sorted(row["by"] for row in logged(tmp_path)) == ["one", "one", "other"]


def test_processes_and_threads_in_one_folder_do_not_collide(tmp_path):
    program = (
        "import sys\nfrom edgenetllm.edge.agent.decision_log import DecisionLog\n"
        "with DecisionLog(sys.argv[1], rotate_bytes=500) as log:\n"
        "    [log.write({'who': sys.argv[2], 'step': step}) for step in range(200)]\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in "ab"]
    with DecisionLog(tmp_path, rotate_bytes=500) as log:
        threads = [
            threading.Thread(target=lambda n=n: [log.write({"who": n, "step": step}) for step in range(200)])
            for n in "cd"
        ]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert [process.wait() for process in others] == [0, 0]
    assert sorted((row["who"], row["step"]) for row in logged(tmp_path)) == [(w, s) for w in "abcd" for s in range(200)]


def test_a_full_disk_is_one_sentence_and_the_lost_are_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    full, real = threading.Event(), os.write

    def write(descriptor: int, data: bytes) -> int:
        if full.is_set() and len(data) > 3:
            return real(descriptor, data[:3])  # half a line fits
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    with DecisionLog(tmp_path) as log:
        log.write({"step": 0})
        wait_until(lambda: log.written == 1)
        monkeypatch.setattr(os, "write", lambda d, data: write(d, bytes(data)))
        full.set()
        for step in range(1, 6):
            log.write({"step": step})
        wait_until(lambda: log.lost == 5)
        assert re.fullmatch(
            rf"decision log: {tmp_path}: No space left on device \([\d.]+ \wB of [\d.]+ \wB free in {tmp_path}\): decisions "
            "go on and are not logged; make room, or choose another folder",
            str(log.problem),
        )
        assert [record.getMessage() for record in caplog.records] == [log.problem]
        full.clear()
        log.write({"step": 6})
        wait_until(lambda: log.written == 2)
        assert log.problem is None
        assert "5 decisions were lost" in caplog.records[-1].getMessage()
    assert [row["step"] for row in logged(tmp_path)] == [0, 6]


def test_a_disk_that_hangs_stops_no_decision_and_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BACKLOG_BYTES", 1000)
    free, real = threading.Event(), LogFile.append
    monkeypatch.setattr(LogFile, "append", lambda self, line: (free.wait(10), real(self, line)))
    with DecisionLog(tmp_path) as log:
        log.write({"text": "y" * 80})
        wait_until(lambda: not log._waiting)  # the thread hangs on the first
        began = time.monotonic()
        for _ in range(1000):
            log.write({"text": "x" * 80})
        assert time.monotonic() - began < 1
        assert sum(map(len, log._waiting)) <= 1000
        assert log.lost == 1000 - len(log._waiting) > 900
        waiting = threading.Thread(target=log.write, args=({"text": "z"},), kwargs={"wait": True})
        waiting.start()
        free.set()
        waiting.join(10)
    assert logged(tmp_path)[-1] == {"text": "z"}


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"decision log: .*file/logs cannot be written to"):
        DecisionLog(tmp_path / "file" / "logs")
    with pytest.raises(UserError, match="positive"):
        DecisionLog(tmp_path, rotate_bytes=0)


class Outcome(NamedTuple):
    by: str = "fallback"
    reason: str | None = "deadline"
    ms: float = 3.5


class Echo:
    """A session that acts as it is shown."""

    outcome = Outcome()
    return_to_go = 40.0

    def decide(self, observation):
        return observation["x"][0]

    def observe(self, reward) -> None:
        self.return_to_go -= reward


def test_a_record_has_the_reward_that_came_of_its_decision(tmp_path):
    shown = np.zeros(2)
    with DecisionLog(tmp_path) as log:
        session = LoggedSession(Echo(), log, "abr", "s1")
        for step in range(3):
            shown[:] = step
            assert session.decide({"x": shown}) == step
            if step < 2:
                session.observe(step + 0.5)
        session.end()
        session.end()
        given_up = LoggedSession(Echo(), log, "abr")
        given_up.decide({"x": [7, 7]})
        given_up.observe(1)
        given_up.end(done=False)
    rows = logged(tmp_path)
    assert [row.pop("time") > 1e9 for row in rows] == [True] * 4
    assert rows[1] == decision_record(
        "abr", "s1", 1, {"x": [1.0, 1.0]}, 1.0, Outcome(), reward=1.5, done=False, return_to_go=39.5
    )
    assert [(row["reward"], row["done"]) for row in rows] == [(0.5, False), (1.5, False), (None, True), (1, False)]
    assert rows[3]["session"] not in ("s1", "")
