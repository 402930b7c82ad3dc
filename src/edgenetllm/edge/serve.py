"""Serve a bundle's decisions over HTTP: `python -m edgenetllm.edge.serve BUNDLE --port 8333`."""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from edgenetllm.edge.agent.decision_log import DecisionLog
from edgenetllm.edge.agent.guarded import GuardedPolicy, Safety, guarded
from edgenetllm.edge.agent.sessions import AgentPolicy, Limits, Sessions, Unguarded
from edgenetllm.edge.policy import Policy, blank, load_tasks
from edgenetllm.errors import UserError
from edgenetllm.printable import say, say_error

if TYPE_CHECKING:
    from edgenetllm.edge.agent.service import Service

PORT = 8333
TOKEN = "EDGENETLLM_TOKEN"
STOP_S = 10.0  # that decisions under way may take when the agent is stopped
LOOPBACK = ("127.", "::1", "localhost")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. Exit code 2 for a user's error."""
    options = parser().parse_args(arguments)
    try:
        serve(options)
    except UserError as error:
        say_error(error)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    one = argparse.ArgumentParser(prog="python -m edgenetllm.edge.serve", description=__doc__)
    one.add_argument("bundle", type=Path, help="the folder of a bundle")
    one.add_argument("--port", type=int, default=PORT, help=f"0: any free one (default {PORT})")
    one.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine only)")
    one.add_argument("--token", help=f"what clients must send as Authorization: Bearer TOKEN; better in ${TOKEN}")
    one.add_argument("--task", help="serve this task of the bundle only")
    one.add_argument("--instructions", default="auto", help="auto, avx512 or portable")
    defaults = {limit.name: limit.default for limit in fields(Limits)}
    one.add_argument("--sessions", type=int, default=defaults["sessions"], help="open at a time (default %(default)s)")
    one.add_argument("--idle-s", type=float, default=defaults["idle_s"],
                     help="seconds after which a session that is not asked expires (default %(default)s)")  # fmt: skip
    one.add_argument("--age-s", type=float, default=defaults["age_s"],
                     help="seconds after which any session expires (default %(default)s)")  # fmt: skip
    one.add_argument("--body-bytes", type=int, default=defaults["body_bytes"],
                     help="of a request at most (default %(default)s)")  # fmt: skip
    one.add_argument("--deadline-ms", type=float, help="after which the fall-back policy decides (default: none)")
    one.add_argument("--guard", action="store_true",
                     help="the fall-back policy decides on observations unlike those of training")  # fmt: skip
    one.add_argument("--fallback", help="one of the bundle's fall-back policies (default: its first)")
    one.add_argument("--log", type=Path, metavar="FOLDER", help="write every decision into files of this folder")
    return one


def serve(options: argparse.Namespace) -> None:
    """Load the bundle and serve it. Raises UserError for options, a port or a bundle that cannot be served."""
    try:
        from edgenetllm.edge.agent.service import Service
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        raise UserError("the agent needs aiohttp: pip install 'edgenetllm[edge-serve]'") from None
    # Whatever is quickly refused comes before the bundle.
    limits = Limits(options.sessions, options.idle_s, options.age_s, options.body_bytes)
    token = options.token or os.environ.get(TOKEN) or None
    safety = Safety(options.deadline_ms, options.guard, options.fallback)
    sock = bind(options.host, options.port)
    with sock, nullcontext() if options.log is None else DecisionLog(options.log) as log:
        policies = chosen(load_tasks(options.bundle, instructions=options.instructions), options.task, options.bundle)
        agents = {name: agent_policy(policy, safety) for name, policy in policies.items()}
        size = max(warm_up(policies[name], agent) for name, agent in agents.items())
        service = Service(Sessions(agents, limits, log), token)
        if token is None and not options.host.startswith(LOOPBACK):
            say(f"warning: anyone who reaches {options.host} is served: set ${TOKEN}", file=sys.stderr)
        about = f"{options.bundle} ({', '.join(policies)}), up to {limits.sessions} sessions of {size / 1e6:.2g} MB"
        gc.collect()
        gc.freeze()  # nothing of what is there now becomes garbage: later collections are short
        asyncio.run(run(service, sock, about))


def chosen(policies: Mapping[str, Policy], task: str | None, bundle: Path) -> dict[str, Policy]:
    """The policies that are served. Raises UserError for a task that the bundle does not have."""
    if task is not None and task not in policies:
        raise UserError(f"{bundle} was made for task {'+'.join(policies)}, not {task}")
    return {name: policy for name, policy in policies.items() if task in (None, name)}


def agent_policy(policy: Policy, safety: Safety) -> AgentPolicy:
    """The policy with its fall-back. A bundle without one is served all the same, unless an option needs one."""
    described = policy.extra.get("fallback")
    if safety == Safety() and not (isinstance(described, Mapping) and described.get(policy.task)):
        say(f"warning: no fall-back policy for task {policy.task} in this bundle: a session in which the model fails ends",
              file=sys.stderr)  # fmt: skip
        return Unguarded(policy)
    return guarded(policy, safety)


def warm_up(policy: Policy, agent: AgentPolicy) -> int:
    """Decide twice, and once by the fall-back, so that all code is compiled before a client waits for it.

    Returns the bytes of a session.
    """
    session = policy.start()
    observation = blank(policy.networks.encoder.inputs)
    for _ in range(2):
        session.decide(observation)
        session.observe(0.0)
    if isinstance(agent, GuardedPolicy):
        agent.fallback.start().decide(observation, policy.start().read(observation), after_model=False)
    return session.nbytes


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds this address, and does not listen yet. Raises UserError where that cannot be had."""
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port {port} must be from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"--host {host} is no address here: {error.strerror or error}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise refused(error, host, port) from None
    return sock


def refused(error: OSError, host: str, port: int) -> UserError:
    """The sentence for a socket that cannot be bound, or not be listened at."""
    if error.errno == errno.EADDRINUSE:
        return UserError(f"port {port} of {host} is taken: choose another one with --port, or 0 for any free one")
    return UserError(f"cannot listen at {host}, port {port}: {error.strerror}")


async def run(service: Service, sock: socket.socket, about: str) -> None:
    """Serve at this socket until SIGTERM or SIGINT; decisions under way are finished, the log is closed."""
    from aiohttp import web

    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(service.application(), access_log=None, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        host, port = sock.getsockname()[:2]
        try:
            await web.SockSite(runner, sock, backlog=1024).start()
        except OSError as error:  # another program began to listen in the meantime
            raise refused(error, host, port) from None
        say(f"serving {about} at http://{f'[{host}]' if ':' in host else host}:{port}")
        await stopped.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    sys.exit(main())
