"""The agent over HTTP, by aiohttp: requests to calls of `Sessions`, which say what is refused.

POST /sessions, POST /sessions/ID/decide, DELETE /sessions/ID; GET /health, /metrics and /schema.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from aiohttp import web

from edgenetllm.edge.agent.metrics import CONTENT_TYPE
from edgenetllm.edge.agent.schema import DIALECT, task_schema
from edgenetllm.edge.agent.sessions import Refusal, Sessions
from edgenetllm.errors import UserError

BODY_S = 10.0  # within which a body has to arrive
SWEEP_S = 5.0  # between two looks for sessions that have expired, at most
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


class Service:
    """The HTTP service of an agent. With a `token`, everything but /health asks for it as `Authorization: Bearer TOKEN`.

    Decisions run one after another in a thread of their own: while one runs, requests are read and refused, sessions
    opened and metrics given, and no decision waits for more than those before it.
    """

    def __init__(self, sessions: Sessions, token: str | None = None) -> None:
        if token is not None and not token.isascii():
            raise UserError("the token must consist of ASCII characters")
        self.sessions, self.token = sessions, token
        self._thread = ThreadPoolExecutor(1, "decisions")
        schemas = {name: task_schema(policy.networks) for name, policy in sessions.policies.items()}
        self._schema = json.dumps({"$schema": DIALECT, "tasks": schemas})

    def application(self) -> web.Application:
        """The application; its clean-up ends all sessions and closes the log."""
        application = web.Application(
            middlewares=[self._answer_errors, self._authorise], client_max_size=self.sessions.limits.body_bytes
        )
        application.add_routes(
            [
                web.post("/sessions", self.open),
                web.post("/sessions/{key}/decide", self.decide),
                web.delete("/sessions/{key}", self.close),
                web.get("/health", self.health),
                web.get("/metrics", self.metrics),
                web.get("/schema", self.schema),
            ]
        )
        application.cleanup_ctx.append(self._running)
        return application

    # Requests

    async def open(self, request: web.Request) -> web.Response:
        body = await _body(request, {"task"})
        task = body.get("task")
        if task is not None and not isinstance(task, str):
            raise UserError(f"task is {task!r:.60}, not the name of a task")
        self.sessions.expire()
        one = self.sessions.open(task)
        answer = {"session": one.key, "task": one.task, "max_steps": self.sessions.end_of(one.task)}
        return web.json_response(answer, status=201)

    async def decide(self, request: web.Request) -> web.Response:
        loop = asyncio.get_running_loop()
        body = await _body(request, {"observation", "reward", "step"})
        if "observation" not in body:
            raise UserError("observation is missing")
        began = loop.time()
        one = self.sessions.begin(request.match_info["key"])
        try:
            arguments = one, body["observation"], body.get("reward"), body.get("step")
            decision = await loop.run_in_executor(self._thread, self.sessions.decide, *arguments)
        finally:
            self.sessions.release(one)
        self.sessions.metrics.decided(one.task, decision.by, decision.reason, loop.time() - began)
        return web.json_response(decision._asdict())

    async def close(self, request: web.Request) -> web.Response:
        """`?reward=` may carry the reward of the last action, for the log."""
        given = request.query.get("reward")
        self.sessions.close(request.match_info["key"], None if given is None else _number(given))
        return web.Response(status=204)

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "tasks": list(self.sessions.policies)})

    async def metrics(self, request: web.Request) -> web.Response:
        sessions = self.sessions
        text = sessions.metrics.text(sessions.by_task(), 0 if sessions.log is None else sessions.log.lost)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def schema(self, request: web.Request) -> web.Response:
        return web.Response(text=self._schema, content_type="application/json")

    # Around them

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Whatever is refused is answered by a status and a sentence."""
        try:
            return await handler(request)
        except Refusal as refusal:
            status, message = refusal.status, str(refusal)
            if status == 500:
                log.error("%s", message, exc_info=refusal)
        except UserError as error:
            status, message = 400, str(error)
        except web.HTTPException as error:
            status, message = error.status, _SENTENCES.get(error.status, error.reason)
        except Exception:
            log.exception("%s %s", request.method, request.path)
            status, message = 500, "the agent failed; its own log says why"
        self.sessions.metrics.refused[status] += 1
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(status)
        return web.json_response({"error": message}, status=status, headers=headers)

    @web.middleware
    async def _authorise(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if "Origin" in request.headers:  # any page in a browser on this machine can reach its loopback addresses
            raise Refusal(403, "this agent does not serve pages in browsers (the request has an Origin)")
        if self.token is not None and request.path != "/health":
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                raise Refusal(401, "this agent asks for its token: Authorization: Bearer TOKEN")
        return await handler(request)

    async def _running(self, application: web.Application) -> AsyncIterator[None]:
        """Sweep as long as the application runs; then end all sessions and close the log."""
        sweeping = asyncio.create_task(self._sweep())
        yield
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping
        self._thread.shutdown()
        self.sessions.stop()

    async def _sweep(self) -> None:
        """Free expired sessions now and then."""
        limits = self.sessions.limits
        pause = min(SWEEP_S, max(0.05, min(limits.idle_s, limits.age_s) / 4))
        while True:
            await asyncio.sleep(pause)
            self.sessions.expire()


_SENTENCES = {
    404: "no such page: POST /sessions, POST /sessions/ID/decide, DELETE /sessions/ID, GET /health, /metrics, /schema",
    405: "this page does not take that method",
    413: "the body is larger than this agent takes",
}


async def _body(request: web.Request, known: set[str]) -> dict[str, Any]:
    """The object that the body holds; an empty body is an empty object. Raises UserError or Refusal for anything else."""
    try:
        async with asyncio.timeout(BODY_S):
            data = await request.read()
    except TimeoutError:
        raise Refusal(408, f"the body has not arrived within {BODY_S:g} s") from None
    if not data:
        return {}
    try:
        body = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"the body is no JSON: {error!s:.120}") from None
    if not isinstance(body, dict):
        raise UserError("the body must be a JSON object")
    for name in body:
        if name not in known:
            raise UserError(f"{name!r:.60} is unknown in the body (known: {', '.join(sorted(known))})")
    return body


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise UserError(f"reward is {text!r:.60}, not a finite number")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
