"""Every engine decides as torch does, over whole episodes of both tasks; what an engine cannot run is refused first."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import ARCHITECTURES, make_policy, make_task
from test_config import settings
from typed import call, runs

from edgenetllm.config import load_config
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.compiled.arena import quantise_rows
from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.engines.compiled import CompiledEngine, CompiledSession
from edgenetllm.edge.engines.onnx import OnnxDecoder, OnnxEngine
from edgenetllm.edge.engines.recompute import RecomputeEngine
from edgenetllm.edge.engines.session import DecoderSession
from edgenetllm.edge.engines.torch import TorchEngine
from edgenetllm.edge.export import export_policy, policy_name
from edgenetllm.edge.module import EdgeModule
from edgenetllm.edge.onnx_export import export_onnx, require_onnx
from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.models.causal import new_cache, run_cached
from edgenetllm.models.decoder import build_decoder, prunable_layers, width
from edgenetllm.models.session import Session
from edgenetllm.pruning import magnitude
from edgenetllm.report.results import Results
from edgenetllm.stages.identity import evaluated_identity
from edgenetllm.stages.prepare import check_engine, check_pruning
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.task import CjsTask
from edgenetllm.tasks.task import Task

TASKS = ("abr", "cjs")
TOLERANCE = {"recompute": 2e-5, "onnx": 2e-5, "compiled": 2e-3}  # of the largest hidden state of a decision


def task_called(name: str) -> Task:
    if name == "abr":
        return make_task()
    workload = SyntheticDags(name="synthetic_dags", setting="tiny", seed=0)
    return CjsTask("cjs", workload, "pointer", window=3, segment=16, validation=2, test=2)


def write(task: Task, folder: Path, architecture: str = "llama", values: str = "int8") -> Path:
    """The bundle of a random policy of which 60 % are zeros."""
    policy = make_policy(task, dict(ARCHITECTURES[architecture]))  # type: ignore[arg-type]
    names = list(prunable_layers(policy.decoder))
    for layer in prunable_layers(policy.decoder).values():
        torch.nn.init.normal_(layer.weight, std=layer.weight.shape[-1] ** -0.5)  # tokens matter to each other
        layer.weight.data = magnitude.prune(layer.weight.data, 0.6)
    options = {"adapter": None, "target_returns": {task.name: 40.0}, "parent": {}, "values": values}
    export_policy(policy, folder, matrices=[policy_name(name) for name in names], **options)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    return {name: write(task_called(name), tmp_path_factory.mktemp(name) / "bundle") for name in TASKS}


def in_torch(bundle: Path, task: Task, engine: CompiledEngine) -> DecoderSession:
    """The compiled decoder between torch's encoder and head, as a task without counterparts has it."""
    return DecoderSession(*load_policy(bundle, task), engine.decoder(read_bundle(bundle)), "compiled")


def differences(task: Task, reference: Session, others: list[Session], episodes: int = 2) -> np.ndarray:
    """Largest difference of the hidden states of each decision, in units of the largest of them, (others, decisions).

    All play the same whole episodes, side by side: every one of them gets the action that the reference chooses.
    """
    environment, seeds = task.environment("test"), task.seeds("test")[:episodes]
    observation, alive, rows = environment.reset(seeds), np.ones(len(seeds), bool), []
    for session in (reference, *others):
        session.start(len(seeds))
    while alive.any():
        states = [session.hidden(observation) for session in (reference, *others)]
        hidden = [state[0][alive] for state in states]
        rows.append([float((one - hidden[0]).abs().max() / hidden[0].abs().max()) for one in hidden[1:]])
        with torch.inference_mode():
            action = reference.networks.head.decide(*states[0])
        for session, state in zip((reference, *others), states, strict=True):
            session.before, session.step = (action, state[1]), session.step + 1
        observation, reward, done = environment.step(action[:, 0].numpy())
        for session in (reference, *others):
            session.observe(reward)
        alive &= ~done
    return np.array(rows).T


