"""The hash of an adaptation: everything that determines it, and nothing else."""

from __future__ import annotations

import pytest
from test_config import settings

from edgenetllm.config import load_config
from edgenetllm.errors import UserError
from edgenetllm.experience.objective import data_hash
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import check_resumed, wanted_adaptation
from edgenetllm.stages.identity import adaptation_key, expert_hash


def digest(tmp_path, *overrides: str) -> str:
    composed = settings("experiment=debug", *overrides)
    return adaptation_key(load_config(composed), False).digest


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> str:
    return digest(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize(
    "override",
    ["sparsity=0.6", "pruning=sparsegpt", "recovery=bias_norm", "export.values=fp32",
     "trainer.gradient_checkpointing=true", "logger=wandb",
     "callbacks.progress_bar=false", "evaluation.plots=false", "evaluation.validation=false", "evaluation.bounds=true",
     "evaluation.sample_seed=3",
     "paths.log_dir=elsewhere"],
)  # fmt: skip
def test_what_comes_after_adaptation_does_not_change_it(tmp_path, plain, override):
    assert digest(tmp_path, override) == plain


@pytest.mark.parametrize("task", ["cjs", "abr+cjs"])
def test_what_is_tested_does_not_change_it(tmp_path, task):
    own = "task" if task == "cjs" else "task.cjs"
    assert digest(tmp_path, f"task={task}", f"{own}.test=3") == digest(tmp_path, f"task={task}")
    assert digest(tmp_path, f"task={task}", f"{own}.validation=3") != digest(tmp_path, f"task={task}")
    tested = [data_hash(load_config(settings(f"task={task}", f"{own}.test={n}")).task_objects) for n in (3, 4)]
    assert tested[0] != tested[1]


@pytest.mark.parametrize(
    "overrides", [["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2"], ["trainer.accumulate=2"]]
)
def test_how_a_batch_is_shared_out_changes_the_last_bits_of_its_sums(tmp_path, plain, overrides):
    assert digest(tmp_path, *overrides) != plain


def test_the_number_of_threads_counts_however_it_came_about(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert digest(tmp_path) == digest(tmp_path, "trainer.threads=3") != digest(tmp_path, "trainer.threads=2")


@pytest.mark.parametrize(
    "override",
    ["seed=2", "model.layers=1", "adapter.rank=8", "adapter=none", "budget.epochs=3", "trainer.batch_size=4",
     "trainer.adapter_lr=1e-4", "data.seed=1", "data.val=50", "task.qoe=log", "evaluation.targets=[0.9]"],
)  # fmt: skip
def test_what_determines_it_does(tmp_path, plain, override):
    assert digest(tmp_path, override) != plain


def test_a_run_does_not_go_on_from_what_other_data_taught(tmp_path):
    """The same settings, but what lies behind them has changed."""
    composed = settings("experiment=debug")
    config, run = load_config(composed), Run(tmp_path, "train", composed, {})
    check_resumed(config, run, wanted_adaptation(config))  # nothing learnt yet
    run.note(status="running", adaptation=wanted_adaptation(config).store.name)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    check_resumed(config, run, wanted_adaptation(config))
    other = load_config(settings("experiment=debug", "data.seed=1"))
    with pytest.raises(UserError, match=r"learnt from other data, or with other code.*threads.*without resume"):
        check_resumed(other, run, wanted_adaptation(other))


@pytest.mark.slow
def test_an_expert_is_identified_by_the_teacher_that_it_began_as():
    def known(*overrides: str) -> str:
        return expert_hash(load_config(settings("experience=expert", *overrides)).tasks["abr"])

    assert known("task.temperature=0.5") != known() == known("experience.workers=1")
