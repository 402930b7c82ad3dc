"""The agent over HTTP: decisions equal to the library's, everything that is refused, limits, metrics and schemas."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import jsonschema
import numpy as np
import pytest
from agents import bundle_of
from aiohttp.test_utils import TestClient, TestServer
from serving import post, started
from small import ROOT
from variants import TASKS, export, make

import edgenetllm.edge as edge
from edgenetllm.edge import serve
from edgenetllm.edge.agent.decision_log import DecisionLog
from edgenetllm.edge.agent.guarded import Safety
from edgenetllm.edge.agent.schema import task_schema
from edgenetllm.edge.agent.service import Service
from edgenetllm.edge.agent.sessions import Limits, Sessions, Unguarded
from edgenetllm.edge.policy import Policy, load_tasks
from edgenetllm.errors import UserError

STEPS = 12  # decisions of an episode that a test plays


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The bundle of a policy of both tasks."""
    tasks = [TASKS["fused"](), TASKS["pointer"]()]
    return export(make(*tasks), tmp_path_factory.mktemp("agent") / "bundle", values="int8")


@pytest.fixture(scope="module")
def policies(folder) -> dict[str, Policy]:
    return load_tasks(folder)


def sessions_of(policies: dict[str, Policy], limits: Limits | None = None, **options: Any) -> Sessions:
    return Sessions({name: Unguarded(policy) for name, policy in policies.items()}, limits, **options)


@asynccontextmanager
async def serving(sessions: Sessions, token: str | None = None) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(Service(sessions, token).application())) as client:
        yield client


