"""Sessions that were played before, shown again in a page: no agent and no video, only their records.

    python -m edgenetllm.tasks.abr.player.recorded RUN [--policies sparse,bba] [--episodes 3] [--speed 8] [--port 8334]

RUN is the folder of a run, or of the results of a task in it: every `replay.parquet` of the ABR task can be shown, of the
simulator as of the player. The page is served until Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgenetllm.errors import UserError
from edgenetllm.printable import say, say_error

COLUMNS = ("clock_s", "delay_s", "bandwidth_mbps", "bitrate_mbps", "buffer_s", "rebuffer_s")
REPLAY_FILE = "replay.parquet"


def recording(run: Path, policies: Sequence[str] | None, episodes: int, speed: float) -> dict[str, Any]:
    """The sessions of the first `episodes` of a run, by episode and policy, as the page draws them.

    Raises UserError for a folder without a replay of streaming, and for a policy that was not played.
    """
    # Which file, with which columns.
    from edgenetllm.parquet_file import numbers, read_table, texts

    path = next((place for place in (run / REPLAY_FILE, run / "abr" / REPLAY_FILE) if place.is_file()), None)
    if path is None:
        raise UserError(f"{run}: no {REPLAY_FILE} of the ABR task in it; a finished run leaves one in RUN/abr")
    table = read_table(path, ("policy", "episode", *COLUMNS), "a finished run leaves it")
    for name in ("policy", "episode"):
        texts(table, name, path)
    for name in COLUMNS:
        numbers(table, name, path)
    # The sessions that are asked for.
    rows = table.select(["policy", "episode", *COLUMNS]).to_pylist()
    known = list(dict.fromkeys(row["policy"] for row in rows))
    chosen = known if policies is None else list(policies)
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(f"--policies {unknown[0]}: {path} has {', '.join(known)}")
    if not rows:
        raise UserError(f"{path}: it has no rows")
    sessions: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in rows:
        sessions.setdefault((row["episode"], row["policy"]), []).append({name: row[name] for name in COLUMNS})
    first = list(dict.fromkeys(row["episode"] for row in rows))[:episodes]
    return {
        "speed": speed,
        "bitrates_mbps": sorted({row["bitrate_mbps"] for row in rows}),
        "sessions": [
            {"policy": policy, "episode": episode, "chunks": sessions[episode, policy]}
            for episode in first
            for policy in chosen
            if (episode, policy) in sessions
        ],
    }


async def show(content: dict[str, Any], port: int, visible: str | None) -> None:
    """Serve the page until the process is interrupted; `visible` is a browser that is opened at it."""
    from aiohttp import web

    from edgenetllm.tasks.abr.player.browser import opened
    from edgenetllm.tasks.abr.player.replay import serving
    from edgenetllm.tasks.abr.player.server import PlayerServer, page

    async def records(request: web.Request) -> web.Response:
        return web.json_response(content)

    app = PlayerServer().app
    app.add_routes([web.get("/recorded", page), web.get("/recording", records)])
    async with serving(app, port) as address:
        say(f"{len(content['sessions'])} sessions: {address}/recorded  (Ctrl-C ends it)")
        if visible is None:
            await asyncio.Event().wait()
        with opened(str(visible), f"{address}/recorded", visible=True) as process:
            while process.poll() is None:
                await asyncio.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    from edgenetllm.tasks.abr.player.browser import find_browser, has_display

    parser = argparse.ArgumentParser(prog="python -m edgenetllm.tasks.abr.player.recorded", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--policies", type=lambda text: text.split(","), help="names in the results; all by default")
    parser.add_argument("--episodes", type=int, default=3, help="of the first so many (default 3)")
    parser.add_argument("--speed", type=float, default=8.0, help="of the clock (default 8)")
    parser.add_argument("--port", type=int, default=0, help="on this machine; any that is free by default")
    typed = parser.parse_args(arguments)
    if typed.episodes < 1 or not 0 < typed.speed <= 1000:
        parser.error("--episodes is at least 1, --speed above 0 and at most 1000")
    try:
        content = recording(typed.run, typed.policies, typed.episodes, typed.speed)
        asyncio.run(show(content, typed.port, find_browser(None, visible=True) if has_display() else None))
    except UserError as error:
        say_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        say()


if __name__ == "__main__":
    main()
