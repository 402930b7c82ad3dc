"""Speed of the streaming simulator on one core: chunks per second, and the ratio to plain Python.

    python benchmarks/abr_simulator.py

Plain Python is `tests/tasks/abr/oracle.py`, which computes the same to 1e-9. Both play the same kind of session in the
same run: 48 chunks of random quality over generated traces. Also timed: the vectorised step that environments use, and
the whole environment with observations and rewards.
"""

import argparse
import runpy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numba import njit

from edgenetllm.tasks.abr.data.synthetic import generate, generate_video
from edgenetllm.tasks.abr.data.traces import TraceSet, join
from edgenetllm.tasks.abr.simulator.core import CHUNK_S, Arrivals, Playback, _play, step_many
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import FORMS

ORACLE = Path(__file__).parents[1] / "tests" / "tasks" / "abr" / "oracle.py"
CHUNKS = 48


@njit
def play_all(time_s, mbps, offsets, starts, sizes, actions, trace, columns):  # type: ignore[no-untyped-def]
    """Session s plays actions[s] over trace trace[s]; the columns are overwritten by each session."""
    delay_ms, sleep_ms, buffer_s, rebuffer_s, chunk_bytes = columns
    total = 0.0
    for s in range(len(trace)):
        rows = slice(offsets[trace[s]], offsets[trace[s] + 1])
        _play(
            time_s[rows], mbps[rows], sizes, actions[s], starts[trace[s]], CHUNK_S * 1000.0, False,
            delay_ms, sleep_ms, buffer_s, rebuffer_s, chunk_bytes,
        )  # fmt: skip
        total += delay_ms.sum()
    return total


def best_rate(chunks: int, work: Callable[[], object], repeats: int) -> float:
    """Chunks per second of the fastest of `repeats` runs, after one run that compiles and warms up."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return chunks / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=4000, help="sessions of the compiled runs")
    parser.add_argument("--repeats", type=int, default=5, help="runs; the fastest counts")
    options = parser.parse_args()

    # Sessions on generated traces, with random actions.
    rng = np.random.default_rng(0)
    plain = generate(100, 320, seed=0)
    traces = join(plain, rng.integers(1, 320, len(plain)))
    sizes = generate_video()
    trace = rng.integers(0, len(traces), options.sessions)
    actions = rng.integers(0, 6, (options.sessions, CHUNKS))
    chunks = options.sessions * CHUNKS

    # Three ways in compiled code.
    columns = (*(np.empty(CHUNKS) for _ in range(4)), np.empty(CHUNKS, np.int64))
    compiled = best_rate(
        chunks,
        lambda: play_all(traces.time_s, traces.mbps, traces.offsets, traces.starts, sizes, actions, trace, columns),
        options.repeats,
    )
    stepped = best_rate(chunks, lambda: step_all(traces, sizes, actions, trace), options.repeats)
    environment = AbrEnvironment(traces, sizes, FORMS["lin"], random_start=False)
    whole = best_rate(chunks, lambda: run_environment(environment, actions, trace), options.repeats)

    # The same simulator in plain Python, on fewer sessions.
    few = min(options.sessions, 100)
    oracle = runpy.run_path(str(ORACLE))["play"]
    lists = [(t.time_s.tolist(), t.mbps.tolist()) for t in plain]
    size_lists, action_lists = sizes.tolist(), actions[:few].tolist()
    starts = traces.starts.tolist()

    def play_oracle() -> None:
        for number, levels in zip(trace[:few].tolist(), action_lists, strict=True):
            oracle(*lists[number], size_lists, levels, starts[number])

    python = best_rate(few * CHUNKS, play_oracle, options.repeats)
    print(f"{'plain Python (oracle)':<38}{python / 1e6:4.1f} million chunks/s")
    for name, rate in (
        ("compiled loop, one session at a time", compiled),
        ("compiled step, all sessions at once", stepped),
        ("environment, with observations", whole),
    ):
        print(f"{name:<38}{rate / 1e6:4.1f} million chunks/s{rate / python:8.0f} times plain Python")


def step_all(traces: TraceSet, sizes: np.ndarray, actions: np.ndarray, trace: np.ndarray) -> None:
    """Play all sessions by the vectorised step alone."""
    count = len(trace)
    first, start = traces.offsets[trace], traces.starts[trace]
    state = Playback(
        first,
        traces.rows[trace],
        start.copy(),
        traces.time_s[first + start - 1],
        np.zeros(count),
        np.zeros(count, np.int64),
    )
    out = Arrivals(*(np.zeros(count) for _ in Arrivals._fields))
    noise, alive = np.ones(count), np.ones(count, bool)
    for chunk in range(CHUNKS):
        step_many(traces.time_s, traces.mbps, sizes[actions[:, chunk], chunk], noise, alive, state, out)


def run_environment(environment: AbrEnvironment, actions: np.ndarray, trace: np.ndarray) -> None:
    """Call reset and step as a policy would."""
    environment.reset(trace)
    for chunk in range(1, CHUNKS):
        environment.step(actions[:, chunk])


if __name__ == "__main__":
    main()