@pytest.mark.parametrize("name", TASKS)
def test_recompute_and_compiled_decide_as_torch_over_whole_episodes(bundles, name):
    task, bundle = task_called(name), bundles[name]
    engines = [CompiledEngine(instructions="portable"), CompiledEngine(layout="dense")]
    sessions = [in_torch(bundle, task, engine) for engine in engines]
    found = differences(task, TorchEngine().load(bundle, task), [*sessions, RecomputeEngine().load(bundle, task)])
    assert found.shape[1] >= (47 if name == "abr" else 20)
    for row, tolerance in zip(found, [TOLERANCE["compiled"]] * 2 + [TOLERANCE["recompute"]], strict=True):
        assert 0 < row.max() < tolerance


@pytest.mark.parametrize("name", [pytest.param("abr", marks=pytest.mark.slow), "cjs"])
def test_onnx_decides_as_torch_over_whole_episodes(bundles, name):
    task, bundle = task_called(name), bundles[name]
    (found,) = differences(task, TorchEngine().load(bundle, task), [OnnxEngine().load(bundle, task)])
    assert found.max() < TOLERANCE["onnx"]


@pytest.mark.parametrize("engine", [TorchEngine(), RecomputeEngine(), CompiledEngine()], ids=lambda one: one.name)
@pytest.mark.parametrize("name", TASKS)
def test_the_replay_of_an_engine_is_that_of_torch(bundles, name, engine):
    task = task_called(name)
    expected = play(task.environment("test"), task.seeds("test"), TorchEngine().load(bundles[name], task))
    session = EdgeModule(bundles[name], task, engine).session
    played = play(task.environment("test"), task.seeds("test"), session)
    assert played.action.shape == expected.action.shape
    assert np.mean(played.action == expected.action) > 0.98
    assert played.return_to_go is not None
    observation = task.environment("test").reset(task.seeds("test"))
    session.start(len(task.seeds("test")))
    first = session.decide(observation)
    assert isinstance(session, CompiledSession) == (engine.name == "compiled")
    session.start(len(task.seeds("test")))
    assert np.array_equal(session.act(observation), first)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_runs_in_onnxruntime_in_every_form(kind):
    """Weights of fewer bits are further away, but no more than their rounding explains."""
    torch.manual_seed(0)
    decoder = build_decoder(dict(ARCHITECTURES[kind]), layers=1).eval()
    for layer in prunable_layers(decoder).values():
        torch.nn.init.normal_(layer.weight, std=layer.weight.shape[-1] ** -0.5)
    sessions = [OnnxDecoder(decoder, weights) for weights in ("fp32", "int8", "int4")]  # type: ignore[arg-type]
    pieces = [torch.randn(2, new, width(decoder)) for new in (2, 3, 20, 4, 1, 3)]
    for band in (None,) if kind in ("gpt2", "opt") else (None, 13):  # learned positions end
        cache = new_cache(decoder, band)
        with torch.no_grad():
            expected = [run_cached(decoder, piece, cache, band)[:, -1].numpy() for piece in pieces]
        states = [session.start(2, capacity=33, band=band) for session in sessions]
        errors = []
        for session, state in zip(sessions, states, strict=True):
            hidden = [session.extend(state, piece.numpy()) for piece in pieces]
            pairs = zip(hidden, expected, strict=True)
            errors.append(max(float(np.linalg.norm(one - other) / np.linalg.norm(other)) for one, other in pairs))
        assert errors == sorted(errors)
        assert errors[0] < 1e-5
        assert errors[1] < 0.03
        assert errors[2] < 0.35  # OPT's projections of 16 columns are rounded too
        if band is None:
            with pytest.raises(UserError, match="token 34 of an episode with room for 33"):
                sessions[0].extend(states[0], pieces[-2].numpy())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2", "llama3", "mistral", "gpt2", "opt"])
def test_compiled_runs_every_architecture_that_it_claims(tmp_path, kind):
    task = make_task()
    bundle = write(task, tmp_path / "bundle", kind)
    engine = CompiledEngine()
    engine.check(read_bundle(bundle).manifest.model, {"abr": task})
    policy, target_return = load_policy(bundle, task)
    for name, layer in policy.decoder.named_modules():
        if name.endswith(
            ("project_in", "project_out")
        ):  # OPT's: never pruned, float32 in the bundle, int8 in the engine
            layer.weight.data = torch.from_numpy(quantise_rows(layer.weight.detach().numpy()).dense())
    (found,) = differences(task, Session(policy, target_return, "sparse"), [in_torch(bundle, task, engine)])
    assert found.max() < TOLERANCE["compiled"]


