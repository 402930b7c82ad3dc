"""Sessions of policies in the player, one after another or several at a time: a server, and a browser for each session."""

from __future__ import annotations

import asyncio
import copy
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from edgenetllm.errors import UserError
from edgenetllm.printable import say
from edgenetllm.tasks.abr.player.browser import opened
from edgenetllm.tasks.abr.player.link import Link
from edgenetllm.tasks.abr.player.session import PlayerSession, Video
from edgenetllm.tasks.task import Policy

SILENCE_S = 60.0  # without a word of a player that has nothing to wait for
LOOK_S = 0.5
Record = list[dict[str, float]]  # a row for each chunk


@dataclass(frozen=True)
class Job:
    """A session to play: its name in addresses, the policy, the link, and how far away the policy decides."""

    name: str
    policy: Policy
    link: Link
    cloud_s: float


@dataclass(frozen=True)
class PlayerOptions:
    """browser: its program. speed: of the clock. sessions: at a time. port: 0 for any. show: in a visible page."""

    browser: str | None
    speed: float = 1.0
    sessions: int = 1
    port: int = 0
    show: bool = False


def play_sessions(
    jobs: Sequence[Job], video: Video, options: PlayerOptions, finished: Callable[[Job, Record], object]
) -> None:
    """Play every job; `finished` is called with its record as soon as one is done.

    Raises UserError for a session that failed, a browser that ended, and an address that is taken.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="agent") as executor:  # engines are not made for several threads
        try:
            asyncio.run(_play(jobs, video, options, executor, finished))
        except BaseExceptionGroup as failures:  # of sessions at the same time: the first one says it
            raise failures.exceptions[0] from None


async def _play(
    jobs: Sequence[Job],
    video: Video,
    options: PlayerOptions,
    executor: Executor,
    finished: Callable[[Job, Record], object],
) -> None:
    from edgenetllm.tasks.abr.player.server import PlayerServer

    sessions = [
        # Policies have a state: each session its own, around the same weights.
        PlayerSession(job.name, video, job.link, copy.copy(job.policy), executor, job.cloud_s, options.speed)
        for job in jobs
    ]
    async with serving(PlayerServer(sessions).app, options.port) as address:
        if options.show:
            await _watched(jobs, sessions, options, address, finished)
            return
        free = asyncio.Semaphore(options.sessions)

        async def one(job: Job, session: PlayerSession) -> None:
            async with free:
                await _in_browser(session, options, f"{address}/play/{session.name}")
                finished(job, session.chunks)

        async with asyncio.TaskGroup() as group:
            for job, session in zip(jobs, sessions, strict=True):
                group.create_task(one(job, session))


class serving:
    """An application on this machine, for as long as the block runs; gives its address. Raises UserError for a taken port."""

    def __init__(self, app: object, port: int) -> None:
        self.app, self.port = app, port

    async def __aenter__(self) -> str:
        from aiohttp import web

        assert isinstance(self.app, web.Application)
        self.runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=1.0)
        await self.runner.setup()
        try:
            await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        except OSError as error:
            await self.runner.cleanup()
            raise UserError(
                f"replay.port={self.port}: {os.strerror(error.errno or 0)}; 0 takes any that is free"
            ) from None
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()


async def _in_browser(session: PlayerSession, options: PlayerOptions, url: str) -> None:
    """Play a session in a headless browser. Raises UserError where it fails."""
    assert options.browser is not None
    with opened(options.browser, url) as process:
        session.active_at = time.monotonic()
        while not session.finished.is_set():
            try:
                await asyncio.wait_for(session.finished.wait(), LOOK_S)
            except TimeoutError:
                if process.poll() is not None:
                    session.fail(f"{Path(options.browser).name} ended with status {process.returncode}")
                elif time.monotonic() - session.active_at > SILENCE_S:
                    session.fail(f"the page has not been heard of for {SILENCE_S:g} s")
    _check(session)


async def _watched(
    jobs: Sequence[Job],
    sessions: Sequence[PlayerSession],
    options: PlayerOptions,
    address: str,
    finished: Callable[[Job, Record], object],
) -> None:
    """Serve the page, where all sessions are played in turn; open it where there is a display and a browser."""
    say(f"player: {address}/  (Ctrl-C ends it)")

    with opened(options.browser, f"{address}/", visible=True) if options.browser else nullcontext() as process:
        for job, session in zip(jobs, sessions, strict=True):
            while not session.finished.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(session.finished.wait(), LOOK_S)
                if process is not None and process.poll() is not None:
                    session.fail("its window was closed")
            _check(session)
            finished(job, session.chunks)


def _check(session: PlayerSession) -> None:
    if session.problem is not None:
        raise UserError(
            f"session {session.name} failed: {session.problem}; those that ended before it are kept: type the same command "
            "again"
        )
