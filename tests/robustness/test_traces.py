"""Trace files and videos of any content: read or refused in one sentence, and what is read plays to its end."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from contained import Limits, campaign, check
from mutations import altered_text, altered_tree

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data import limits
from edgenetllm.tasks.abr.data.columns import Typed
from edgenetllm.tasks.abr.data.datasets import Folder, Synthetic
from edgenetllm.tasks.abr.data.ladder import Ladder
from edgenetllm.tasks.abr.data.own_video import video_of
from edgenetllm.tasks.abr.data.readers import read
from edgenetllm.tasks.abr.data.rows import from_zero
from edgenetllm.tasks.abr.data.splits import divided
from edgenetllm.tasks.abr.data.synthetic import generate, generate_video
from edgenetllm.tasks.abr.data.traces import Trace, join
from edgenetllm.tasks.abr.data.videos import Videos, read_video
from edgenetllm.tasks.abr.policies.bba import Bba
from edgenetllm.tasks.abr.policies.mpc import Mpc
from edgenetllm.tasks.abr.policies.optimum import solve
from edgenetllm.tasks.abr.simulator.core import Arrivals, Playback, play, step_many, wait_many
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import qoe_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, for infinite times and rates
CASES = int(os.environ.get("ROBUSTNESS_CASES", "20000"))
FEW = 250
SIZES = generate_video()


def start_files() -> dict[str, list[bytes]]:
    """Good files of every format, from generated traces."""
    rng = random.Random(0)
    trace = generate(1, 60, 0)[0]
    rows = list(zip(trace.time_s.tolist(), trace.mbps.tolist(), strict=True))
    stamps = sorted(rng.randrange(20_000) for _ in range(300))
    clock = "".join(
        f"{1284623045 + t:.0f} {163421 + 1000 * t:.0f} 59.91 10.77 {mbps * 125_000:.0f} {1000 if t else 0}\n"
        for t, mbps in rows
    )
    columns = "Timestamp,Longitude,State,DL_bitrate,UL_bitrate\n"
    gnettrack = columns + "".join(
        f"2019.12.16_13.{40 + int(t) // 60:02d}.{int(t) % 60:02d},10.7,{'DI'[int(t) % 2]},{mbps * 1000:.0f},12\n"
        for t, mbps in rows
    )
    return {
        "mahimahi": ["\n".join(map(str, stamps)).encode() + b"\n", b"# one packet a millisecond\n1\n", b"0\n30000\n"],
        "cooked": ["".join(f"{t:.3f} {mbps:.5f}\n" for t, mbps in rows).encode(), b"# seconds Mbps\n0 1\n1 2\n2 0\n3 4\n"],
        "csv": [
            ("time_ms,throughput_kbps,note\n" + "".join(f'{t * 1000:.0f},{m * 1000:.1f},"a, b"\n' for t, m in rows)).encode(),
            ("date;bytes\n" + "".join(f"2023-11-14T22:{int(t) // 60:02d}:{int(t) % 60:02d}Z;{m * 125_000:.0f}\n"
                                      for t, m in rows)).encode(),
            b"0,1.5\n1,2\n2,2.5\n",
        ],
        "hsdpa": [clock.encode()],
        "gnettrack": [gnettrack.encode(), gnettrack.replace(",", "\t").encode()],
    }  # fmt: skip


STARTS = start_files()


def plays_to_its_end(trace: Trace, sizes: np.ndarray = SIZES, ladder: Ladder | None = None) -> None:
    """An episode from the first and from the last row, under both clocks, by the buffer alone."""
    videos = Videos(sizes[None], ladder=ladder) if ladder else Videos(sizes[None])
    traces = join([trace, trace], np.array([1, len(trace.time_s) - 1]))
    for clock in ("public", "real"):
        environment = AbrEnvironment(traces, videos, qoe_of("lin", videos.ladder), random_start=False, clock=clock)
        policy = Bba(levels=videos.ladder.levels)
        policy.start(2)
        observation, done = environment.reset(np.arange(2)), False
        for _ in range(min(sizes.shape[1], 60) - 1):
            observation, reward, done = environment.step(policy.act(observation))
            assert np.isfinite(reward).all()
        assert all(np.isfinite(value).all() for value in observation.values())
        assert done.all() or sizes.shape[1] > 60


def altered(kind: str, number: int) -> bytes:
    chance = random.Random(f"{kind} {number}")
    return altered_text(chance.choice(STARTS[kind]), chance)


def attempt_trace(kind: str):
    def attempt(number: int, folder: Path) -> None:
        (folder / "trace").write_bytes(altered(kind, number))
        plays_to_its_end(from_zero(read(folder / "trace", kind, Typed())))

    return attempt


def write_video(folder: Path) -> dict[str, bytes]:
    ladder = Ladder((300.0, 900.0, 2500.0), 2.0)
    sizes = generate_video(0, 12, ladder)
    files = {f"video_size_{level}": "".join(f"{size}\n" for size in row).encode() for level, row in enumerate(sizes)}
    files["ladder.json"] = json.dumps({"bitrates_kbps": list(ladder.bitrates_kbps), "chunk_s": ladder.chunk_s}).encode()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return files


def options(folder: Path, **changed: object) -> Synthetic:
    return Synthetic("synthetic", 0, 60, 1, 1, 1, video=str(folder), **changed)


def attempt_video(number: int, folder: Path) -> None:
    """One file of a video altered: the sizes of a level, or the ladder, also as a tree."""
    chance = random.Random(f"video {number}")
    video = folder / "video"
    video.mkdir()
    files = write_video(video)
    name = chance.choice([*files, "ladder.json", "ladder.json"])
    data = altered_text(files[name], chance)
    if name == "ladder.json" and chance.random() < 0.5:
        data = json.dumps(altered_tree(json.loads(files[name]), chance)).encode()
    (video / name).write_bytes(data)
    watched = video_of(options(video), folder)
    plays_to_its_end(Trace("a", np.arange(61.0), np.full(61, 2.0)), watched.sizes, watched.ladder)


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile before the first case: the time of a compilation is not that of a file."""
    plays_to_its_end(Trace("a", np.arange(10.0), np.ones(10)))
    simulate(0, Path())


