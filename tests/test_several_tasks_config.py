"""task=abr+cjs as it is typed: what composes, what a task's own settings are, and what is refused."""

from __future__ import annotations

import pytest
from test_config import settings

from edgenetllm.config import load_config
from edgenetllm.errors import UserError
from edgenetllm.run import Run, config_hash
from edgenetllm.stages.identity import adaptation_key
from edgenetllm.stages.prepare import batch_sizes, estimate
from edgenetllm.task_settings import task_settings

BOTH = "task=abr+cjs"


@pytest.mark.parametrize(("task", "data"), [("abr", "fcc"), ("cjs", "tpch")])
def test_the_settings_of_a_task_are_those_of_a_run_of_its_own(task, data):
    both = settings(BOTH, "data=fcc+tpch", "budget=debug", "seed=3")
    assert task_settings(both, task) == settings(f"task={task}", f"data={data}", "budget=debug", "seed=3")


def test_defaults_and_what_differs_by_task():
    targets = ["~evaluation.targets", "+evaluation.targets={abr: [0.9], cjs: [0.5, 0.9]}"]  # a list is first taken away
    config = load_config(settings(BOTH, "budget.episodes.cjs=7", *targets))
    abr, cjs = config.tasks["abr"], config.tasks["cjs"]
    assert (abr.budget.episodes, cjs.budget.episodes) == (1000, 7)
    assert (abr.experience.shares[0].episodes, cjs.experience.shares[0].episodes) == (1000, 7)
    assert (abr.evaluation.targets, cjs.evaluation.targets) == ([0.9], [0.5, 0.9])
    assert config.task_name == "abr+cjs"
    assert config.task_weights == {"abr": 0.5, "cjs": 0.5}
    assert batch_sizes(config) == {"abr": 8, "cjs": 8}
    assert config.budget.epochs * config.budget.batches_per_epoch == load_config(settings()).budget.epochs * 32


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ([], ("synthetic", "synthetic_dags")),
        (["data=fcc+tpch"], ("fcc", "tpch")),
        (["data@data.abr=norway"], ("norway", "synthetic_dags")),
        (["data=fcc+tpch", "data@data.abr=synthetic", "data.cjs.setting=small"], ("synthetic", "tpch")),
    ],
)
def test_either_data_set_can_be_chosen(typed, names):
    composed = settings(BOTH, *typed)
    assert composed["data"]["name"] == "+".join(names)
    assert tuple(task.data.name for task in load_config(composed).task_objects.values()) == names  # type: ignore[attr-defined]


MISTAKES = [
    ([BOTH, "data=fcc"], r"data=fcc is not for task=abr\+cjs.*data=\.\.\.\+\.\.\..*data@data\.abr=\.\.\. data@data\.cjs"),
    (["data=fcc+tpch"], r"data=fcc\+tpch is for several tasks: type task=abr\+cjs"),
    (["budget=both_quick"], r"budget\.episodes=\{'abr': 1000, 'cjs': 300\}"),
    ([BOTH, "data@data.abr=tpch"], r"data=tpch is not for task=abr"),
    ([BOTH, "task.shares.abr=0"], r"task\.shares=\{'abr': 0, 'cjs': 1\}"),
    ([BOTH, "trainer.batch_size=1"], r"trainer\.batch_size=1: task=abr\+cjs needs at least 2"),
    ([BOTH, "trainer.batch_size=4", "trainer.accumulate=4"], r"batch_size=4: .*num_nodes x accumulate = 4 parts"),
    ([BOTH, "pruning.windows=1"], r"pruning\.windows=1"),
    ([BOTH, "recovery=specialise", "recovery.batch_size=1"], r"recovery\.batch_size=1"),
    ([BOTH, "recovery=reconstruct", "recovery.windows=1"], r"recovery\.windows=1"),
    ([BOTH, "task.abr.tokens=merged"], r"task\.abr\.tokens='merged'"),
    ([BOTH, "+task.cjs.tokns=pointer"], r"task\.cjs\.tokns is not a key.*task\.cjs\.tokens"),
    ([BOTH, "+task.share=1"], r"task\.share is not a key.*task\.shares"),
    ([BOTH, "data.cjs.setting=huge"], r"data\.cjs\.setting=huge"),
    ([BOTH, "budget.episodes.abr=0"], r"budget\.episodes=0"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "message"), MISTAKES)
