"""The whole loop between cloud and edge on this machine, on a small budget: make demo

The cloud adapts a language model to streaming, prunes it to 90 % and writes a bundle. An agent serves the bundle to a site
whose network it has not seen. Two of the site's traces are played by a real player where there is a Chromium, else in the
simulator. Encoder and head are specialised on 20 episodes of the site, the agent serves that bundle and logs its decisions,
and the cloud adapts once more, from the logs. The page `index.html` of the folder shows the loop with its numbers.

Every step is a command that is printed before it runs, and can be typed by hand; what it prints goes into a file.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from demo_page import page

from edgenetllm.errors import UserError
from edgenetllm.report.results import Results
from edgenetllm.tasks.abr.data.datasets import Folder
from edgenetllm.tasks.abr.data.synthetic import generate
from edgenetllm.tasks.abr.player.browser import find_browser
from edgenetllm.tasks.abr.task import AbrTask

ROOT = Path(__file__).resolve().parents[1]
TRACES = {"train": 60, "val": 20, "test": 40}
LOGGED = 60  # episodes that the agent serves at the site
BUDGET = ["model.layers=2", "sparsity=0.9", "evaluation.targets=[0.9]", "logger=csv"]
SMALLER = ["budget.episodes=200", "budget.epochs=2"]


@dataclass
class Demo:
    """The folder of a demonstration, and what has been measured so far."""

    folder: Path
    options: Sequence[str]  # typed with every command of the cloud
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, step: str, program: str, *words: str) -> Path:
        """Run one of the project's programs; the folder of its run. Ends the demonstration where it fails."""
        logs = self.folder / step
        command = [sys.executable, str(ROOT / program), *words, f"paths.log_dir={logs}"]
        print(f"\n{step}\n  $ {shlex.join(['python', program, *words])}", flush=True)
        began = time.perf_counter()
        with (self.folder / f"{step}.log").open("w") as output:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False, cwd=ROOT).returncode
        self.seconds[step] = time.perf_counter() - began
        if code != 0:
            last = (self.folder / f"{step}.log").read_text().splitlines()[-3:]
            sys.exit("\n".join([*last, f"error: this step ended with {code}; all of its output: {output.name}"]))
        print(f"  {self.seconds[step]:.0f} s", flush=True)
        [run] = logs.glob(f"{Path(program).stem}/*")
        return run

    @property
    def site(self) -> list[str]:
        """The data of the site, as they are typed."""
        return ["data=folder", f"data.path={self.folder / 'site'}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where all of it is written (logs/demo/TIME)")
    parser.add_argument("overrides", nargs="*", help="for the commands of the cloud, such as model=tiny budget=debug")
    typed = parser.parse_args()
    if find_spec("aiohttp") is None:
        sys.exit("error: the agent needs aiohttp: pip install -e '.[edge-serve]'")
    folder = typed.folder or ROOT / "logs" / "demo" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if folder.exists():
        sys.exit(f"error: --folder {folder} is there already: name a new one")
    folder.mkdir(parents=True)
    demo, began = Demo(folder.resolve(), typed.overrides), time.perf_counter()
    write_site(demo.folder / "site")
    # From the cloud to the site.
    cloud = demo.run("1-adapt", "train.py", *BUDGET, *demo.options)
    bundle = ship(cloud / "bundle", demo.folder / "edge" / "bundle")
    played = play(demo, cloud)
    # At the site.
    learnt = demo.run("3-specialise", "specialise.py", f"run={cloud}", *demo.site, "specialise.episodes=20",
                      "specialise.steps=60", "logger=csv")  # fmt: skip
    served = serve(demo, ship(learnt / "bundle", demo.folder / "edge" / "specialised"))
    # Back to the cloud.
    logs = demo.folder / "edge" / "decisions"
    again = demo.run("5-adapt-from-logs", "train.py", *BUDGET, *SMALLER, *demo.site, "experience=recorded",
                     f"experience.folder={logs}", *demo.options)  # fmt: skip
    # The page.
    results = {name: Results.load(run / "abr" / "results.json") for name, run in
               (("cloud", cloud), ("played", played), ("specialised", learnt), ("again", again))}  # fmt: skip
    facts = {"bundle_bytes": size(bundle), "served": served, "log_bytes": size(logs), "seconds": demo.seconds,
             "total_s": time.perf_counter() - began}  # fmt: skip
    text, html = page(results, facts, played / "abr" / "plots", demo.folder)
    (demo.folder / "index.html").write_text(html)
    print(f"\n{text}\npage: {demo.folder / 'index.html'}")


