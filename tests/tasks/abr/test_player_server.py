"""The player's server as an HTTP client sees it, and a browser's whole sessions where there is Chromium."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import pytest
from small import make_task

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.ladder import PUBLIC
from edgenetllm.tasks.abr.player import browser, media
from edgenetllm.tasks.abr.player.compared import COMPARED, differences, simulate
from edgenetllm.tasks.abr.player.link import Link
from edgenetllm.tasks.abr.player.replay import Job, PlayerOptions, play_sessions, serving
from edgenetllm.tasks.abr.player.server import PlayerServer
from edgenetllm.tasks.abr.player.session import PlayerSession, Video
from edgenetllm.tasks.abr.policies.baselines import Fixed
from edgenetllm.tasks.abr.simulator.qoe import FORMS

SIZES = np.array([[40_000, 50_000, 60_000], [400_000, 500_000, 600_000]])
LADDER = PUBLIC.__class__((300, 2850), 4.0)
SPEED = 8.0


@asynccontextmanager
async def served(cloud_s: float = 0.0) -> AsyncIterator[tuple[PlayerSession, aiohttp.ClientSession]]:
    """A session of three chunks over a link of uneven bandwidth, and a client of its server."""
    time_s, mbps = np.arange(40.0), np.tile([0.3, 2.0, 0.0, 5.0], 10)
    qoe = FORMS["lin"].__class__("lin", LADDER.mbps, 4.3)
    with ThreadPoolExecutor(1) as executor:
        link = Link(time_s, mbps, 1)
        session = PlayerSession("one", Video(SIZES, LADDER, qoe), link, Fixed(1), executor, cloud_s, SPEED)
        async with serving(PlayerServer([session]).app, 0) as address, aiohttp.ClientSession(address) as client:
            yield session, client


def report(chunk: int, quality: int, **changes: float) -> dict:
    fields = {"delay_s": 1.0, "buffer_s": 4.0, "rebuffer_s": 0.5}
    return {"chunk": chunk, "last_quality": quality, "bytes": int(SIZES[quality, chunk]), **fields, **changes}


def test_a_client_gets_exact_bytes_at_the_pace_of_the_link():
    async def talk() -> None:
        async with served() as (session, client):
            quality = 0
            for chunk in range(3):
                began = time.monotonic()
                async with client.get(f"/media/one/{quality}/{chunk}.m4s") as answer:
                    assert answer.headers["Cache-Control"] == "no-store"
                    assert int(answer.headers["Content-Length"]) == SIZES[quality, chunk]
                    body = await answer.read()
                took = time.monotonic() - began
                assert body == media.padded_fragment(chunk, 4.0, int(SIZES[quality, chunk]))
                asked = session.downloads[-1].asked_s
                arrival = session.link.arrival(asked + 0.08, int(SIZES[quality, chunk]))
                assert took == pytest.approx((arrival - asked) / SPEED, abs=0.05)
                if chunk < 2:
                    answer = await client.post("/decide/one", json=report(chunk, quality))
                    assert await answer.json() == {"quality": 1}
                    quality = 1
            assert (await client.post("/end/one", json=report(2, 1))).status == 204
            assert session.finished.is_set()
            assert session.problem is None
            assert [row["bytes"] for row in session.chunks] == [40_000, 500_000, 600_000]
            assert session.chunks[1]["reward"] == pytest.approx(2.85 - 4.3 * 0.5 - 2.55)

    asyncio.run(talk())


def test_bytes_come_as_the_link_carries_them():
    """A client has no byte before the link has carried it, and few less."""

    async def talk() -> None:
        async with served() as (session, client), client.get("/media/one/0/0.m4s") as answer:
            got = 0
            async for piece in answer.content.iter_any():
                got += len(piece)
                carried = session.link.carried(session.now_s) - session.link.carried(session.downloads[0].begin_s)
                assert got <= carried + 1
            assert got == SIZES[0, 0]

    asyncio.run(talk())


def test_the_distance_of_the_cloud_is_added_to_a_decision():
    async def talk() -> None:
        async with served(cloud_s=1.6) as (_, client):
            await (await client.get("/media/one/0/0.m4s")).read()
            began = time.monotonic()
            await (await client.post("/decide/one", json=report(0, 0))).json()
            assert 0.2 <= time.monotonic() - began < 0.35  # 1.6 s at 8 times the pace

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/media/one/1/0.m4s", "asked for in quality 1, but 0 was decided"),
        ("/media/one/0/1.m4s", "chunk 1 is asked for, but the next one is 0"),
    ],
)
def test_a_chunk_that_was_not_decided_on_is_refused_and_ends_the_session(path, message):
    async def talk() -> None:
        async with served() as (session, client):
            answer = await client.get(path)
            assert answer.status == 400
            assert message in (await answer.json())["error"]
            assert session.finished.is_set()
            assert message in str(session.problem)

    asyncio.run(talk())


@pytest.mark.parametrize("body", ["{", "[]", '{"chunk": 0}'])
def test_a_report_that_is_not_understood_is_refused(body):
    async def talk() -> None:
        async with served() as (session, client):
            await (await client.get("/media/one/0/0.m4s")).read()
            answer = await client.post("/decide/one", data=body, headers={"Content-Type": "application/json"})
            assert answer.status == 400
            assert session.problem is not None

    asyncio.run(talk())


def test_pages_and_settings_are_served_and_other_names_are_not():
    async def talk() -> None:
        async with served() as (_, client):
            for path in ("/", "/play/one", "/page/main.js", "/page/chart.js", "/dashjs/dash.mediaplayer.min.js"):
                assert (await client.get(path)).status == 200, path
            settings = await (await client.get("/settings/one")).json()
            assert settings["chunks"] == 3
            assert settings["speed"] == SPEED
            assert len(settings["bandwidth_mbps"]) > 100
            assert (await (await client.get("/next")).json())["session"] == "one"
            for path in ("/settings/two", "/media/two/manifest.mpd", "/page/../server.py"):
                assert (await client.get(path)).status == 404, path

    asyncio.run(talk())


def test_a_port_that_is_taken_is_named():
    async def twice() -> None:
        async with serving(PlayerServer().app, 0) as address:
            await serving(PlayerServer().app, int(address.rpartition(":")[2])).__aenter__()

    with pytest.raises(UserError, match=r"replay\.port=\d+: Address already in use"):
        asyncio.run(twice())


# A browser.


@pytest.mark.parametrize(("variable", "named"), [("/nowhere/chromium", None), (None, "/nowhere/chrome")])
def test_a_browser_that_is_named_and_absent_is_refused(monkeypatch, variable, named):
    monkeypatch.delenv("CHROMIUM", raising=False)
    if variable:
        monkeypatch.setenv("CHROMIUM", variable)
    with pytest.raises(UserError, match="no such program; name that of Chromium or Chrome"):
        browser.find_browser(named)


def test_without_any_browser_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(browser, "HEADLESS", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="apt-get install chromium-headless-shell"):
        browser.find_browser(None)


def alive(process: psutil.Process) -> bool:
    return psutil.pid_exists(process.pid) and process.info["status"] != psutil.STATUS_ZOMBIE


def test_every_process_of_a_browser_is_ended_and_its_profile_removed(tmp_path, monkeypatch):
    """A program that starts another one and does not listen to a polite request."""
    program = tmp_path / "chromium"
    program.write_text(
        '#!/bin/bash\ntrap "" TERM\nbash -c \'trap "" TERM; sleep 600\' &\necho "$@" > "$PLACE/words"\nsleep 600\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PLACE", str(tmp_path))
    with browser.opened(str(program), "http://127.0.0.1:1/") as process:
        until = time.monotonic() + 5
        while not (tmp_path / "words").exists() and time.monotonic() < until:
            time.sleep(0.05)
        profile = Path((tmp_path / "words").read_text().partition("--user-data-dir=")[2].split()[0])
        assert profile.is_dir()
    group = [one for one in psutil.process_iter(["status"]) if alive(one) and os.getpgid(one.pid) == process.pid]
    assert not group
    assert not profile.exists()


def chromium() -> str | None:
    try:
        return browser.find_browser(None)
    except UserError:
        return None


needs_chromium = pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")


@needs_chromium
def test_chromium_plays_eight_chunks_as_the_link_and_the_agent_say():
    """Bytes and decisions exactly; times within 50 ms of the wall clock, on a machine that may be busy now and then."""
    task = make_task()
    environment = task.environment("test")
    environment.clock = "real"
    traces, sizes = environment.traces, environment.videos.tables[0][:, :8]
    episode = 3
    begin, end = traces.offsets[episode : episode + 2]
    link = Link(traces.time_s[begin:end], traces.mbps[begin:end], int(traces.starts[episode]))
    video = Video(sizes, environment.videos.ladder, environment.qoe)
    job = Job("eight", task.baselines()["robustmpc"], link, 0.0)
    for attempt in range(3):
        records: list[list[dict]] = []
        options = PlayerOptions(chromium(), speed=SPEED)
        play_sessions([job], video, options, lambda _, record, into=records: into.append(record))
        [record] = records
        assert [row["chunk_index"] for row in record] == list(range(8))
        assert len({row["action"] for row in record}) > 1  # the agent changed its mind, and each chunk came as it said
        assert [row["bytes"] for row in record] == [sizes[row["action"], number] for number, row in enumerate(record)]
        assert max(row["late_s"] for row in record) / SPEED < 0.5
        played = {
            name: np.array([row[name] for row in record[1:]]) for name in (*COMPARED, "waited_s", "lag_s", "action")
        }
        simulated = simulate(environment, episode, played["action"].astype(int), played["waited_s"], played["lag_s"])
        off = differences(played, simulated)
        delay, buffer = (np.abs(off[f"{name}_minus_simulator"]).max() for name in ("delay_s", "buffer_s"))
        if delay / SPEED < 0.05 and buffer < 0.3:
            return
        print(f"attempt {attempt}: delays within {delay:.2f} s, buffers within {buffer:.2f} s")
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        pytest.skip("bytes and decisions are right, but this machine is too busy to keep the time of a player")
    pytest.fail("no attempt was within 50 ms of the wall clock and 0.3 s of the buffer")


@needs_chromium
def test_a_page_that_fails_ends_its_session_with_a_sentence():
    """The agent raises: the page is refused, and says so."""

    class Broken(Fixed):
        def act(self, observation):
            raise ValueError("no decision today")

    task = make_task()
    environment = task.environment("test")
    video = Video(environment.videos.tables[0][:, :3], environment.videos.ladder, environment.qoe)
    link = Link(np.arange(20.0), np.full(20, 50.0), 1)
    with pytest.raises(UserError, match="session broken failed: /decide/broken: no decision today"):
        play_sessions([Job("broken", Broken(0), link, 0.0)], video, PlayerOptions(chromium(), speed=SPEED), print)
