"""A disk that is full, read-only or failing: one sentence, the right state, nothing half written, and equal results later."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from faulty import Ended, Fault, run
from scenarios import PRUNE, SCENARIOS, TRAIN, TRIES, Scenario, at_random, go_on, prepare, state, undisturbed

SENTENCE = re.compile(r"error: .*(No space left on device|Input/output error|Read-only file system).* free in /.*")
MOUNT = ["mount", "-t", "tmpfs", "-o"]


def check(ended: Ended, scenario: Scenario, place: Path, fault: Fault) -> str:
    """The end of a command whose disk failed; it must be one sentence and the right state."""
    about = f"{fault}\n{ended.output}"
    assert "Traceback" not in ended.output, about
    states = [state(folder) for folder in scenario.runs(place)]
    if ended.code == 0:
        assert set(states) == {"finished"}, about
        return "was no harm"
    if scenario.sweep and ended.code == 1:  # a job failed, the others did not
        assert re.search(r": failed: .*(No space|Input/output|Read-only)", ended.output), about
    else:
        assert ended.code == 2, about
        assert SENTENCE.fullmatch(ended.last_line), about
        assert ended.output.count("error: ") == 1, about
    if fault.kind == "enospc" or fault.once:  # else the state cannot be written
        assert set(states) <= {"failed", "finished"}, about
    return "one sentence"


@pytest.mark.slow
@pytest.mark.robustness
def test_a_full_disk_is_one_sentence_and_costs_the_command_that_goes_on(tmp_path):
    whole = undisturbed(PRUNE)
    prepare(PRUNE, tmp_path)
    fault = Fault("enospc", whole.events // 3)
    ended = run(PRUNE.typed(), tmp_path, fault)
    assert check(ended, PRUNE, tmp_path, fault) == "one sentence"
    (folder,) = PRUNE.runs(tmp_path)
    assert state(folder) == "failed"
    assert f"resume={folder.relative_to(tmp_path)}," in ended.last_line
    assert not PRUNE.leftovers(tmp_path)
    go_on(PRUNE, tmp_path)


@pytest.mark.robustness
@pytest.mark.parametrize("at", [1, 8])
def test_a_disk_that_takes_nothing_leaves_nothing(tmp_path, at):
    """A new run that cannot begin: no folder that looks like a run."""
    prepare(PRUNE, tmp_path)
    fault = Fault("enospc", at)
    assert check(run(PRUNE.typed(), tmp_path, fault), PRUNE, tmp_path, fault) == "one sentence"
    assert not list((tmp_path / "logs").glob("prune/*"))


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("name", SCENARIOS)
def test_random_faults(name, tmp_path, capsys):
    scenario, rng, ends = SCENARIOS[name], Random(f"faults of {name}"), Counter()
    whole = undisturbed(scenario)
    for number in range(TRIES):
        place = tmp_path / str(number)
        place.mkdir()
        prepare(scenario, place)
        fault = at_random(rng, ["enospc", "eio", "erofs"], whole)
        ends[f"{fault.kind}: {check(run(scenario.typed(), place, fault), scenario, place, fault)}"] += 1
        try:
            go_on(scenario, place)
        except AssertionError as error:
            raise AssertionError(f"try {number}, {fault}: {error}") from None
        shutil.rmtree(place)
    with capsys.disabled():
        print(f"\nfaults of the disk in {name}: {TRIES} tries, all equal in the end; {dict(sorted(ends.items()))}")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A real disk of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run([*MOUNT, "size=64k", "tmpfs", place], check=False, capture_output=True).returncode:
        pytest.skip("a disk of a few KiB needs the right to mount one")
    yield place
    subprocess.run(["umount", place], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run([*MOUNT, f"remount,{options}", "tmpfs", place], check=True)


@pytest.mark.slow
@pytest.mark.robustness
def test_a_real_disk_that_gets_full(small_disk, capsys):
    """The first command has too little room at random places, until it has enough."""
    rng, used, room = Random(2), 0, 64
    undisturbed(TRAIN)
    while True:
        ended = run(TRAIN.again(small_disk) or [], small_disk)
        if ended.code == 0:
            break
        assert check(ended, TRAIN, small_disk, Fault("enospc")) == "one sentence"
        used, room = used + 1, room + rng.randint(40, 160)
        remount(small_disk, f"size={room}k")
    go_on(TRAIN, small_disk)
    assert used >= 3
    with capsys.disabled():
        print(f"\na real disk was full {used} times, and the results are equal ({room} KiB in the end)")


@pytest.mark.slow
@pytest.mark.robustness
def test_a_real_disk_that_is_read_only(small_disk):
    whole = undisturbed(PRUNE)
    remount(small_disk, "size=64m")
    prepare(PRUNE, small_disk)
    remount(small_disk, "ro,size=64m")
    ended = run(PRUNE.typed(), small_disk)
    assert check(ended, PRUNE, small_disk, Fault("erofs")) == "one sentence"
    assert ended.last_line.startswith("error: logs/prune")
    assert f" free in {small_disk}/logs)" in ended.last_line
    remount(small_disk, "rw,size=64m")
    go_on(PRUNE, small_disk)
    assert whole.outcome["runs"]


@pytest.mark.robustness
def test_the_page_of_a_comparison_on_a_full_disk(tmp_path):
    """Programs without a run answer in the same way."""
    code = (
        "import errno, os, sys\n"
        "from edgenetllm import console, files\n"
        "def full(descriptor): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "os.fsync = full\n"
        "console.program(lambda: files.write_json(sys.argv[1], {}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "page.json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert SENTENCE.fullmatch(done.stderr.strip()), done.stderr
    assert done.stderr.startswith(f"error: {tmp_path}/page.json: No space left on device (")
    assert not list(tmp_path.iterdir())