def write_site(folder: Path) -> None:
    """The traces of a train ride: three quarters of a generated link's bandwidth, at least 0.4 Mbps, and a tunnel of eight
    seconds in every minute."""
    made = iter(generate(sum(TRACES.values()), 320, seed=77))
    for split, count in TRACES.items():
        (folder / split).mkdir(parents=True)
        for number in range(count):
            trace = next(made)
            tunnel = (trace.time_s + 7 * number) % 60 < 8
            mbps = np.where(tunnel, 0.05, np.maximum(0.75 * trace.mbps, 0.4))
            lines = [f"{second:g} {rate:.4f}" for second, rate in zip(trace.time_s, mbps, strict=True)]
            (folder / split / f"ride-{split}-{number}").write_text("\n".join(lines) + "\n")


def ship(bundle: Path, place: Path) -> Path:
    """Copy a bundle to the edge."""
    shutil.copytree(bundle, place)
    print(f"  shipped: {size(place) / 1e6:.2f} MB in {place}", flush=True)
    return place


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def play(demo: Demo, run: Path) -> Path:
    """Two of the site's traces: by the player where there is a browser, else all of them in the simulator."""
    words = [f"run={run}", *demo.site, "logger=csv"]
    try:
        find_browser(None)
    except UserError as error:
        print(f"\nno player, the simulator plays: {error}")
        return demo.run("2-play", "evaluate.py", *words)
    return demo.run("2-play", "evaluate.py", *words, "replay=player", "replay.traces=2", "replay.speed=8",
                    "replay.policies=[sparse,bba]")  # fmt: skip


def serve(demo: Demo, bundle: Path) -> dict[str, float]:
    """Episodes of the site over HTTP, logged: how many decisions, the median and the 99th percentile of an answer in ms."""
    logs = demo.folder / "edge" / "decisions"
    print(f"\n4-serve\n  $ python -m edgenetllm.edge.serve {bundle} --port 0 --log {logs}", flush=True)
    data = Folder("folder", path=demo.folder / "site", format="cooked", video="synthetic")
    task = AbrTask("abr", data, ROOT / "data", qoe="lin", tokens="fused", noise=False, temperature=0.1)
    simulator, times, began = task.environment("train"), [], time.perf_counter()
    with agent(bundle, logs) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for seed in range(LOGGED):
            times += episode(client, simulator, seed)
    demo.seconds["4-serve"] = time.perf_counter() - began
    print(f"  {demo.seconds['4-serve']:.0f} s, {len(times)} decisions", flush=True)
    return {"decisions": len(times), "median_ms": float(np.median(times)), "p99_ms": float(np.quantile(times, 0.99))}


@contextmanager
def agent(bundle: Path, logs: Path) -> Iterator[int]:
    """An agent in a process of its own; its port."""
    command = [sys.executable, "-m", "edgenetllm.edge.serve", str(bundle), "--port", "0", "--log", str(logs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("serving "):
                sys.exit(f"error: the agent did not start: {line}")
            yield int(line.rpartition(":")[2])
        finally:
            process.send_signal(signal.SIGTERM)


def episode(client: http.client.HTTPConnection, simulator: Any, seed: int) -> list[float]:
    """One session over HTTP; the milliseconds of each answer."""
    session = json.loads(ask(client, "POST", "/sessions", {}))["session"]
    observation, done, times = simulator.reset(np.array([seed])), False, []
    body: dict[str, Any] = {}
    while not done:
        body["observation"] = {name: value[0].tolist() for name, value in observation.items()}
        began = time.perf_counter()
        answer = json.loads(ask(client, "POST", f"/sessions/{session}/decide", body))
        times.append(1e3 * (time.perf_counter() - began))
        observation, reward, ended = simulator.step(np.array([answer["action"]]))
        done, body = bool(ended[0]), {"reward": float(reward[0])}
    ask(client, "DELETE", f"/sessions/{session}?reward={body['reward']!r}")
    return times


def ask(client: http.client.HTTPConnection, method: str, path: str, body: dict[str, Any] | None = None) -> str:
    """The text of an answer. Ends the demonstration where the agent refuses."""
    client.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
    answer = client.getresponse()
    text = answer.read().decode()
    if answer.status >= 400:
        sys.exit(f"error: {method} {path}: {answer.status} {text}")
    return text


if __name__ == "__main__":
    main()
