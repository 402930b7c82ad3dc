"""An agent that is killed, or whose disk fails, goes on deciding or starts again, and its log is cut off, never wrong."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from faulty import SERVE, UNHARMED, Ended, Fault, Started
from scenarios import TRIES, parent

STEPS = 20  # decisions of a session
BEHIND = (
    4  # decisions of a session that the log may lack: one waits for its reward, the others are on their way to the disk
)
ADDRESS = re.compile(r"^serving .* at (http://127\.0\.0\.1:\d+)$", re.MULTILINE)
OF_A_ROW = ("step", "action", "reward", "done", "task")


class Agent:
    """A served bundle, with its log below `place`."""

    def __init__(self, place: Path, fault: Fault) -> None:
        self.log = place / "log"
        bundle = parent() / "logs" / "train" / "parent" / "bundle"
        words = [SERVE, str(bundle), "--port=0", "--log", str(self.log), "--instructions=portable"]
        self.started = Started(words, place, fault)
        self.answers: dict[str, list[Any]] = {}

    def play(self, sessions: int = 2) -> None:
        """Sessions that take turns, until all are over or the agent does not answer any more."""
        deadline = time.monotonic() + 120
        while (found := ADDRESS.search(self.started.output.read_text())) is None:
            if self.started.poll() is not None:
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)
        try:
            ids = [self._ask(f"{found[1]}/sessions", {})["session"] for _ in range(sessions)]
            self.answers = {one: [] for one in ids}
            for step in range(STEPS):
                for number, one in enumerate(ids):
                    reward = {"reward": step + number / 2} if step else {}
                    body = {"observation": observation(step, number), "step": step, **reward}
                    self.answers[one].append(self._ask(f"{found[1]}/sessions/{one}/decide", body)["action"])
            for one in ids:
                self._ask(f"{found[1]}/sessions/{one}?reward=0.5", None, "DELETE")
        except (urllib.error.URLError, ConnectionError, TimeoutError):  # it has died
            pass

    def end(self) -> Ended:
        if self.started.poll() is None:
            self.started.kill(signal.SIGTERM)
        return self.started.wait()

    def _ask(self, address: str, body: Any, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return json.loads(text) if text else None


def observation(step: int, number: int) -> dict[str, Any]:
    """Different at every step and in every session."""
    sizes = [round(size * (1 + 0.01 * ((7 * step + number) % 11)), 4) for size in (0.15, 0.4, 0.6, 0.9, 1.4, 2.1)]
    return {
        "last_quality": (step + number) % 6,
        "buffer_s": 4.0 + (3 * step + number) % 17,
        "throughput_mbps": 0.5 + (5 * step + 2 * number) % 13 / 3,
        "delay_s": 0.5 + (step % 5) / 4,
        "next_sizes_mb": sizes,
        "chunks_left": 47 - step,
    }


def played(place: Path, fault: Fault = UNHARMED) -> tuple[Agent, Ended]:
    """An agent that has played and ended."""
    agent = Agent(place, fault)
    try:
        agent.play()
    except BaseException:
        agent.started.kill()
        raise
    return agent, agent.end()


def logged(log: Path) -> list[list[dict[str, Any]]]:
    """The rows of each session, in the order in which the sessions began; every line must be whole."""
    sessions: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(log.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            sessions.setdefault(row["session"], []).append({name: row[name] for name in OF_A_ROW})
    return list(sessions.values())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[list[dict[str, Any]]]:
    """The log of an agent that was left alone."""
    place = tmp_path_factory.mktemp("alone")
    agent, ended = played(place)
    assert ended.code == 0, ended.output
    rows = logged(agent.log)
    assert [len(session) for session in rows] == [STEPS, STEPS]
    assert [[row["action"] for row in session] for session in rows] == list(agent.answers.values())
    return rows


def check_cut_off(rows: list[list[dict[str, Any]]], whole: list[list[dict[str, Any]]]) -> None:
    """Each session is the beginning of that of an agent that was left alone."""
    for session in rows:
        expected = next(other for other in whole if other[0]["reward"] == session[0]["reward"])
        assert session[:-1] == expected[: len(session) - 1]
        last, wanted = session[-1], expected[len(session) - 1]
        assert last in (wanted, {**wanted, "reward": None, "done": False})


@pytest.mark.slow
@pytest.mark.robustness
def test_an_agent_that_is_killed_has_logged_what_it_decided(tmp_path, whole, capsys):
    rng, ends, behind = Random("agent"), Counter(), 0
    events = played(tmp_path)[1].events
    for number in range(TRIES):
        place = tmp_path / str(number)
        place.mkdir()
        killed, ended = played(place, Fault("kill", rng.randint(1, events)))
        assert ended.code == -signal.SIGKILL, ended.output
        # The next one recovers its log, which is cut off, and decides the same again.
        ended = played(place)[1]
        assert ended.code == 0, ended.output
        assert not list(killed.log.glob(".*")), "an open file was left"
        rows = logged(killed.log)
        before, after = rows[:-2], rows[-2:]
        assert after == whole
        check_cut_off(before, whole)
        late = [len(answers) for answers in killed.answers.values() if answers]
        kept = [len(session) for session in before] + [0] * (len(late) - len(before))
        behind = max([behind, *(decided - stored for decided, stored in zip(late, kept, strict=True))])
        ends["with a log" if before else "before the first row"] += 1
    assert behind <= BEHIND
    with capsys.disabled():
        print(f"\nkilled agents: {TRIES}, {dict(ends)}; the log was at most {behind} decisions of a session behind")


@pytest.mark.slow
@pytest.mark.robustness
def test_an_agent_whose_disk_fails_goes_on_deciding(tmp_path, whole, capsys):
    rng, ends = Random("disk of an agent"), Counter()
    actions = [[row["action"] for row in session] for session in whole]
    events = played(tmp_path)[1].events
    for number in range(TRIES):
        place = tmp_path / str(number)
        place.mkdir()
        fault = Fault(rng.choice(["enospc", "eio"]), rng.randint(1, events), once=rng.random() < 0.5)
        agent, ended = played(place, fault)
        assert "Traceback" not in ended.output, f"{fault}\n{ended.output}"
        if ended.code == 2:  # it could not begin
            assert re.search(r"error: decision log: .* cannot be written to: .* free in /", ended.last_line), fault
            ends["refused to begin"] += 1
        else:
            assert ended.code == 0, f"{fault}\n{ended.output}"
            assert list(agent.answers.values()) == actions, fault
            ends["said so" if "decision log: " in ended.output else "lost nothing"] += 1
        ended = played(place)[1]
        assert ended.code == 0, ended.output
        rows = logged(agent.log)
        assert rows[-2:] == whole
        for session in rows[:-2]:  # rows may lack, none is wrong
            assert all(any(row in full for full in whole) for row in session)
    with capsys.disabled():
        print(f"\nagents with a failing disk: {TRIES}, {dict(ends)}")
