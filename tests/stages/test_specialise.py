"""Specialisation: what learns and what stays, states that are computed once, and specialise.py as a user types it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small import ARCHITECTURES, make_policy, make_task
from test_config import settings
from typed import call, runs

from edgenetllm.composition import settings_of_run
from edgenetllm.config import load_config
from edgenetllm.edge.bundle import DENSE_FILE, SPARSE_FILE, read_bundle
from edgenetllm.edge.diff import compare
from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.export import export_policy, policy_name
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry
from edgenetllm.models.decoder import prunable_layers
from edgenetllm.report.results import Results
from edgenetllm.report.specialisation import cloud_line, domain_line, specialisation_lines
from edgenetllm.run import CHOICES_FILE, CONFIG_FILE, config_hash
from edgenetllm.specialisation.activations import KnownStates, hidden_states
from edgenetllm.specialisation.bundle import check_backbone, sparse_names, write_specialised
from edgenetllm.specialisation.cloud import Cloud, cloud_of
from edgenetllm.specialisation.domain import Domain
from edgenetllm.specialisation.episodes import pool_bytes, share_out, with_few_episodes
from edgenetllm.specialisation.fit import build_data, build_module, fit
from edgenetllm.specialisation.parameters import choose_trained, frozen_hash, part_of, zero_backbone
from edgenetllm.specialisation.start import start_policy
from edgenetllm.stages.pool import collect_pools
from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.task import AbrTask

FEW = ["specialise.episodes=3", "specialise.steps=4", "specialise.validate_every=2", "specialise.batch_size=2"]
TINY = ["experiment=debug", "data.train=6", "data.val=3", "data.test=3", "callbacks.progress_bar=false"]


def small_policy(kind: str = "llama"):
    """Half of its weights are zero, as those of a bundle are."""
    policy = make_policy(make_task(), dict(ARCHITECTURES[kind]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in prunable_layers(policy.decoder).values():
            layer.weight *= torch.rand(layer.weight.shape, generator=generator) < 0.5
    return policy


def export(policy, folder, **options):
    matrices = [policy_name(name) for name in prunable_layers(policy.decoder)]
    export_policy(
        policy,
        folder,
        matrices=matrices,
        adapter=None,
        target_returns={"abr": 1.0},
        parent={},
        values="int8",
        **options,
    )
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    place = tmp_path_factory.mktemp("specialise")
    words = [
        *TINY,
        *FEW,
        "trainer.threads=1",
        f"paths.cache_dir={place}",
        "trainer.precision=fp32",
        "experience.workers=1",
    ]
    return load_config(settings(*words))


@pytest.fixture(scope="module")
def pools(config):
    return collect_pools(with_few_episodes(config))


# What learns.


def test_every_parameter_but_a_matrix_of_the_backbone_has_a_part(architecture):
    policy = make_policy(make_task(), architecture)
    parts = part_of(policy)
    rest = [name for name, _ in policy.named_parameters() if name not in parts]
    matrices = {f"decoder.{name}.weight" for name in prunable_layers(policy.decoder)}
    assert matrices <= set(rest)
    assert all(policy.get_parameter(name).ndim > 1 for name in rest)
    assert parts["tasks.abr.norm.weight"] == parts["tasks.abr.return_to_go.bias"] == "encoder"
    heads = {name for name, part in parts.items() if part == "head"}
    assert heads == {name for name in parts if name.startswith("tasks.abr.head.")}
    norms = [name for name, part in parts.items() if part == "norms"]
    assert norms
    assert all((name.startswith("decoder.") and "norm" in name) or ".ln_" in name for name in norms)


def test_only_what_is_named_learns_and_the_rest_is_hashed():
    policy = small_policy()
    trained = choose_trained(policy, ["head", "norms"])
    assert {name for name, one in policy.named_parameters() if one.requires_grad} == set(trained)
    before = frozen_hash(policy, trained)
    with torch.no_grad():
        policy.head.get_parameter(trained[-1].removeprefix("tasks.abr.head.")).add_(1)
    assert frozen_hash(policy, trained) == before
    with torch.no_grad():
        next(iter(prunable_layers(policy.decoder).values())).weight[0, 0] += 1e-7
    assert frozen_hash(policy, trained) != before


def test_a_part_that_is_not_there_or_lies_in_the_sparse_file_is_refused():
    policy = small_policy()
    with pytest.raises(UserError, match=r"specialise\.train=biases: this backbone has no biases"):
        choose_trained(policy, ["biases"])
    name = next(name for name, part in part_of(policy).items() if part == "encoder")
    with pytest.raises(UserError, match=rf"{name} was pruned \(pruning\.also\) and lies in the sparse file"):
        choose_trained(policy, ["encoder"], sparse={name})
    assert choose_trained(policy, ["head"], sparse={name})
    assert "biases" in part_of(make_policy(make_task(), dict(ARCHITECTURES["gpt2"]))).values()


def test_a_zeroed_backbone_passes_its_input_on():
    policy = zero_backbone(small_policy())
    assert all(bool((layer.weight == 0).all()) for layer in prunable_layers(policy.decoder).values())
    assert all(bool((one != 0).any()) for one in policy.head.parameters())


# States that are computed once.


def test_states_stay_the_same_bit_by_bit_while_only_the_head_learns(config, pools):
    policy = make_policy(config.task_objects["abr"], dict(ARCHITECTURES["llama"]))
    head_only = config.model_copy(update={"specialise": config.specialise.model_copy(update={"train": ["head"]})})
    trained = choose_trained(policy, ["head"])
    data = build_data(config, config.specialise, pools)
    before, head = hidden_states(policy, data, bf16=False)["abr"], copy.deepcopy(policy.head.state_dict())
    fitted = fit(head_only, policy, pools, None, trained)
    assert fitted.cached_activations
    assert fitted.trained_parameters == sum(policy.get_parameter(name).numel() for name in trained)
    if fitted.best_step:
        assert any(not torch.equal(head[name], value) for name, value in policy.head.state_dict().items())
    assert torch.equal(hidden_states(policy, data, bf16=False)["abr"], before)


def test_a_loss_from_known_states_is_that_of_running_the_backbone(config, pools):
    policy = make_policy(config.task_objects["abr"], dict(ARCHITECTURES["llama"]))
    choose_trained(policy, ["head"])
    data = build_data(config, config.specialise, pools)
    known = KnownStates(build_data(config, config.specialise, pools), hidden_states(policy, data, bf16=False))
    known.setup()
    module = build_module(config, config.specialise, policy, pools)
    for chosen in ([1], [2, 0]):
        run, kept = ({"abr": one.datasets["abr"][chosen]} for one in (data, known.data))
        assert "hidden" in kept["abr"]
        losses = [module.loss(batch) for batch in (run, kept)]
        if len(chosen) == 1:  # in a batch, the order of sums may differ
            assert torch.equal(*losses)
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
        gradients = [torch.autograd.grad(loss, list(policy.head.parameters())) for loss in losses]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_fit_is_a_function_of_its_seed_and_never_ends_worse_on_validation(config, pools):
    states = []
    for _ in range(2):
        policy = make_policy(config.task_objects["abr"], dict(ARCHITECTURES["llama"]))
        fitted = fit(config, policy, pools, None, choose_trained(policy, ["encoder", "head"]))
        assert not fitted.cached_activations
        assert fitted.validation[1] >= fitted.validation[0]
        assert fitted.best_step in (0, 2, 4)
        assert fitted.steps == 4
        assert not any(one.requires_grad for one in policy.parameters())
        states.append(policy.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_it_stops_when_validation_gets_no_better(config, pools):
    policy = make_policy(config.task_objects["abr"], dict(ARCHITECTURES["llama"]))
    options = config.specialise.model_copy(update={"lr": 1e-12, "patience": 1, "steps": 40})  # nothing changes
    fitted = fit(
        config.model_copy(update={"specialise": options}), policy, pools, None, choose_trained(policy, ["head"])
    )
    assert (fitted.best_step, fitted.steps) == (0, 2)


# Episodes and bundle.


def test_a_few_episodes_are_shared_out_as_the_many_were(config):
    entries = [PoolEntry("teacher", 30, 0.1), PoolEntry("bba", 10)]
    assert [(one.policy, one.episodes, one.action_noise) for one in share_out(entries, 8)] == [
        ("teacher", 6, 0.1),
        ("bba", 2, 0.0),
    ]
    assert [one.episodes for one in share_out(entries, 2)] == [1, 1]
    with pytest.raises(UserError, match=r"specialise\.episodes=1: experience\.shares has 2 entries"):
        share_out(entries, 1)
    few = with_few_episodes(config).tasks["abr"].experience
    assert [one.episodes for one in few.shares] == [3]
    assert config.tasks["abr"].experience.shares[0].episodes == 40
    on_a_part = load_config(settings(*TINY, *FEW, "experience.fraction=0.1"))
    with pytest.raises(UserError, match=r"type experience\.fraction=1"):
        with_few_episodes(on_a_part)


def test_the_pool_is_as_large_as_its_columns(pools):
    pool = pools["abr"]
    assert len(pool.valid) == 3
    observed = sum(column.nbytes for column in pool.observation.values())
    assert (
        pool_bytes(pool) == observed + pool.action.nbytes + pool.reward.nbytes + pool.valid.nbytes + pool.target.nbytes
    )


def test_the_sparse_file_is_the_parents_and_only_what_learnt_differs(tmp_path):
    policy = small_policy()
    parent = export(
        policy,
        tmp_path / "a",
    )
    start, _ = load_policy(parent, make_task())
    trained = choose_trained(start, ["head", "norms"], sparse_names(parent))
    with torch.no_grad():
        for name in trained:
            start.get_parameter(name).mul_(1.5).add_(0.1)
    sizes, difference = write_specialised(parent, tmp_path / "b", start, {"abr": 2.5}, trained, None)
    assert (parent / SPARSE_FILE).read_bytes() == (tmp_path / "b" / SPARSE_FILE).read_bytes()
    assert {one.name for one in difference.tensors if one.change != "same"} == set(trained)
    assert sizes["bytes"] == difference.bundle_bytes
    again, target = load_policy(tmp_path / "b", make_task())
    assert target == 2.5
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in start.state_dict().items())
    extra = read_bundle(tmp_path / "b").manifest.extra
    assert extra["specialised_from"] == read_bundle(parent).manifest.digest
    assert set(extra["networks"]) == {"abr"}
    with pytest.raises(RuntimeError, match=r"specialisation changed decoder\.\S+ of the backbone"):
        check_backbone(difference, [name for name in trained if "decoder" not in name])


def other_ladder(levels: int) -> AbrTask:
    rates = [300 * (1 + level) for level in range(levels)]
    data = Synthetic("synthetic", seed=3, seconds=320, train=20, val=6, test=8, bitrates_kbps=rates)
    return AbrTask("abr", data, make_task().data_dir, "lin", "fused", noise=True, temperature=0.1)


def test_what_a_bundle_cannot_play_is_learnt_from_scratch_or_refused(tmp_path):
    policy = small_policy()
    parent = export(policy, tmp_path / "a")
    assert start_policy(parent, {"abr": other_ladder(6)}, scratch=False, seed=1).head is not None
    with pytest.raises(UserError, match=r"other shapes on this data.*type specialise\.scratch=true"):
        start_policy(parent, {"abr": other_ladder(4)}, scratch=False, seed=1)
    with pytest.raises(UserError, match=r"plays abr, not cjs: type specialise\.scratch=true"):
        start_policy(parent, {"cjs": make_task()}, scratch=False, seed=1)
    fresh, same, other = (
        start_policy(parent, {"abr": other_ladder(4)}, scratch=True, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    stored = read_bundle(parent)
    assert all(torch.equal(fresh[name], same[name]) for name in fresh)
    assert any(not torch.equal(fresh[name], other[name]) for name in fresh)
    for name in fresh:
        if name.startswith("decoder."):
            assert np.array_equal(fresh[name].numpy(), stored.array(name))


# Figures.


@pytest.mark.parametrize(("task", "values"), [("abr", (1.0, 1.9, 2.0)), ("cjs", (100.0, 82.0, 80.0))])
def test_the_fraction_of_what_the_cloud_gains(task, values):
    """Whether more is better or less."""
    of_task = load_config(settings(f"task={task}", "experiment=debug")).tasks[task]
    spread = np.array([-0.1, 0.0, 0.1])
    rows = dict(zip(("before", "sparse", "cloud"), values, strict=True))
    per_episode = {name: {of_task.task.metric.name: value + spread} for name, value in rows.items()}
    figures = Domain(of_task, dict.fromkeys(rows), per_episode).figures()
    assert figures["of_cloud_gain"]["mean"] == pytest.approx(0.9)
    assert figures["of_cloud"]["mean"] == pytest.approx(1.9 / 2 if task == "abr" else 80 / 82)
    assert figures["difference"]["mean"] == pytest.approx(values[1] - values[0])
    assert figures["control"] is None
    cloud = Cloud(Path("run"), seconds=1000.0, bundle_bytes=40_000_000)
    compared = cloud.compared({"experience": 10.0, "specialisation": 30.0, "control": 500.0}, 1_000_000)
    line = cloud_line(compared, figures)
    assert "90.0 %" in line
    assert line.endswith("of its gain, at 4.0% of its 1,000 s and 2.5% of its 40.0 MB")
    without = Domain(of_task, dict.fromkeys(["sparse"]), {"sparse": per_episode["sparse"]}).figures()
    assert {without[key] for key in ("before", "difference", "cloud", "of_cloud", "of_cloud_gain")} == {None}
    assert domain_line("new", without).endswith(" after")


def test_a_run_that_is_no_adaptation_to_the_domain_is_refused(config, tmp_path):
    options = config.specialise.model_copy(update={"cloud": tmp_path})
    with pytest.raises(UserError, match=r"specialise\.cloud=.*: no bundle or no results of abr"):
        cloud_of(config.model_copy(update={"specialise": options}))
    assert cloud_of(config) is None


# Options.


def test_its_options_belong_to_it_alone_and_shape_its_results(tmp_path):
    composed = settings("experiment=debug", "specialise.lr=1e-3")
    assert config_hash(composed) != config_hash(settings("experiment=debug"))
    without = {key: value for key, value in composed.items() if key != "specialise"}
    assert load_config(without).specialise is None
    with pytest.raises(UserError, match=r"specialise\.steps=5: give a multiple of specialise\.validate_every=2"):
        load_config(settings("experiment=debug", "specialise.steps=5", "specialise.validate_every=2"))
    with pytest.raises(UserError, match=r"specialise\.val_fraction=0"):
        load_config(settings("experiment=debug", "specialise.val_fraction=0"))
    with pytest.raises(UserError, match=r"specialise\.train"):
        load_config(settings("experiment=debug", "specialise.train=[matrices]"))
    with pytest.raises(UserError, match=r"specialise\.module\._target_=torch\.nn\.Linear is no"):
        load_config(settings("experiment=debug", "specialise.module._target_=torch.nn.Linear"))


def test_it_collects_again_what_an_adaptation_has_and_needs_the_data_of_another_task(tmp_path):
    saved = settings("experiment=debug")
    (tmp_path / CONFIG_FILE).write_text(yaml.safe_dump({key: one for key, one in saved.items() if key != "specialise"}))
    choices = {"task": "abr", "data": "synthetic", "experience": "offline", "budget": "debug"}
    (tmp_path / CHOICES_FILE).write_text(yaml.safe_dump(choices))

    def typed(stage: str, *words: str, **chosen: str):
        composed = settings("experiment=debug", *words, f"run={tmp_path}")
        return settings_of_run(tmp_path, composed, {**choices, **chosen}, list(words), stage)

    assert typed("specialise", "experience=expert")["experience"]["expert"] is not None
    assert typed("specialise", "specialise.episodes=7")["specialise"]["episodes"] == 7
    with pytest.raises(UserError, match="shapes an adaptation or its pool"):
        typed("prune", "experience=expert")
    with pytest.raises(UserError, match="shapes an adaptation or its pool"):
        typed("specialise", "model.seed=5")
    with pytest.raises(UserError, match=r"task=cjs: .* learnt task=abr; name the data of the other task too"):
        typed("specialise", "task=cjs", task="cjs")
    both = typed("specialise", "task=cjs", "data=synthetic_dags", task="cjs", data="synthetic_dags")
    assert (both["task"]["name"], both["data"]["name"]) == ("cjs", "synthetic_dags")


# The command.


def specialised(folder, parent, *words: str, ok: bool = True) -> str:
    return call("specialise.py", folder, f"run={parent}", *FEW, "logger=csv", "trainer.threads=1", *words, ok=ok)


@pytest.mark.slow
def test_a_domain_is_learnt_and_only_the_small_file_travels(trained):
    parent = runs(trained, "train")[0]
    output = specialised(
        trained, parent, "data.seed=5", "specialise.control=true", "specialise.train=[encoder,head,norms]"
    )
    run = runs(trained, "specialise")[-1]
    results = Results.load(run / "abr/results.json")
    facts = results.specialisation
    # Rows, figures of both domains, and the lines that say them.
    assert {"sparse", "before", "control", "bba"} <= set(results.policies)
    old = Results.load(run / "old_domain/abr/results.json")
    assert set(old.policies) >= {"sparse", "before", "control"}
    assert old.data_hash == Results.load(parent / "abr/results.json").data_hash != results.data_hash
    assert old.policies["before"] == Results.load(parent / "abr/results.json").policies["sparse"]
    for name, domain in (("new", results), ("old", old)):
        assert facts["domains"][name]["after"]["mean"] == domain.policies["sparse"]["test/qoe"].mean
        assert facts["domains"][name]["difference"]["mean"] == domain.differences["before"].mean
    for line in specialisation_lines(facts):
        assert " ".join(line.split()) in " ".join(output.split())
    # The bundle.
    difference = compare(parent / "bundle", run / "bundle")
    assert {one.name: one.change for one in difference.files}[SPARSE_FILE] == "same"
    assert facts["bytes_down"] == difference.travel_files
    assert facts["bundle_bytes"] == results.bundle["bytes"] == sum(p.stat().st_size for p in (run / "bundle").iterdir())
    assert (facts["bytes_up"], facts["episodes"], facts["decisions"]) == (0, 3, 3 * 47)
    # It guards what it has seen, and falls back as its parent did.
    extra, of_parent = (read_bundle(folder / "bundle").manifest.extra for folder in (run, parent))
    assert extra["guard"]["abr"]["decisions"] == 3 * 47
    assert extra["guard"]["abr"] != of_parent["guard"]["abr"]
    assert extra["fallback"] == of_parent["fallback"]
    # It can be evaluated and specialised again like any bundle, but not pruned.
    call("evaluate.py", trained, f"run={run}", "logger=csv")
    evaluated = Results.load(runs(trained, "evaluate")[-1] / "abr/results.json")
    assert evaluated.policies["sparse"] == results.policies["sparse"]
    assert "dense" in evaluated.policies
    assert "prune the run of its adaptation" in call("prune.py", trained, f"run={run}", "logger=csv", ok=False)
    specialised(trained, run, "specialise.train=head")
    again = Results.load(runs(trained, "specialise")[-1] / "abr/results.json")
    assert again.specialisation["cached_activations"]
    assert again.policies["before"] == results.policies["sparse"]
    assert "old" not in again.specialisation["domains"]


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_bundle_and_is_started_again(trained):
    parent = runs(trained, "train")[0]
    specialised(trained, parent, "data.seed=6")
    run = runs(trained, "specialise")[-1]
    first = (run / "bundle" / DENSE_FILE).read_bytes()
    state = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**state, "status": "interrupted"}))
    for file in (run / "bundle").iterdir():
        file.unlink()
    (run / "bundle").rmdir()
    specialised(trained, parent, "data.seed=6", f"resume={run}")
    assert runs(trained, "specialise")[-1] == run
    assert (run / "bundle" / DENSE_FILE).read_bytes() == first


@pytest.mark.slow
def test_another_task_is_learnt_from_scratch(trained):
    parent = runs(trained, "train")[0]
    cjs = ["task=cjs", "data=synthetic_dags", "data.jobs=3", "task.test=2", "task.validation=2"]
    before = runs(trained, "specialise")
    assert "type specialise.scratch=true" in specialised(trained, parent, *cjs, ok=False)
    assert runs(trained, "specialise") == before
    output = specialised(trained, parent, *cjs, "specialise.scratch=true")
    run = runs(trained, "specialise")[-1]
    results = Results.load(run / "cjs/results.json")
    assert "before" not in results.policies
    assert results.specialisation["domains"]["new"]["before"] is None
    assert "cjs is another task than that of" in output
    manifest = read_bundle(run / "bundle").manifest
    assert manifest.task == "cjs"
    assert set(manifest.extra["guard"]) == set(manifest.extra["fallback"]) == {"cjs"}
    assert (run / "bundle" / SPARSE_FILE).read_bytes() == (parent / "bundle" / SPARSE_FILE).read_bytes()
    refused = call("evaluate.py", trained, f"run={run}", "logger=csv", ok=False)
    assert "there is no dense model of this task" in refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sparsity=0.6"], "leaves the sparse file of"),
        (["pruning=wanda"], "leaves the sparse file of"),
        (["export.values=fp16"], "leaves the sparse file of"),
        (["adapter.rank=4"], "adapter.rank=4: shapes an adaptation"),
        (["model.seed=3"], "model.seed=3: shapes an adaptation"),
        (["data.bitrates_kbps=[300,900,2000]"], "other shapes on this data"),
        (["specialise.train=biases"], "this backbone has no biases"),
        (["specialise.episodes=0"], "specialise.episodes=0"),
        (["experience.shares=[{policy: nobody, episodes: 4}]"], "no policy 'nobody'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(trained, words, message):
    before = runs(trained, "specialise")
    assert message in specialised(trained, runs(trained, "train")[0], *words, ok=False)
    after = [run for run in runs(trained, "specialise") if run not in before]
    assert not any((run / "bundle").exists() for run in after)


@pytest.mark.slow
def test_its_options_are_refused_elsewhere(trained):
    for script, words in (("train.py", []), ("prune.py", [f"run={runs(trained, 'train')[0]}"])):
        output = call(script, trained, *words, "specialise.steps=20", ok=False)
        assert f"specialise.steps=20: an option of specialise.py, not of {script}" in output
    assert "specialise.py needs the folder of a run" in call("specialise.py", trained, ok=False)