def test_a_task_without_counterparts_at_the_edge_keeps_its_own_encoder_and_head(tmp_path, monkeypatch):
    task = task_called("abr")
    monkeypatch.setattr("edgenetllm.edge.export.describe", lambda networks: {"encoder": None, "head": None})
    bundle = write(task, tmp_path / "bundle")
    session, expected = CompiledEngine().load(bundle, task), TorchEngine().load(bundle, task)
    assert isinstance(session, DecoderSession)
    played, reference = (play(task.environment("test"), task.seeds("test"), one) for one in (session, expected))
    assert np.mean(played.action == reference.action) > 0.98


def test_the_exported_file_is_whole_and_says_how_far_a_token_sees(tmp_path):
    import onnx

    task = task_called("cjs")
    policy = make_policy(task, {**ARCHITECTURES["llama"], "num_hidden_layers": 1})  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    sizes = export_onnx(policy, tmp_path / "onnx")
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    model = onnx.load(tmp_path / "onnx" / "decoder.onnx")
    onnx.checker.check_model(model)
    assert {one.key: one.value for one in model.metadata_props}["band.cjs"] == str(policy.networks().band)
    assert [one.name for one in model.graph.input][:5] == ["tokens", "positions", "mask", "keys.0", "values.0"]
    assert [one.name for one in model.graph.output][:3] == ["hidden", "new_keys.0", "new_values.0"]
    assert sizes["bytes"] == sum(path.stat().st_size for path in (tmp_path / "onnx").iterdir())


def test_without_the_packages_onnx_is_refused_with_what_to_type(monkeypatch):
    monkeypatch.setattr(
        "edgenetllm.edge.onnx_export.find_spec", lambda name: None if name == "onnxruntime" else object()
    )
    with pytest.raises(UserError, match=re.escape("ONNX needs onnxruntime: pip install 'edgenetllm[onnx]'")):
        require_onnx()
    with pytest.raises(UserError, match="edgenetllm\\[onnx\\]"):
        check_pruning(load_config(settings("model=tiny", "engine=onnx")))


STABLELM = ["model=tiny", "model.settings.model_type=stablelm"]


@pytest.mark.parametrize("engine", ["onnx", "compiled"])
def test_an_architecture_that_an_engine_does_not_run_is_refused_before_training(engine):
    with pytest.raises(UserError, match=r"stablelm(.|\n)*engine=torch"):
        check_pruning(load_config(settings(*STABLELM, f"engine={engine}")))
    for other in ("torch", "recompute"):
        check_engine(load_config(settings(*STABLELM, f"engine={other}")))


@pytest.mark.parametrize("engine", ["onnx", "compiled"])
@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["pruning.lora=prune_base_keep_adapter"], r"pruning\.lora=merge_then_prune, or engine=torch"),
        (
            ["model.settings.model_type=mistral", "+model.settings.sliding_window=64"],
            r"looks back over .* engine=torch",
        ),
    ],
)
def test_what_else_an_engine_does_not_run_is_refused(engine, typed, message):
    with pytest.raises(UserError, match=message):
        check_engine(load_config(settings("model=tiny", f"engine={engine}", *typed)))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["engine=compiled", "engine.instructions=neon"],
            r"engine\.instructions='neon': give one of auto, avx512",
        ),
        (["engine=compiled", "engine.threads=0"], r"engine\.threads=0"),
        (["engine=compiled", "engine.form=bf16", "engine.layout=tiles"], r"engine\.layout=tiles"),
        (["engine=onnx", "engine.weights=int2"], r"engine\.weights='int2'"),
        (["engine=torch", "+engine.threads=2"], r"engine\.threads"),
        (["engine=torch", "engine._target_=builtins.dict"], r"engine: builtins\.dict is no subclass of .*Engine"),
    ],
)
def test_a_mistaken_option_is_named_as_it_is_typed(typed, message):
    with pytest.raises(UserError, match=message):
        load_config(settings(*typed))


def test_a_run_of_an_earlier_version_has_the_engine_torch():
    from edgenetllm.moved import current

    saved = current({"engine": {"name": "torch", "latency_decisions": 47}})
    assert load_config({**settings(), "engine": saved["engine"]}).engine == TorchEngine()