def test_mistakes_name_the_override(typed, message):
    with pytest.raises(UserError, match=message):
        load_config(settings(*typed))


def test_a_value_that_is_one_for_all_can_be_given_by_task():
    tasks = load_config(settings(BOTH, "budget=debug", "budget.episodes={abr: 40, cjs: 7}")).tasks
    assert [of_task.budget.episodes for of_task in tasks.values()] == [40, 7]


def test_each_task_has_an_expert_search_of_its_own():
    both = load_config(settings(BOTH, "experience=expert", "experience.expert.cjs.generations=7"))
    searches = {name: one.experience.expert for name, one in both.tasks.items()}
    assert searches == {name: load_config(settings(f"task={name}", "experience=expert")).tasks[name].experience.expert
                         for name in ("abr", "cjs")} | {"cjs": searches["cjs"]}  # fmt: skip
    assert searches["cjs"].generations == 7


def test_a_dry_run_counts_both_tasks():
    small = ["model=tiny", "adapter=none", "budget=debug", "trainer.batch_size=16"]
    both, abr, cjs = (estimate(load_config(settings(*typed, *small))) for typed in ([BOTH], [], ["task=cjs"]))
    assert both.prunable == abr.prunable == cjs.prunable
    assert both.decisions == (abr.decisions + cjs.decisions) / 2  # as many sequences, half of them of each task
    assert both.tokens == (abr.tokens + cjs.tokens) / 2
    assert both.pool == abr.pool + cjs.pool
    assert both.parameters == abr.parameters + cjs.parameters - (both.prunable + 32 * 5)  # one decoder, its norms too


def test_where_data_lie_is_no_identity_and_what_a_task_learns_from_is(tmp_path):
    def digest(*typed: str) -> str:
        small = ["data.abr.train=20", "data.abr.val=5", "data.abr.test=5", "data.cjs.setting=tiny"]
        composed = settings(BOTH, "experiment=debug", *small, *typed)
        return adaptation_key(load_config(composed), False).digest

    assert config_hash(settings(BOTH)) == config_hash(settings(BOTH, "paths.data_dir=elsewhere"))
    assert digest() == digest("paths.data_dir=elsewhere", "sparsity=0.8")
    assert len({digest(), digest("task.shares.abr=2"), digest("task.abr.qoe=log")}) == 3


def test_the_folder_of_a_task_lies_in_that_of_the_run(tmp_path):
    composed = settings(BOTH, "budget=debug")
    run = Run(tmp_path, "train", composed, {})
    of_task = run.of_task("cjs")
    assert of_task.folder == tmp_path / "cjs"
    assert of_task.settings == settings("task=cjs", "budget=debug")
    assert of_task.config_hash == run.config_hash
    alone = Run(tmp_path, "train", settings("task=cjs"), {}).of_task("cjs")
    assert alone.folder == tmp_path / "cjs"
    assert alone.settings == settings("task=cjs")


def test_a_run_of_one_task_is_a_run_of_a_list_of_one():
    config = load_config(settings("task=cjs"))
    assert (config.task_name, list(config.tasks), config.task_weights) == ("cjs", ["cjs"], {"cjs": 1.0})
    assert config.objective.metric == config.task_objects["cjs"].metric
    assert load_config(settings(BOTH)).objective.metric.name == "relative_gain"


def test_a_task_with_the_name_of_something_else_in_the_folder_of_a_run_is_refused():
    composed = settings()
    composed["task"]["name"] = "checkpoints"
    with pytest.raises(UserError, match=r"task\.name=checkpoints: the folder of a run has something else of this name"):
        load_config(composed)
