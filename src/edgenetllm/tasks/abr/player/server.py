"""The HTTP server of the player: page, manifest, chunks at the pace of the link, and the agent's decisions.

/                             the page for a visible player: plays the sessions in turn
/play/SESSION                 the page for one session
/settings/SESSION             what the page must know of it; /next: of the next one, 204 after the last
/media/SESSION/manifest.mpd, /media/SESSION/QUALITY/init.mp4, /media/SESSION/QUALITY/CHUNK.m4s
POST /decide/SESSION          a report on the last chunk -> {"quality": q}
POST /end/SESSION             the report on the last chunk of the session; POST /problem/SESSION: what failed in the page
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from edgenetllm.tasks.abr.player.media import CODEC, init_segment, manifest, padded_fragment
from edgenetllm.tasks.abr.player.session import Download, PlayerSession

HERE = Path(__file__).parent
TICK_S = 0.010  # of the wall clock
NOT_KEPT = {"Cache-Control": "no-store"}
CHART_S = 900.0  # seconds of bandwidth that the chart gets

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


SERVER: web.AppKey[PlayerServer] = web.AppKey("server")


class PlayerServer:
    """The sessions by name, and the application that serves them."""

    def __init__(self, sessions: Sequence[PlayerSession] = ()) -> None:
        self.sessions = {session.name: session for session in sessions}
        self.app = web.Application(middlewares=[_refusals], client_max_size=1 << 16)
        self.app[SERVER] = self
        self.app.add_routes(
            [
                web.get("/", page),
                web.get("/play/{session}", page),
                web.get("/next", self._next),
                web.get("/settings/{session}", self._settings),
                web.get("/media/{session}/manifest.mpd", self._manifest),
                web.get("/media/{session}/{quality:\\d+}/init.mp4", self._init),
                web.get("/media/{session}/{quality:\\d+}/{chunk:\\d+}.m4s", self._chunk),
                web.post("/decide/{session}", self._decide),
                web.post("/end/{session}", self._end),
                web.post("/problem/{session}", self._problem),
                web.static("/page", HERE / "page"),
                web.static("/dashjs", HERE / "dashjs"),
            ]
        )

    def _of(self, request: web.Request) -> PlayerSession:
        session = self.sessions.get(request.match_info["session"])
        if session is None:
            raise web.HTTPNotFound(text="no such session")
        session.active_at = time.monotonic()
        return session

    async def _next(self, request: web.Request) -> web.StreamResponse:
        session = next((one for one in self.sessions.values() if not one.finished.is_set()), None)
        if session is None:
            return web.Response(status=204)
        if session.downloads:  # the page was loaded again
            session.restart()
        return web.json_response(settings_of(session), headers=NOT_KEPT)

    async def _settings(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(settings_of(self._of(request)), headers=NOT_KEPT)

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        video = self._of(request).video
        return web.Response(
            text=manifest(video.ladder, video.chunks), content_type="application/dash+xml", headers=NOT_KEPT
        )

    async def _init(self, request: web.Request) -> web.StreamResponse:
        chunk_s = self._of(request).video.ladder.chunk_s
        return web.Response(body=init_segment(chunk_s), content_type="video/mp4", headers=NOT_KEPT)

    async def _chunk(self, request: web.Request) -> web.StreamResponse:
        session = self._of(request)
        download = session.begin(int(request.match_info["chunk"]), int(request.match_info["quality"]))
        session.active_at = math.inf
        size = session.size_of(download.chunk, download.quality)
        body = padded_fragment(download.chunk, session.video.ladder.chunk_s, size)
        response = web.StreamResponse(headers={**NOT_KEPT, "Content-Type": "video/mp4", "Content-Length": str(size)})
        await session.sleep_until(download.begin_s)
        await response.prepare(request)
        await _paced(session, download, body, response)
        await response.write_eof()
        session.active_at = time.monotonic()
        return response

    async def _decide(self, request: web.Request) -> web.StreamResponse:
        session, fields = self._of(request), await request.json()
        session.active_at = math.inf
        quality = await session.decide(fields)
        session.active_at = time.monotonic()
        return web.json_response({"quality": quality}, headers=NOT_KEPT)

    async def _end(self, request: web.Request) -> web.StreamResponse:
        self._of(request).end(await request.json())
        return web.Response(status=204)

    async def _problem(self, request: web.Request) -> web.StreamResponse:
        self._of(request).fail(f"the page says: {(await request.text())[:300]}")
        return web.Response(status=204)


def settings_of(session: PlayerSession) -> dict[str, Any]:
    """The facts of a session that the page needs, with the bandwidth of its link for the chart."""
    video = session.video
    return {
        "session": session.name,
        "speed": session.speed,
        "chunks": video.chunks,
        "chunk_s": video.ladder.chunk_s,
        "bitrates_mbps": list(video.ladder.mbps),
        "codec": CODEC,
        "bandwidth_mbps": session.link.mbps_until(CHART_S),
    }


async def _paced(session: PlayerSession, download: Download, body: bytes, response: web.StreamResponse) -> None:
    """Write each byte when the link has carried it, in ticks; the last one at the deadline of the download."""
    already, sent = session.link.carried(download.begin_s), 0
    while (left_s := download.due_s - session.now_s) > TICK_S * session.speed:
        await asyncio.sleep(TICK_S)
        due = min(int(session.link.carried(session.now_s) - already), len(body) - 1)
        if due > sent:
            await response.write(body[sent:due])
            sent = due
    await asyncio.sleep(max(left_s, 0.0) / session.speed)
    await response.write(body[sent:])
    download.sent_s = session.now_s


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A request that is not understood is refused with a sentence, and ends its session: nothing is played on by guess."""
    session = request.app[SERVER].sessions.get(request.match_info.get("session", ""))
    try:
        return await handler(request)
    except ValueError as error:
        if session is not None:
            session.fail(f"{request.path}: {error}")
        return web.json_response({"error": str(error)}, status=400)
    except ConnectionResetError:
        if session is not None and not session.finished.is_set():
            session.fail(f"{request.path}: the player went away")
        return web.Response(status=400)  # nobody reads it


async def page(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(HERE / "page" / "page.html", headers=NOT_KEPT)
