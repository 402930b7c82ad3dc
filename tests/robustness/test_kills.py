"""A process that dies anywhere, or loses its power, goes on to the results of one that was left alone, bit by bit."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import compared
import pytest
from faulty import Ended, Fault, Started, run
from scenarios import (
    PRUNE,
    SCENARIOS,
    TRAIN,
    TRIES,
    Scenario,
    at_random,
    go_on,
    lose_power,
    prepare,
    state,
    undisturbed,
)

AGAIN = 0.3  # probability that what goes on is killed as well


def reached(scenario: Scenario, place: Path) -> str:
    """How far a run was when it died."""
    runs = scenario.runs(place)
    if not runs:
        return "nothing"
    run = runs[-1]
    if any(run.glob("*/results.json")):
        return "replay"
    if (run / "bundle" / "manifest.json").is_file():
        return "bundle"
    if (run / "adaptation.json").is_file():
        return "adaptation"
    if (run / "checkpoints").is_dir():
        return "checkpoints"
    return "pool" if list((place / "cache" / "pools").glob("*/pool.json")) else "run"


def die(words: list[str], place: Path, fault: Fault, rng: Random) -> Ended:
    """Run a command until it is killed, and take from the disk what a loss of power would."""
    ended = run(words, place, fault)
    lose_power(place, ended.unflushed, rng)
    return ended


def shared(outcome: dict[str, Any]) -> dict[str, Any]:
    """An outcome without the checkpoints of its runs: who found the adaptation in the cache has none."""
    runs = {
        number: {name: one for name, one in files.items() if not name.startswith("checkpoints/")}
        for number, files in outcome["runs"].items()
    }
    return {**outcome, "runs": runs}


@pytest.mark.robustness
def test_a_loss_of_power_costs_no_more_than_the_command_that_goes_on(tmp_path):
    whole, rng = undisturbed(PRUNE), Random(1)
    prepare(PRUNE, tmp_path)
    assert die(PRUNE.typed(), tmp_path, Fault("power", whole.events // 2), rng).code == -signal.SIGKILL
    assert [state(folder) for folder in PRUNE.runs(tmp_path)] == ["running"]
    go_on(PRUNE, tmp_path)


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.parametrize("name", SCENARIOS)
def test_random_deaths(name, tmp_path, capsys):
    """At random events and moments, some of them of the command that goes on."""
    scenario, rng, ends = SCENARIOS[name], Random(f"kills of {name}"), Counter()
    whole = undisturbed(scenario)
    for number in range(TRIES):
        place = tmp_path / str(number)
        place.mkdir()
        prepare(scenario, place)
        words, faults = scenario.typed(), []
        while words is not None and (not faults or rng.random() < AGAIN):
            faults.append(at_random(rng, ["kill", "power", "time"], whole))
            ended = die(words, place, faults[-1], rng)
            died = ended.code == -signal.SIGKILL
            assert died or ended.code == 0, f"{faults}\n{ended.output}"
            ends["died" if died else "was faster"] += 1
            ends[f"  after {reached(scenario, place)}"] += died
            words = scenario.again(place)
        ends["left temporary files"] += bool(scenario.leftovers(place))
        try:
            go_on(scenario, place)
        except AssertionError as error:
            raise AssertionError(f"try {number}, {', '.join(map(str, faults))}: {error}") from None
        shutil.rmtree(place)
    with capsys.disabled():
        print(f"\nkills of {name}: {TRIES} tries, all equal in the end; {dict(ends)}")


@pytest.mark.slow
@pytest.mark.robustness
def test_two_processes_on_one_cache(tmp_path, capsys):
    """One of two equal commands dies; the other one ends as if it were alone, and so does the first, when it goes on."""
    rng, ends, whole = Random("two"), Counter(), undisturbed(TRAIN)
    for number in range(TRIES):
        place = tmp_path / str(number)
        place.mkdir()
        logs = [f"paths.log_dir={name}/logs" for name in ("first", "second")]
        faults = [at_random(rng, ["kill", "time"], whole), Fault()]
        started = [Started([*TRAIN.typed(), log], place, fault) for log, fault in zip(logs, faults, strict=True)]
        first, second = (one.wait() for one in started)
        assert first.code in (-signal.SIGKILL, 0), f"{faults[0]}\n{first.output}"
        assert second.code == 0, f"{faults[0]}\n{second.output}"
        ends["died" if first.code else "was faster"] += 1
        words = None
        (place / "first" / "logs").mkdir(parents=True, exist_ok=True)
        for name, log in zip(("first", "second"), logs, strict=True):
            (place / "logs").unlink(missing_ok=True)
            (place / "logs").symlink_to(place / name / "logs")  # where the scenario looks for runs
            words = TRAIN.again(place)
            if words is not None:
                assert name == "first"
                ended = run([*words, log], place)
                assert ended.code == 0, f"{faults[0]}\n{ended.output}"
            differences = compared.differences(shared(TRAIN.outcome(place)), shared(whole.outcome))
            assert not differences, f"{faults[0]}\n" + "\n".join(differences[:20])
            assert not TRAIN.leftovers(place), faults[0]
        shutil.rmtree(place)
    with capsys.disabled():
        print(f"\ntwo processes: {TRIES} tries, all equal in the end; {dict(ends)}")