def test_what_can_change_a_decision_is_part_of_the_identity_and_what_cannot_is_not():
    def identity(*typed: str) -> dict:
        return evaluated_identity(load_config(settings("model=tiny", *typed)), {}) or {}

    compiled = identity("engine=compiled")
    assert compiled["evaluation.instructions"] in ("avx512", "portable")
    assert identity("engine=compiled", "engine.threads=2") == compiled
    for typed in (
        ["engine=torch"],
        ["engine=compiled", "engine.instructions=portable"],
        ["engine=compiled", "engine.layout=dense"],
        ["engine=compiled", "engine.form=bf16"],
        ["engine=onnx"],
    ):
        assert identity(*typed) != compiled
    assert identity("engine=onnx", "engine.weights=int8") != identity("engine=onnx")


def test_sessions_of_other_engines_and_weights_have_other_identities(bundles, tmp_path):
    task = task_called("abr")
    other = write(replace(task, temperature=0.2), tmp_path / "bundle", values="fp32")  # type: ignore[type-var]
    sessions = [
        TorchEngine().load(bundles["abr"], task),
        RecomputeEngine().load(bundles["abr"], task),
        CompiledEngine().load(bundles["abr"], task),
        CompiledEngine(layout="dense").load(bundles["abr"], task),
        CompiledEngine().load(bundles["abr"], task, 3),
        CompiledEngine().load(other, task),
    ]
    assert len({session.identity() for session in sessions}) == len(sessions)
    assert CompiledEngine().load(bundles["abr"], task).identity() == sessions[2].identity()


ENGINE = '''
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from edgenetllm.edge.engines.engine import Engine
from edgenetllm.edge.engines.torch import TorchEngine
from edgenetllm.errors import UserError


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Doubtful(Engine):
    """Torch, but never for more than `most` blocks."""

    most: int = 1

    def check(self, model, tasks, adapter=False):
        if model["num_hidden_layers"] > self.most:
            raise UserError(f"engine.most={self.most}: this model has more blocks")

    def load(self, bundle: Path, task, sample_seed=None):
        return TorchEngine().load(bundle, task, sample_seed)
'''


def test_an_engine_of_another_package_works_by_its_target_alone(tmp_path, monkeypatch, bundles):
    (tmp_path / "lab_engine.py").write_text(ENGINE)
    monkeypatch.syspath_prepend(tmp_path)
    typed = {**settings("model=tiny"), "engine": {"_target_": "lab_engine.Doubtful", "name": "doubtful", "most": 2}}
    config = load_config(typed)
    check_engine(config)
    with pytest.raises(UserError, match=r"engine\.most=1: this model has more blocks"):
        check_engine(load_config({**typed, "engine": {**typed["engine"], "most": 1}}))
    session = EdgeModule(bundles["abr"], task_called("abr"), config.engine).session
    assert session.identity() == TorchEngine().load(bundles["abr"], task_called("abr")).identity()
    assert evaluated_identity(config, {})["engine.most"] == 2  # type: ignore[index]


@pytest.mark.slow
def test_the_bundle_of_a_run_is_replayed_by_another_engine_and_hardly_decides_otherwise(trained):
    (run,) = runs(trained, "train")[:1]
    typed = ["logger=csv", "callbacks.progress_bar=false", "trainer.threads=1", "evaluation.plots=false"]
    output = call("evaluate.py", trained, f"run={run}", "engine=torch", *typed)
    assert "torch sparse" in output
    assert "compiled" not in output.partition("one decision:")[2].partition("results:")[0]
    by_torch = Results.load(runs(trained, "evaluate")[-1] / "abr" / "results.json")
    compiled = Results.load(run / "abr" / "results.json")
    assert (compiled.engine, by_torch.engine) == ("compiled", "torch")
    assert list(compiled.decision_ms) == ["compiled sparse", "compiled dense", "torch sparse", "torch dense"]
    assert list(by_torch.decision_ms) == ["torch sparse", "torch dense"]
    assert compiled.decision_ms["compiled sparse"].median < compiled.decision_ms["torch sparse"].median
    ours, theirs = (one.policies["sparse"]["test/qoe"].mean for one in (compiled, by_torch))
    assert ours == pytest.approx(theirs, abs=0.1)
    refused = call("evaluate.py", trained, f"run={run}", "engine=onnx", "engine.weights=int3", *typed, ok=False)
    assert "engine.weights='int3'" in refused