async def ask(client: TestClient, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
    """Status and answer, which is JSON wherever there is one."""
    async with client.request(method, path, json=body, **options) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text else None


async def opened(client: TestClient, task: str = "abr") -> str:
    status, answer = await ask(client, "POST", "/sessions", {"task": task})
    assert status == 201, answer
    return f"/sessions/{answer['session']}"


def as_json(observation: dict[str, Any]) -> dict[str, Any]:
    """The observation of the first episode, as a client writes it."""
    rows = {n: v.values[0, : v.count[0]] if isinstance(v, edge.Ragged) else v[0] for n, v in observation.items()}
    return {name: np.asarray(value).tolist() for name, value in rows.items()}


def episode(policy: Policy, variant: str, seed: int, steps: int = STEPS) -> list[dict[str, Any]]:
    """An episode of the simulator that the policy plays: bodies of the requests, and the `action` of each."""
    environment = TASKS[variant]().environment("train")
    session, observation, bodies = policy.start(), environment.reset(np.array([seed])), []
    reward: dict[str, float] = {}
    for _ in range(steps):
        body = {"observation": as_json(observation), **reward}
        action = session.decide(body["observation"])
        bodies.append({**body, "action": np.asarray(action).tolist()})
        observation, earned, done = environment.step(np.asarray(action)[None])
        reward = {"reward": float(earned[0])}
        session.observe(reward["reward"])
        if done.all():
            break
    return bodies


def request(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "action"}


@pytest.mark.parametrize(("task", "variant"), [("abr", "fused"), ("cjs", "pointer")])
def test_a_session_over_http_decides_as_the_library_does(task, variant, policies):
    async def play() -> None:
        async with serving(sessions_of(policies)) as client:
            _, schemas = await ask(client, "GET", "/schema")
            schema = schemas["tasks"][task]
            jsonschema.Draft202012Validator.check_schema(schema["observation"])
            path = await opened(client, task)
            for step, body in enumerate(expected):
                jsonschema.validate(body["observation"], schema["observation"])
                status, answer = await ask(client, "POST", f"{path}/decide", {**request(body), "step": step})
                assert status == 200, answer
                assert answer["action"] == body["action"]
                jsonschema.validate(answer["action"], schema["action"])
                assert (answer["by"], answer["reason"], answer["step"]) == ("model", None, step)
                assert 0 < answer["ms"] < 10_000
            assert (await ask(client, "DELETE", path))[0] == 204
            assert (await ask(client, "POST", f"{path}/decide", request(expected[0])))[0] == 404

    expected = episode(policies[task], variant, seed=3, steps=60)
    assert len(expected) > 10
    assert len({json.dumps(body["action"]) for body in expected}) > 1  # else anything would be equal
    asyncio.run(play())


def test_sessions_that_take_turns_decide_as_each_alone(policies):
    alone = [episode(policies[task], variant, seed) for task, variant in (("abr", "fused"), ("cjs", "pointer"))
             for seed in range(4)]  # fmt: skip
    assert len({json.dumps([body["action"] for body in bodies]) for bodies in alone}) > 2

    async def play(client: TestClient, bodies: list[dict[str, Any]]) -> list[Any]:
        path = await opened(client, "abr" if "buffer_s" in bodies[0]["observation"] else "cjs")
        answers = [await ask(client, "POST", f"{path}/decide", request(body)) for body in bodies]
        return [answer["action"] for _, answer in answers]

    async def play_all() -> list[list[Any]]:
        async with serving(sessions_of(policies)) as client:
            return await asyncio.gather(*(play(client, bodies) for bodies in alone))

    assert asyncio.run(play_all()) == [[body["action"] for body in bodies] for bodies in alone]


GOOD = {
    "last_quality": 1, "buffer_s": 8.0, "throughput_mbps": 1.7, "delay_s": 0.6,
    "next_sizes_mb": [0.15, 0.4, 0.6, 0.9, 1.4, 2.1], "chunks_left": 47,
}  # fmt: skip
GRAPH: dict[str, Any] = {"stages": [], "jobs": [], "edges": [], "committable": 0, "source_job": -1, "executors": 5}

# What is asked of a session of ABR before its first decision, the status, and what the sentence says.
REFUSED: list[tuple[Any, int, str]] = [
    ({}, 400, "observation is missing"),
    ({"observation": None}, 400, "observation must be an object"),
    ({"observation": [1]}, 400, "observation must be an object"),
    ({"observation": GOOD, "task": "abr"}, 400, "'task' is unknown in the body"),
    ({"observation": {k: v for k, v in GOOD.items() if k != "buffer_s"}}, 400, "buffer_s is missing"),
    ({"observation": GOOD | {"colour": 1}}, 400, "'colour' is unknown"),
    ({"observation": GOOD | {"buffer_s": "full"}}, 400, "buffer_s is 'full', not numbers"),
    ({"observation": GOOD | {"buffer_s": None}}, 400, "buffer_s is None, not numbers"),
    ({"observation": GOOD | {"buffer_s": True}}, 400, "buffer_s is True, not numbers"),
    ({"observation": GOOD | {"buffer_s": [8.0]}}, 400, r"buffer_s has shape (1,), not ()"),
    ({"observation": GOOD | {"buffer_s": 1e39}}, 400, "buffer_s holds NaN, infinity or a number beyond float32"),
    ({"observation": GOOD | {"next_sizes_mb": [1, 2]}}, 400, "next_sizes_mb has shape (2,), not (6)"),
    ({"observation": GOOD | {"next_sizes_mb": [[1], 2, 3, 4, 5, 6]}}, 400, "next_sizes_mb is"),
    ({"observation": GOOD | {"last_quality": 6}}, 400, "last_quality is 6, and must be from 0 to 5"),
    ({"observation": GOOD | {"last_quality": 1.5}}, 400, "last_quality is no whole number"),
    ({"observation": GRAPH}, 400, "last_quality is missing"),
    ({"observation": GOOD, "reward": 1.0}, 400, "reward must be left out of the first decision"),
    ({"observation": GOOD, "step": 1}, 409, "the next decision of this session is step 0, not 1"),
    ({"observation": GOOD, "step": "0"}, 409, "the next decision of this session is step 0, not '0'"),
    ("[1, 2]", 400, "the body must be a JSON object"),
    ('{"observation": {"buffer_s": NaN}}', 400, "the body is no JSON: NaN is not JSON"),
    ('{"observation": ', 400, "the body is no JSON"),
    ("[" * 100_000, 400, "the body is no JSON"),
    (b"\xff\xfe", 400, "the body is no JSON"),
    ('"' + "x" * 300_000 + '"', 413, "the body is larger than this agent takes"),
]  # fmt: skip
AFTER_ONE: list[tuple[Any, int, str]] = [
    ({"observation": GOOD}, 400, "reward is None, not the number"),
    ({"observation": GOOD, "reward": "high"}, 400, "reward is 'high', not the number"),
    ({"observation": GOOD, "reward": True}, 400, "reward is True, not the number"),
    ({"observation": GOOD, "reward": 1e39}, 400, "not finite or beyond float32"),
    ({"observation": GOOD | {"buffer_s": []}, "reward": 1.0}, 400, "buffer_s has shape (0,)"),
    ({"observation": GOOD, "reward": 1.0, "step": 0}, 409, "step 1, not 0"),
]


def test_what_is_refused_says_why_and_changes_nothing(policies):
    limits = Limits(body_bytes=200_000)

    async def play() -> dict[int, int]:
        sessions = sessions_of(policies, limits)
        async with serving(sessions) as client:
            path = f"{await opened(client)}/decide"
            for cases, body in ((REFUSED, expected[0]), (AFTER_ONE, expected[1]), ((), expected[2])):
                for asked, status, sentence in cases:
                    data = asked if isinstance(asked, str | bytes) else json.dumps(asked)
                    async with client.post(path, data=data) as answer:
                        found = (answer.status, (await answer.json())["error"])
                    assert found[0] == status, (asked, found)
                    assert sentence in found[1], (asked, found)
                status, answer = await ask(client, "POST", path, request(body))
                assert (status, answer["action"]) == (200, body["action"])
            return dict(sessions.metrics.refused)

    expected = episode(policies["abr"], "fused", seed=1)
    wanted = [status for _, status, _ in [*REFUSED, *AFTER_ONE]]
    assert asyncio.run(play()) == {status: wanted.count(status) for status in set(wanted)}


def test_pages_sessions_and_tasks_that_are_not_there(policies):
    async def play() -> None:
        async with serving(sessions_of(policies)) as client:
            for method, path, body, status, sentence in [
                ("GET", "/", None, 404, "no such page"),
                ("PUT", "/sessions", {}, 405, "does not take that method"),
                ("POST", "/sessions", {}, 400, "several tasks are served: say which, 'abr' or 'cjs'"),
                ("POST", "/sessions", {"task": "room"}, 400, "task 'room' is not served here, only 'abr' or 'cjs'"),
                ("POST", "/sessions", {"task": 1}, 400, "task is 1, not the name of a task"),
                ("POST", "/sessions", {"job": 1}, 400, "'job' is unknown in the body (known: task)"),
                ("POST", "/sessions/none/decide", {"observation": GOOD}, 404, "no such session"),
                ("DELETE", "/sessions/none", None, 404, "no such session"),
                (
                    "DELETE",
                    f"{await opened(client)}?reward=1",
                    None,
                    400,
                    "reward must be left out: no action was taken",
                ),
                ("DELETE", "/sessions/none?reward=much", None, 400, "reward is 'much', not a finite number"),
            ]:
                found = await ask(client, method, path, body)
                assert found[0] == status, found
                assert sentence in found[1]["error"]
            path = await opened(client, "cjs")
            graph = GRAPH | {"stages": [[0.0] * 10]}
            for observation, sentence in [
                (GOOD, "stages is missing"),
                (GRAPH | {"jobs": [[1, 2]]}, "jobs has shape (1, 2), not (rows, 6)"),
                (GRAPH | {"jobs": [[0.0] * 6, [1]]}, "jobs is"),
                (GRAPH | {"committable": 9}, "committable is more than executors"),
                (graph, "stages: column job names a row that jobs does not have"),
            ]:
                status, answer = await ask(client, "POST", f"{path}/decide", {"observation": observation})
                assert (status, sentence in answer["error"]) == (400, True), answer
            async with client.post("/sessions", headers={"Origin": "https://example.org"}) as answer:
                assert (answer.status, "pages in browsers" in (await answer.json())["error"]) == (403, True)

    asyncio.run(play())


def test_an_episode_ends_where_the_bundle_says_so(policies):
    async def play() -> None:
        async with serving(sessions_of(policies)) as client:
            status, answer = await ask(client, "POST", "/sessions", {"task": "abr"})
            last = policies["abr"].networks.max_steps
            assert (status, answer["max_steps"]) == (201, last)
            path = f"/sessions/{answer['session']}/decide"
            reward: dict[str, Any] = {}
            for _ in range(last):
                assert (await ask(client, "POST", path, {"observation": GOOD, **reward}))[0] == 200
                reward = {"reward": 0.5}
            status, answer = await ask(client, "POST", path, {"observation": GOOD, **reward})
            assert (status, answer["error"]) == (
                409, f"this session has taken the {last} decisions of an episode: open another one",
            )  # fmt: skip
            assert (await ask(client, "POST", "/sessions", {"task": "cjs"}))[1][
                "max_steps"
            ] is None  # a window moves on

    asyncio.run(play())


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_sessions_are_limited_and_expire(policies):
    clock = Clock()
    sessions = sessions_of({"abr": policies["abr"]}, Limits(sessions=2, idle_s=10, age_s=25), clock=clock)

    async def play() -> None:
        async with serving(sessions) as client:
            first, second = await opened(client), await opened(client)
            async with client.post("/sessions") as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
                assert "2 sessions are open" in (await answer.json())["error"]
            # One that is asked stays, one that is idle goes and makes room.
            clock.now = 9.0
            assert (await ask(client, "POST", f"{first}/decide", {"observation": GOOD}))[0] == 200
            clock.now = 11.0
            third = await opened(client)
            status, answer = await ask(client, "POST", f"{second}/decide", {"observation": GOOD})
            assert (status, "expired" in answer["error"]) == (404, True)
            # One that is too old goes, however often it is asked.
            for clock.now in (18.0, 24.0):
                body = {"observation": GOOD, "reward": 1.0}
                assert (await ask(client, "POST", f"{first}/decide", body))[0] == 200
            clock.now = 25.5
            sessions.expire()
            for path in (first, third):
                assert (await ask(client, "POST", f"{path}/decide", {"observation": GOOD}))[0] == 404
        assert sessions.metrics.ended == {("abr", "expired"): 3}

    asyncio.run(play())


def test_expired_sessions_are_freed_without_a_request(policies):
    sessions = sessions_of({"abr": policies["abr"]}, Limits(idle_s=0.05))

    async def play() -> None:
        async with serving(sessions) as client:
            await opened(client)
            assert sessions.by_task() == {"abr": 1}
            for _ in range(200):
                await asyncio.sleep(0.02)
                if sessions.by_task() == {"abr": 0}:
                    return
            raise AssertionError("still there")

    asyncio.run(play())


def test_limits_are_numbers_that_make_sense():
    for options, name in (({"sessions": 0}, "--sessions 0"), ({"idle_s": float("nan")}, "--idle-s nan"),
                          ({"age_s": -1}, "--age-s -1"), ({"body_bytes": 0}, "--body-bytes 0")):  # fmt: skip
        with pytest.raises(UserError, match=name):
            Limits(**options)


def test_a_token_is_asked_for(policies):
    async def play() -> None:
        async with serving(sessions_of(policies), token="open sesame") as client:
            wrong = (
                {},
                {"Authorization": "Bearer open"},
                {"Authorization": "open sesame"},
                {"Authorization": "Bearer \u00e9"},
            )
            for headers in wrong:
                for method, path in (
                    ("POST", "/sessions"),
                    ("GET", "/metrics"),
                    ("GET", "/schema"),
                    ("GET", "/nothing"),
                ):
                    async with client.request(method, path, headers=headers) as answer:
                        assert answer.status == 401
                        assert answer.headers["WWW-Authenticate"] == "Bearer"
                        assert "Authorization: Bearer TOKEN" in (await answer.json())["error"]
            assert (await ask(client, "GET", "/health"))[0] == 200
            right = {"Authorization": "Bearer open sesame"}
            assert (await ask(client, "POST", "/sessions", {"task": "abr"}, headers=right))[0] == 201

    asyncio.run(play())
    with pytest.raises(UserError, match="ASCII"):
        Service(sessions_of(policies), token="\u00e9")


SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[^"\\\n]*",?)+)\})? (\S+)')


