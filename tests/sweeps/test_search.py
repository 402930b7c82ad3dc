"""The search: its space, bad trials, and that it goes on where it was broken off."""

from __future__ import annotations

import json

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from sweeps import commands
from sweeps.commands import jobs, run, sweeps

from edgenetllm.errors import UserError

optuna = pytest.importorskip("optuna", minversion="4.0")

from edgenetllm.stages.trial import TRIAL_FILE, open_storage, trial_callbacks  # noqa: E402
from edgenetllm.sweeps.search import STUDY, distribution, drop_half_record, read_space, retry_what_broke_off  # noqa: E402

SEARCH = [
    "-m", "sweep=search", "logger=csv", "hydra.sweeper.pruner=null", "hydra.sweeper.sampler.n_startup_trials=2",
    "adapter.rank=8",
]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("tag(log, interval(1e-4, 1e-2))", optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)),
        ("interval(0, 1)", optuna.distributions.FloatDistribution(0.0, 1.0)),
        ("int(interval(4, 64))", optuna.distributions.IntDistribution(4, 64)),
        ("8,16,32", optuna.distributions.CategoricalDistribution((8, 16, 32))),
        ("choice(wanda, ria)", optuna.distributions.CategoricalDistribution(("wanda", "ria"))),
        ("range(1, 4)", optuna.distributions.CategoricalDistribution((1, 2, 3))),
    ],
)
def test_hydras_sweep_syntax_is_the_search_space(typed, wanted):
    override = OverridesParser.create().parse_overrides([f"key={typed}"])[0]
    assert distribution(override) == wanted


def test_what_is_typed_replaces_the_preset_and_one_value_fixes_it():
    space = read_space(["adapter.rank=choice(8,16)", "seed=1", "adapter.rank=4", "sparsity=0.2,0.4"])
    assert set(space.distributions) == {"sparsity"}
    assert set(space.fixed) == {"adapter.rank=4", "seed=1"}
    with pytest.raises(UserError, match="nothing to vary"):
        read_space(["seed=1"])


def test_trials_that_failed_or_were_broken_off_come_first_again(tmp_path):
    study = optuna.create_study(storage=open_storage(str(tmp_path / "study.log")))
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    running, failed, done = (study.ask(space) for _ in range(3))
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    study.tell(done, 0.5)
    retry_what_broke_off(study)
    retry_what_broke_off(study)  # a second interruption does not double them
    again = [study.ask(space).params["x"] for _ in range(2)]
    assert again == [running.params["x"], failed.params["x"]]
    assert study.ask(space).params["x"] not in (*again, done.params["x"])


def test_half_a_record_of_a_study_is_cut_off(tmp_path):
    """Left by a full disk or a loss of power; Optuna alone appends the next record to it, and reads neither."""
    path = tmp_path / "study.log"
    study = optuna.create_study(study_name=STUDY, storage=open_storage(str(path)))
    study.tell(study.ask(), 0.5)
    whole = path.read_bytes()
    for half in (b'{"op_code":4,', b"\0\0\0"):
        path.write_bytes(whole + half)
        drop_half_record(path)
        assert path.read_bytes() == whole
    drop_half_record(tmp_path / "none.log")
    again = optuna.load_study(study_name=STUDY, storage=open_storage(str(path)))
    again.tell(again.ask(), 1.5)
    assert [trial.value for trial in again.get_trials()] == [0.5, 1.5]


def test_a_trial_that_the_study_has_closed_reports_nothing_when_it_is_resumed(tmp_path):
    url = str(tmp_path / "study.log")
    study = optuna.create_study(study_name=STUDY, storage=open_storage(url))
    trials = [study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}) for _ in range(2)]
    study.tell(trials[0], state=optuna.trial.TrialState.FAIL)
    for trial, waits in zip(trials, (0, 1), strict=True):
        facts = {"storage": url, "study": STUDY, "number": trial.number, "pruner": None}
        (tmp_path / TRIAL_FILE).write_text(json.dumps(facts))
        assert len(trial_callbacks(tmp_path, "val/qoe")) == waits
    assert trial_callbacks(tmp_path / "no trial", "val/qoe") == []


