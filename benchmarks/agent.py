"""Load of the agent: sessions over HTTP on one core, the client on another; latency as the client sees it, and memory.

    python benchmarks/agent.py --seconds 30                        # 1,000 sessions at one decision per 4 s each
    python benchmarks/agent.py --decisions 900000 --json agent.json  # an hour's decisions, as fast as they go

Clients keep their connection, play an episode, close the session, open the next one. At a pace, a latency is counted from
when the request was due, so that an agent that falls behind shows. With `--decisions` (900,000 are an hour of 1,000 sessions
at one per 4 s) each client asks again as soon as it has its answer, and what counts is memory. The bundle is one of ABR,
random weights, 4 blocks of SmolLM2's size, 90 % zeros, int8, or `--bundle`; `--tiny` makes a small one.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cold_start import CONFIG, make_bundle

TARGET_MS = 50.0
PERIOD_S = 4.0
TINY = {**CONFIG, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2}  # fmt: skip
MEMORY = re.compile(r"^process_resident_memory_bytes (\d+)", re.MULTILINE)


@dataclass
class Load:
    """State that the clients share: where they ask, until when, and what they saw."""

    port: int
    period_s: float | None  # None: as fast as it goes
    until: float  # by time.perf_counter
    decisions: int | None
    latencies: list[float] = field(default_factory=list)  # seconds
    asked: int = 0
    episodes: int = 0

    @property
    def over(self) -> bool:
        return time.perf_counter() >= self.until or (self.decisions is not None and self.asked >= self.decisions)


class Connection:
    """One connection that is kept, and the little of HTTP/1.1 that it takes."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, method: str, path: str, body: str = "") -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        lines = (await self.reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        return int(lines[0].split()[1]), await self.reader.readexactly(length)


async def client(load: Load, number: int) -> None:
    """Play episodes until the load is over; the first begins at any decision, so that sessions open all the time."""
    rng = random.Random(number)
    connection = Connection(load.port)
    await connection.open()
    due = time.perf_counter() + rng.random() * (load.period_s or 0)
    skipped = rng.randrange(47)
    while not load.over:
        await asyncio.sleep(due - time.perf_counter() if load.period_s else 0)
        status, answer = await connection.ask("POST", "/sessions")
        assert status == 201, answer
        opened = json.loads(answer)
        for step in range(opened["max_steps"] - skipped):
            if load.period_s is not None:
                await asyncio.sleep(due - time.perf_counter())
            if load.over:
                break
            began = due if load.period_s is not None else time.perf_counter()
            status, answer = await connection.ask("POST", f"/sessions/{opened['session']}/decide", observed(rng, step))
            assert status == 200, answer
            load.latencies.append(time.perf_counter() - began)
            load.asked += 1
            due += load.period_s or 0
        status, answer = await connection.ask("DELETE", f"/sessions/{opened['session']}")
        assert status == 204, answer
        load.episodes, skipped = load.episodes + 1, 0
    connection.writer.close()


def observed(rng: random.Random, step: int) -> str:
    """The body of a decision: any state of a video, and the reward of the chunk before."""
    sizes = [round(size * rng.uniform(0.8, 1.2), 6) for size in (0.15, 0.4, 0.6, 0.9, 1.4, 2.1)]
    observation = {
        "last_quality": rng.randrange(6), "buffer_s": rng.uniform(0, 30), "throughput_mbps": rng.uniform(0.3, 5),
        "delay_s": rng.uniform(0.1, 9), "next_sizes_mb": sizes, "chunks_left": 47 - step,
    }  # fmt: skip
    reward = {"reward": rng.uniform(-1, 3)} if step else {}
    return json.dumps({"observation": observation, "step": step, **reward})


async def watch(load: Load, memory: list[tuple[int, float]], every_s: float) -> None:
    """Note (decisions so far, resident MB of the agent) now and then."""
    connection = Connection(load.port)
    await connection.open()
    while True:
        _, text = await connection.ask("GET", "/metrics")
        found = MEMORY.search(text.decode())
        memory.append((load.asked, int(found[1]) / 1e6 if found else float("nan")))
        await asyncio.sleep(every_s)


async def run(load: Load, sessions: int, every_s: float) -> list[tuple[int, float]]:
    """Play; returns the memory over time."""
    memory: list[tuple[int, float]] = []
    watching = asyncio.create_task(watch(load, memory, every_s))
    await asyncio.gather(*(client(load, number) for number in range(sessions)))
    watching.cancel()
    return memory


def serve(bundle: Path, sessions: int, arguments: list[str], core: int | None) -> tuple[subprocess.Popen[str], int]:
    """An agent on one core, and its port."""
    command = [
        sys.executable,
        "-m",
        "edgenetllm.edge.serve",
        str(bundle),
        "--port=0",
        f"--sessions={sessions}",
        *arguments,
    ]
    pin: Callable[[], None] | None = None if core is None else lambda: os.sched_setaffinity(0, {core})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pin, env=environment)
    assert server.stdout is not None
    line = server.stdout.readline()
    found = re.search(r":(\d+)$", line.strip())
    if found is None:
        raise SystemExit(f"the agent did not start: {line}")
    print(line.strip())
    return server, int(found[1])


def figures(load: Load, memory: list[tuple[int, float]], seconds: float, cpu_s: float) -> dict[str, Any]:
    """The result, as it is printed and written."""
    ms = 1000 * np.array(load.latencies)
    p50, p99, p999 = np.percentile(ms, [50, 99, 99.9])
    late = [size for asked, size in memory if asked >= load.asked / 4] or [memory[-1][1]]
    return {
        "decisions": load.asked, "episodes": load.episodes, "seconds": seconds, "per_s": load.asked / seconds,
        "p50_ms": float(p50), "p99_ms": float(p99), "p99.9_ms": float(p999), "max_ms": float(ms.max()),
        "cpu_ms_per_decision": 1000 * cpu_s / load.asked,
        "memory_mb": memory, "memory_peak_mb": max(size for _, size in memory),
        "memory_change_mb": late[-1] - late[0],
    }  # fmt: skip


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, at most")
    parser.add_argument("--decisions", type=int, help="this many, each client as fast as it gets answers")
    parser.add_argument("--bundle", type=Path, help="of ABR; without, one is made")
    parser.add_argument("--tiny", action="store_true", help="a small bundle")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="further options of the agent")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or make_bundle(Path(folder) / "bundle", TINY if options.tiny else CONFIG)
        server, port = serve(bundle, options.sessions, options.serve, cores[0] if len(cores) > 1 else None)
        if len(cores) > 1:
            os.sched_setaffinity(0, set(cores[1:]))
        try:
            began, cpu = time.perf_counter(), cpu_seconds(server.pid)
            period = PERIOD_S if options.decisions is None else None
            load = Load(port, period, began + options.seconds, options.decisions)
            memory = asyncio.run(run(load, options.sessions, max(0.5, options.seconds / 60)))
            found = figures(load, memory, time.perf_counter() - began, cpu_seconds(server.pid) - cpu)
        finally:
            server.terminate()
            server.wait()
    for name, value in found.items():
        if name != "memory_mb":
            print(f"{name:<22}{value:12.2f}" if isinstance(value, float) else f"{name:<22}{value:12d}")
    for asked, size in memory[:: max(1, len(memory) // 12)]:
        print(f"after {asked:>7} decisions {size:8.1f} MB")
    if options.decisions is None:
        print(f"p99 {'within' if found['p99_ms'] <= TARGET_MS else 'MISSED'} {TARGET_MS:g} ms")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