def parsed(text: str) -> dict[str, float]:
    """The samples of an exposition, each of which has to belong to a family that was announced with help and type."""
    families, samples = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            families[name] = kind
        elif not line.startswith("# HELP "):
            found = SAMPLE.fullmatch(line)
            assert found is not None, line
            base = re.sub(r"_(bucket|sum|count)$", "", found[1])
            assert found[1] in families or families.get(base) == "histogram", line
            samples[f"{found[1]}{{{found[2] or ''}}}"] = float(found[3])
    return samples


def test_metrics_count_what_happened(policies):
    async def play() -> dict[str, float]:
        async with serving(sessions_of(policies)) as client:
            path = await opened(client)
            await opened(client, "cjs")
            for body in episode(policies["abr"], "fused", 0, steps=5):
                assert (await ask(client, "POST", f"{path}/decide", request(body)))[0] == 200
            assert (await ask(client, "DELETE", path))[0] == 204
            assert (await ask(client, "DELETE", path))[0] == 404
            async with client.get("/metrics") as answer:
                assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
                return parsed(await answer.text())

    found = asyncio.run(play())
    for name, value in {
        'decisions_total{task="abr",by="model"}': 5, 'sessions_open{task="abr"}': 0, 'sessions_open{task="cjs"}': 1,
        'sessions_opened_total{task="abr"}': 1, 'sessions_opened_total{task="cjs"}': 1,
        'sessions_ended_total{task="abr",how="closed"}': 1, 'refused_total{status="404"}': 1, "log_lost_total{}": 0,
        'decision_seconds_count{task="abr"}': 5, 'decision_seconds_bucket{task="abr",le="+Inf"}': 5,
    }.items():  # fmt: skip
        assert found[f"edgenetllm_{name}"] == value, name
    buckets = [value for name, value in found.items() if "_bucket{" in name]
    assert buckets == sorted(buckets)
    assert 0 < found['edgenetllm_decision_seconds_sum{task="abr"}'] < 60