def run(kind: str, numbers: range) -> None:
    check(campaign(kind, numbers, attempt_video if kind == "video" else attempt_trace(kind)))


@pytest.mark.robustness
@pytest.mark.parametrize("kind", [*STARTS, "video"])
def test_altered_files_are_read_or_refused(kind):
    run(kind, range(FEW))


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("kind", [*STARTS, "video"])
def test_many_altered_files_are_read_or_refused(kind):
    run(kind, range(CASES))


REFUSED = {
    "a stamp of 4301 digits": ("mahimahi", b"1" * 4301 + b"\n"),
    "a stamp of 19 digits": ("mahimahi", b"1\n9999999999999999999\n"),
    "three years": ("mahimahi", b"0\n100000000000\n"),
    "thirty thousand years": ("mahimahi", b"0\n1000000000000000\n"),
    "a packet in two days": ("mahimahi", b"180000000\n"),
    "a terabit": ("mahimahi", b"1\n" * 100_000),
    "1e-300 Mbps": ("cooked", b"0 1e-300\n1 1e-300\n"),
    "1e-9 Mbps behind zeros": ("cooked", b"0 0\n1 0\n2 0\n3 1e-9\n"),
    "steps of 5e-324 s": ("cooked", b"0 1\n5e-324 1\n1e-323 1\n"),
    "steps of 1e-6 s": ("cooked", b"0 1\n0.000001 1\n0.000002 1\n"),
    "1e308 Mbps": ("cooked", b"0 1\n1 1e308\n2 1\n"),
    "two years": ("cooked", b"0 1\n63000000 1\n"),
    "too many rows": ("cooked", b"".join(b"%d 1\n" % t for t in range(limits.MOST_ROWS + 1))),
    "a line without end": ("cooked", b"1" * 200_000),
    "a large file": ("cooked", b"#\n" * (limits.LARGEST_FILE // 2 + 1)),
    "nothing but zero bytes": ("cooked", bytes(100_000)),
    "a field without end": ("csv", b'time_s,dl_mbps\n0,"' + b"1" * 99_000 + b"\n" + b"1\n" * 99_000),
    "a hundred thousand columns": ("csv", b",".join(b"c%d" % n for n in range(15_000)) + b"\n1,2\n"),
    "a name with an escape": ("csv", b"time_s,\x1b[2Jdl_mbps\x07,up_mbps\n0,1,2\n1,1,2\n"),
    "a clock of no number": ("hsdpa", b"1284623045 nan 59 10 5 0\n1284623046 nan 59 10 5 1000\n"),
    "no time between rows": ("hsdpa", b"1284623045 0 59 10 5 0\n1284623046 0 59 10 5 5e-324\n"),
    "a quote without end": ("gnettrack", b'Timestamp,DL_bitrate\n"' + b"2" * 99_000 + b"\n" + b"2" * 99_000),
    "the year 9999": ("gnettrack", b"Timestamp,DL_bitrate\n9999.12.31_23.59.59,5\n0001.01.01_00.00.00,5\n"),
}  # fmt: skip


@pytest.mark.robustness
def test_directed_trace_files_are_refused_at_once():
    names = list(REFUSED)

    def attempt(number: int, folder: Path) -> str:
        kind, data = REFUSED[names[number]]
        (folder / "trace").write_bytes(data)
        read(folder / "trace", kind, Typed())
        return f"accepted {names[number]}"

    tally = campaign("directed traces", range(len(names)), attempt)
    check(tally)
    assert tally.ends == {"refused": len(names)}


ACCEPTED = {
    "one packet a millisecond": ("mahimahi", b"1\n"),
    "a packet a minute": ("mahimahi", b"60000\n"),
    "a gigabit for five seconds": ("mahimahi", b"".join(b"%d\n" % (n // 83) for n in range(400_000))),
    "as many rows as may be": ("cooked", b"".join(b"%d 1\n" % t for t in range(limits.MOST_ROWS))),
    "the same bandwidth but for the end": (
        "cooked", b"".join(b"%d 1\n" % t for t in range(limits.MOST_ROWS - 5)) + b"".join(
            b"%d %d\n" % (limits.MOST_ROWS + t, t) for t in range(2, 6)),
    ),
    "as slow as may be": ("cooked", b"0 0.000101\n1 0.000101\n2 0.000101\n"),
    "as slow, in short rows": ("cooked", b"".join(b"%.6f 0.000101\n" % (t * 1e-5) for t in range(20_000))),
    "as fast as may be": ("cooked", b"0 1000000\n1 1000000\n"),
    "a month": ("cooked", b"0 1\n2592000 1\n"),
    "one row carries everything": ("cooked", b"0 0\n100000 0\n100000.00002 1000000\n200000 0\n"),
}  # fmt: skip


@pytest.mark.robustness
def test_directed_trace_files_at_the_bounds_are_read_and_played():
    """Also split from each other, which compares runs of samples."""
    names = list(ACCEPTED)

    def attempt(number: int, folder: Path) -> None:
        kind, data = ACCEPTED[names[number]]
        (folder / "trace").write_bytes(data)
        trace = from_zero(read(folder / "trace", kind, Typed()))
        plays_to_its_end(trace)
        divided([trace], [trace], [Trace("b", trace.time_s, trace.mbps + 1.0)], allow_shared=True)

    tally = campaign("traces at the bounds", range(len(names)), attempt, Limits(seconds=6.0))
    check(tally)
    assert tally.ends == {"accepted": len(names)}


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("video_size_0", b"0" * 19 + b"1" + b"9" * 5000 + b"\n75000\n", "line 1: '0000"),
        ("video_size_0", "٣٠٠٠٠\n75000\n".encode(), "line 1"),
        ("video_size_0", b"75000\n" * 200_000, "larger than 1 MiB"),
        ("ladder.json", b'{"chunk_s": 2, "chunk_s": 4}', "'chunk_s' stands twice"),
        ("ladder.json", b"[" * 50_000, "nested too deep"),
        ("ladder.json", b'{"bitrates_kbps": [1e308, 1e309, NaN], "chunk_s": 2}', "NaN is no number"),
        ("ladder.json", b'{"bitrates_kbps": [300, 900, ' + b"1" * 400 + b'], "chunk_s": 2}', "give at least two"),
        ("ladder.json", b'{"bitrates_kbps": [300, 900, ' + b"1" * 5000 + b'], "chunk_s": 2}', "ladder"),
        ("ladder.json", b'{"bitrates_kbps": [1e-300, 900, 2500], "chunk_s": 2}', "each from 1 to"),
        ("ladder.json", b'{"bitrates_kbps": [300, 900, 2500], "chunk_s": 1e-9}', "give seconds, from 0.1"),
    ],
)
def test_directed_videos_are_refused(tmp_path, name, data, says):
    write_video(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=says) as error:
        video_of(options(tmp_path), tmp_path)
    assert len(str(error.value)) < 600


def test_a_public_video_of_other_content_is_refused(tmp_path):
    for level in range(6):
        (tmp_path / f"video_size_{level}").write_text("9" * 25 + "\n")
    with pytest.raises(UserError, match="line 1"):
        read_video(tmp_path)


@pytest.mark.parametrize("rates", [[300.0, 1e30], [1e-300, 300.0], [300.0, float("inf")]])
def test_a_generated_video_has_bitrates_that_a_size_can_have(rates):
    with pytest.raises(UserError, match="each from 1 to"):
        video_of(Synthetic("synthetic", 0, 60, 1, 1, 1, bitrates_kbps=rates), Path())


ODD = (0.0, -0.0, 1.0, -1.0, 1e-300, 5e-324, 1e300, np.inf, -np.inf, np.nan, 1e-9, 0.5, 100.0, 1e15)


def simulate(number: int, _: Path) -> str:
    """Any arrays at all: every function of the simulator returns, or raises ValueError."""
    chance = np.random.default_rng(number)
    rows = int(chance.integers(2, 40))

    def column(usual: np.ndarray) -> np.ndarray:
        odd = chance.choice(ODD, rows)
        return np.where(chance.random(rows) < chance.choice([0, 0.1, 0.9, 1]), odd, usual)

    time_s, mbps = column(np.arange(rows) * chance.choice([1.0, 1e-9, 1e9])), column(chance.random(rows))
    sizes = chance.choice([1, 1000, 10**6, 2**31, 2**62], (2, 6))
    ends = []
    for clock in ("public", "real"):
        for function in (lambda clock=clock: play(time_s, mbps, sizes, np.ones(6, np.int64), 1, 4.0, clock),
                         lambda clock=clock: solve(time_s, mbps, np.minimum(sizes, 2**40), 1, clock=clock)):  # fmt: skip
            try:
                function()
                ends.append("played")
            except ValueError:
                ends.append("refused")
    state = Playback(
        np.zeros(2, np.int64),
        np.full(2, rows),
        np.ones(2, np.int64),
        time_s[:2].copy(),
        np.zeros(2),
        np.zeros(2, np.int64),
    )
    arrivals, alive = Arrivals(*(np.zeros(2) for _ in Arrivals._fields)), np.ones(2, bool)
    for _ in range(3):
        wait_many(time_s, chance.choice(ODD, 2), alive, state, np.zeros(2))
        try:
            step_many(time_s, mbps, sizes[:, 0].copy(), chance.choice(ODD, 2), alive, state, arrivals)
        except ValueError:
            ends.append("refused")
    return " and ".join(sorted(set(ends)))


@pytest.mark.robustness
def test_the_simulator_ends_whatever_arrays_it_is_given():
    check(campaign("odd arrays", range(FEW), simulate))


@pytest.mark.slow
@pytest.mark.robustness
def test_the_simulator_ends_whatever_many_arrays_it_is_given():
    check(campaign("odd arrays", range(CASES), simulate))


@pytest.mark.parametrize(("row_s", "mbps"), [(1e-5, 1e-4), (1e-3, 12.0), (1e-5, 5.0)])
@pytest.mark.parametrize("clock", ["public", "real"])
def test_whole_turns_at_once_take_the_time_that_the_bandwidth_gives(row_s, mbps, clock):
    """A download of millions of rows: where the bandwidth is constant its time is known."""
    rows = 11
    time_s, sizes = np.arange(rows) * row_s, np.full((1, 2), 2**31)
    played = play(time_s, np.full(rows, mbps), sizes, np.zeros(2, np.int64), 1, 4.0, clock)
    np.testing.assert_allclose(played.delay_ms, 2**31 / (mbps * 1e6 / 8 * 0.95) * 1000 + 80, rtol=1e-9)


def test_whole_turns_at_once_end_in_the_right_row():
    """As many bytes as so many turns and a part of one carry, with bandwidths that differ from row to row."""
    time_s, mbps = np.array([0, 1e-5, 3e-5, 4e-5]), np.array([0, 8.0, 0.0, 16.0])
    turn_bytes = 0.95 * (1e6 * 1e-5 + 2e6 * 1e-5)
    turns, part = 30_000_000, 0.95 * (10 + 5)  # the first row, and a quarter of the third
    size = round(turns * turn_bytes + part)
    played = play(time_s, mbps, np.full((1, 1), size), np.zeros(1, np.int64), 1)
    exact_s = turns * 4e-5 + 3e-5 + (size - turns * turn_bytes - 9.5) / 0.95 / 2e6
    assert played.delay_ms[0] / 1000 - 0.08 == pytest.approx(exact_s, rel=1e-12)


def test_mpc_and_the_optimum_play_the_slowest_trace():
    trace = Trace("slow", np.arange(5) * 1e-5, np.full(5, 1e-4))
    environment = AbrEnvironment(join([trace], np.ones(1, np.int64)), SIZES, qoe_of("lin"), random_start=False)
    policy = Mpc("robustmpc", SIZES, qoe_of("lin"))
    policy.start(1)
    observation = environment.reset(np.zeros(1, np.int64))
    for _ in range(47):
        observation, reward, done = environment.step(policy.act(observation))
        assert np.isfinite(reward).all()
    assert done.all()
    assert np.isfinite(solve(trace.time_s, trace.mbps, SIZES[:, :12], 1).mean_reward)


def test_a_folder_with_one_hostile_trace_names_it(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "good").write_bytes(STARTS["cooked"][0])
    (tmp_path / "val" / "bad").write_bytes(b"0 1e-300\n1 1e-300\n")
    with pytest.raises(UserError, match=r"val/bad: no bandwidth to speak of"):
        Folder("folder", tmp_path, "cooked", "synthetic").splits()