@pytest.mark.slow
def test_a_search_goes_on_where_it_was_and_a_bad_trial_is_stopped(tmp_path, monkeypatch, capsys):
    space = ["trainer.adapter_lr=1e-3", "trainer.task_lr=interval(0.002,0.004)"]
    assert run(monkeypatch, tmp_path, "train", *SEARCH, *space, "hydra.sweeper.trials=2") == 0
    folder = sweeps(tmp_path)[0]
    first = {name: (folder / name / "abr/results.json").stat().st_mtime_ns for name in json.loads(
        (folder / "sweep.json").read_text())["jobs"]}  # fmt: skip
    study = optuna.load_study(study_name=STUDY, storage=open_storage(str(folder / "study.log")))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    assert study.direction.name == "MAXIMIZE"  # QoE
    epochs = [sorted(trial.intermediate_values) for trial in study.trials]
    assert [0, 1] in epochs
    values = {trial.params["trainer.task_lr"]: trial.value for trial in study.trials}
    assert {job["objective"] for job in jobs(folder).values()} == set(values.values())
    # Two more, with a pruner that stops whatever is new at its first epoch.
    pruner = "+hydra.sweeper.pruner={_target_: optuna.pruners.ThresholdPruner, lower: 1e6}"
    stop = ["hydra.sweeper.trials=4", "~hydra.sweeper.pruner", pruner]
    words = [word for word in SEARCH if word != "hydra.sweeper.pruner=null"]
    assert run(monkeypatch, tmp_path, "train", *words, *space, *stop, f"resume={folder}") == 0
    assert len(sweeps(tmp_path)) == 1
    states = [trial.state.name for trial in optuna.load_study(
        study_name=STUDY, storage=open_storage(str(folder / "study.log"))).trials]  # fmt: skip
    assert len(states) == 4
    assert states[:2] == ["COMPLETE", "COMPLETE"]
    new = [job for job in jobs(folder).values() if job["folder"].name not in first]
    assert [job["status"] for job in new] == ["stopped", "stopped"]
    assert states[2:] == ["PRUNED", "PRUNED"]
    assert {name: (folder / name / "abr/results.json").stat().st_mtime_ns for name in first} == first
    best = json.loads((folder / "best.json").read_text())
    assert best["value"] == max(values.values())


@pytest.mark.slow
def test_a_search_over_several_tasks_optimises_their_mean_gain(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "QUICK", [word for word in commands.QUICK if not word.startswith("data.")])
    both = ["task=abr+cjs", "data.abr.train=40", "data.abr.val=4", "data.abr.test=4",
            "data.cjs.setting=tiny", "task.cjs.validation=2", "task.cjs.test=2"]  # fmt: skip
    words = [*SEARCH, *both, "trainer.task_lr=choice(0.004,0.002)", "trainer.adapter_lr=1e-3", "hydra.sweeper.trials=2"]
    assert run(monkeypatch, tmp_path, "train", *words) == 0
    folder = sweeps(tmp_path)[0]
    study = optuna.load_study(study_name=STUDY, storage=open_storage(str(folder / "study.log")))
    assert study.direction.name == "MAXIMIZE"  # the mean gain over the teachers, whatever a task itself maximises
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    best = json.loads((folder / "best.json").read_text())
    assert best["value"] == max(trial.value for trial in study.trials)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluation.validation=false"], "a search optimises the validation metric"),
        (["hydra.sweeper.trials=0"], "trials"),
        (["trainer.batch_size=0"], r"trainer.batch_size=0"),
    ],
)
def test_a_search_that_cannot_work_does_not_start(tmp_path, monkeypatch, capsys, words, message):
    assert run(monkeypatch, tmp_path, "train", *SEARCH, *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_a_dry_run_of_a_search_tells_what_it_would_cost(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, tmp_path, "train", *SEARCH, "dry_run=true", "hydra.sweeper.trials=7") == 0
    out = capsys.readouterr().out
    assert "a search to maximize val/qoe over trainer.adapter_lr, trainer.task_lr" in out
    assert "7 trials" in out
    assert not (tmp_path / "logs").exists()