class Held:
    """A policy whose decisions wait until they may go on, as those of a slow engine do."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.networks = policy, policy.networks
        self.entered, self.go_on = threading.Event(), threading.Event()

    def start(self) -> Any:
        session = Unguarded(self.policy).start()
        decide = session.decide

        def held(observation: Any) -> Any:
            self.entered.set()
            assert self.go_on.wait(20)
            return decide(observation)

        session.decide = held  # type: ignore[method-assign]
        return session


def test_a_slow_decision_holds_up_nothing_but_other_decisions(policies):
    held = Held(policies["abr"])

    async def play() -> None:
        async with serving(Sessions({"abr": held})) as client:
            path = await opened(client)
            waiting = asyncio.create_task(ask(client, "POST", f"{path}/decide", {"observation": GOOD}))
            while not held.entered.is_set():
                await asyncio.sleep(0.01)
            # The session is busy; everything else is served.
            for method, where in (("POST", f"{path}/decide"), ("DELETE", path)):
                status, answer = await ask(client, method, where, {"observation": GOOD})
                assert (status, "under way" in answer["error"]) == (409, True)
            assert (await ask(client, "GET", "/health"))[0] == 200
            other = await opened(client)
            held.go_on.set()
            assert (await waiting)[0] == 200
            assert (await ask(client, "POST", f"{other}/decide", {"observation": GOOD}))[0] == 200
            assert (await ask(client, "DELETE", path))[0] == 204

    asyncio.run(play())


def test_an_agent_that_stops_finishes_its_decisions(policies, tmp_path):
    held, log = Held(policies["abr"]), DecisionLog(tmp_path)

    async def play() -> None:
        client = TestClient(TestServer(Service(Sessions({"abr": held}, log=log)).application()))
        await client.start_server()
        path = await opened(client)
        waiting = asyncio.create_task(ask(client, "POST", f"{path}/decide", {"observation": GOOD}))
        while not held.entered.is_set():
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(client.server.close())
        await asyncio.sleep(0.1)
        assert not stopping.done()
        held.go_on.set()
        assert (await waiting)[0] == 200
        await stopping
        await client.close()

    asyncio.run(play())
    assert [(record["step"], record["reward"], record["done"]) for record in records_in(tmp_path)] == [(0, None, False)]


def records_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def test_every_decision_is_logged_with_the_reward_that_it_earned(policies, tmp_path):
    expected = episode(policies["abr"], "fused", seed=2, steps=4)
    sessions = sessions_of(policies, log=DecisionLog(tmp_path))

    async def play() -> str:
        async with serving(sessions) as client:
            closed, left = await opened(client), await opened(client)
            for body in expected:
                await ask(client, "POST", f"{closed}/decide", request(body))
            await ask(client, "POST", f"{left}/decide", request(expected[0]))
            assert (await ask(client, "DELETE", f"{closed}?reward=0.25"))[0] == 204
            return closed + left

    paths, records = asyncio.run(play()), records_in(tmp_path)
    mine = [record for record in records if record["session"] == records[0]["session"]]
    assert [record["step"] for record in mine] == [0, 1, 2, 3]
    assert [record["done"] for record in mine] == [False, False, False, True]
    assert [record["reward"] for record in mine] == [*(body["reward"] for body in expected[1:]), 0.25]
    assert [record["action"] for record in mine] == [body["action"] for body in expected]
    left = 40.0 - np.cumsum([0.0, *(body["reward"] for body in expected[1:])])
    np.testing.assert_allclose([record["return_to_go"] for record in mine], left)
    for record, body in zip(mine, expected, strict=True):
        inputs = {name: record[f"observation.{name}"] for name in policies["abr"].networks.encoder.inputs}
        assert inputs.items() <= body["observation"].items()
        assert (record["task"], record["by"], record["reason"]) == ("abr", "model", None)
    # Nobody ended the other one; and nobody who reads the log can act for a client.
    (other,) = (record for record in records if record["session"] != records[0]["session"])
    assert (other["step"], other["reward"], other["done"]) == (0, None, False)
    assert not any(record["session"] in paths for record in records)


def test_a_disk_that_takes_nothing_stops_no_decision(policies, tmp_path, monkeypatch):
    def full(self: Any, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgenetllm.edge.agent.log_file.LogFile.append", full)
    sessions = sessions_of(policies, log=DecisionLog(tmp_path))

    async def play() -> dict[str, float]:
        async with serving(sessions) as client:
            path = await opened(client)
            for body in episode(policies["abr"], "fused", seed=2, steps=4):
                assert (await ask(client, "POST", f"{path}/decide", request(body)))[0] == 200
            await ask(client, "DELETE", path)
            for _ in range(200):
                await asyncio.sleep(0.02)
                async with client.get("/metrics") as answer:
                    found = parsed(await answer.text())
                if found["edgenetllm_log_lost_total{}"] == 4:
                    break
            return found

    assert asyncio.run(play())["edgenetllm_log_lost_total{}"] == 4


class FailingOnce:
    """A decoder that raises at one decision."""

    def __init__(self, decoder: Any, at: int) -> None:
        self.decoder, self.at, self.calls = decoder, at, 0
        self.width, self.start, self.rewind = decoder.width, decoder.start, decoder.rewind

    def extend(self, state: Any, tokens: Any) -> Any:
        self.calls += 1
        if self.calls - 1 == self.at:
            raise RuntimeError("the engine is tired")
        return self.decoder.extend(state, tokens)


def test_a_model_that_fails_without_a_fallback_ends_the_session_and_nothing_else(policies):
    plain = policies["abr"]
    policy = Policy("abr", FailingOnce(plain.decoder, at=1), plain.networks)
    expected = episode(plain, "fused", seed=1, steps=3)

    async def play() -> None:
        async with serving(sessions_of({"abr": policy})) as client:
            path = await opened(client)
            assert (await ask(client, "POST", f"{path}/decide", request(expected[0])))[0] == 200
            status, answer = await ask(client, "POST", f"{path}/decide", request(expected[1]))
            assert (status, "the model failed, and there is no fall-back" in answer["error"]) == (500, True)
            status, answer = await ask(client, "POST", f"{path}/decide", request(expected[1]))
            assert (status, "which has ended" in answer["error"]) == (409, True)
            assert (await ask(client, "DELETE", path))[0] == 204
            other = await opened(client)
            for body in expected:
                assert (await ask(client, "POST", f"{other}/decide", request(body)))[1]["action"] == body["action"]

    asyncio.run(play())


@pytest.mark.parametrize(("task", "variant"), [("abr", "fused"), ("cjs", "pointer")])
def test_a_fallback_answers_where_the_model_fails(task, variant, tmp_path):
    _, folder = bundle_of(task, tmp_path)
    plain = edge.load(folder)
    faulty = Policy(task, FailingOnce(plain.decoder, at=3), plain.networks, plain.extra)
    agent = serve.agent_policy(faulty, Safety())
    sessions, answers = Sessions({task: agent}), []
    expected = episode(plain, variant, seed=1, steps=6)

    async def play() -> dict[str, float]:
        async with serving(sessions) as client:
            path = await opened(client, task)
            for body in expected:
                status, answer = await ask(client, "POST", f"{path}/decide", request(body))
                assert status == 200
                answers.append(answer)
            async with client.get("/metrics") as answer:
                return parsed(await answer.text())

    found = asyncio.run(play())
    assert [answer["by"] for answer in answers] == ["model"] * 3 + ["fallback"] + ["model"] * 2
    assert answers[3]["reason"] == "raised"
    assert [answer["action"] for answer in answers[:3]] == [body["action"] for body in expected[:3]]
    assert found[f'edgenetllm_fallbacks_total{{task="{task}",reason="raised"}}'] == 1
    assert found[f'edgenetllm_decisions_total{{task="{task}",by="fallback"}}'] == 1


@pytest.mark.parametrize("task", ["abr", "cjs"])
def test_every_fallback_and_the_guard_warm_up(task, tmp_path):
    _, folder = bundle_of(task, tmp_path)
    policy = edge.load(folder)
    for name in policy.extra["fallback"][task]["policies"]:
        agent = serve.agent_policy(policy, Safety(deadline_ms=5000, guard=True, fallback=name))
        assert serve.warm_up(policy, agent) == policy.start().nbytes > 1000


def test_an_error_of_the_agent_itself_is_no_answer_and_no_end(policies, caplog):
    class Broken(Held):
        def start(self) -> Any:
            raise RuntimeError("a secret of the inside")

    async def play() -> None:
        async with serving(Sessions({"abr": Broken(policies["abr"])})) as client:
            status, answer = await ask(client, "POST", "/sessions")
            assert (status, answer) == (500, {"error": "the agent failed; its own log says why"})
            assert (await ask(client, "GET", "/health"))[0] == 200

    asyncio.run(play())
    assert "a secret of the inside" in caplog.text


@pytest.mark.parametrize("variant", sorted(TASKS))
def test_the_schema_of_every_encoder_takes_what_its_simulator_gives(variant, tmp_path):
    policy = edge.load(export(make(TASKS[variant]()), tmp_path / "bundle"))
    schema = task_schema(policy.networks)
    validator = jsonschema.Draft202012Validator(schema["observation"])
    bodies = episode(policy, variant, seed=5, steps=6)
    for body in bodies:
        validator.validate(body["observation"])
        jsonschema.validate(body["action"], schema["action"])
    # It refuses what the agent refuses.
    sessions = Sessions({"any": Unguarded(policy)})
    one, good = sessions.open(), bodies[0]["observation"]
    name = next(iter(policy.networks.encoder.inputs))
    for wrong in (
        {key: value for key, value in good.items() if key != name}, good | {"colour": 1}, good | {name: "text"},
        good | {name: None}, good | {name: [[[1.0]]]}, good | {name: True},
    ):  # fmt: skip
        assert not validator.is_valid(wrong)
        with pytest.raises(UserError, match="observation"):
            sessions.decide(one, wrong)
    assert sessions.decide(one, good).action == bodies[0]["action"]


def test_the_command_refuses_what_it_cannot_serve(folder, tmp_path, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, sentence in [
            ([str(folder), f"--port={port}"], f"port {port} of 127.0.0.1 is taken"),
            ([str(folder), "--port=70000"], "--port 70000 must be from 0 to 65535"),
            ([str(folder), "--port=0", "--host=nowhere.invalid"], "--host nowhere.invalid is no address here"),
            ([str(folder), "--port=0", "--sessions=0"], "--sessions 0 must be at least 1"),
            (
                [str(folder), "--port=0", "--deadline-ms=0"],
                "deadline_ms=0.0 (--deadline-ms) must be milliseconds above zero",
            ),
            ([str(folder), "--port=0", "--guard"], "the bundle has no fall-back policy"),
            ([str(folder), "--port=0", "--log=/proc/none"], "/proc/none cannot be written to"),
            ([str(folder), "--port=0", "--task=room"], "was made for task abr+cjs, not room"),
            ([str(tmp_path / "none"), "--port=0"], "no such bundle folder"),
        ]:
            assert serve.main(arguments) == 2
            assert sentence in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "edgenetllm.edge.agent.service", None)
    monkeypatch.delitem(sys.modules, "edgenetllm.edge.agent.service")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert serve.main([str(folder), "--port=0"]) == 2
    assert "pip install 'edgenetllm[edge-serve]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_serves_until_it_is_terminated(folder, policies):
    environment = {"PYTHONPATH": str(ROOT / "src"), "EDGENETLLM_TOKEN": "sesame"}
    with started(sys.executable, folder, "--task=abr", **environment) as (process, address):
        with pytest.raises(HTTPError, match="401"):
            post(f"{address}/sessions", {})
        key = post(f"{address}/sessions", {}, "sesame")["session"]
        answer = post(f"{address}/sessions/{key}/decide", {"observation": GOOD}, "sesame")
        assert answer["action"] == policies["abr"].start().decide(GOOD)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        [line] = process.stderr.read().splitlines()  # of what this bundle lacks, and nothing else
        assert line.startswith("warning: no fall-back policy for task abr in this bundle")
