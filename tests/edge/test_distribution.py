"""The distribution for edge devices: what it holds, what it imports, and a decision in an environment with nothing else."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from serving import post, started
from small import ROOT
from variants import TASKS, export, make

import edgenetllm.edge as edge
from edgenetllm.code_identity import imported_by, modules_of

PACKAGING = ROOT / "packaging" / "edge"
SETTINGS = tomllib.loads((PACKAGING / "pyproject.toml").read_text())
ALLOWED = {"numpy", "numba", "llvmlite", "backports", "compression"}  # llvmlite is numba's own
SERVING = {"edgenetllm.edge.agent.service": {"aiohttp"}, "edgenetllm.edge.serve": {"aiohttp"}}  # of the extra `serve`
FORBIDDEN = (
    "torch", "transformers", "lightning", "hydra", "omegaconf", "pooch", "wandb", "peft", "gymnasium", "pandas", "pyarrow",
    "safetensors", "pydantic", "joblib", "tqdm", "requests", "matplotlib", "edgenetllm.models", "edgenetllm.tasks.task",
)  # fmt: skip
MOST_MB = 400  # of an environment

# Decides a few times in a process of its own, and says what it decided and which modules it has.
PROGRAM = """
import json, sys
import edgenetllm.edge as edge
session = edge.load(sys.argv[1]).start()
actions = []
for observation in json.loads(sys.argv[2]):
    actions.append(session.decide(observation))
    session.observe(1.0)
print(json.dumps({"actions": actions, "modules": sorted(sys.modules)}))
"""


def closure() -> dict[str, Path]:
    """The modules that `edgenetllm.edge` and its agent import, directly or not, inside functions too."""
    return modules_of("edgenetllm.edge", "edgenetllm.edge.policy", "edgenetllm.edge.serve")


def shipped() -> set[str]:
    """The files of the wheel, as the settings select them."""
    chosen = SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    files: set[str] = set()
    for source, target in chosen.items():
        path = PACKAGING / source
        inside = [path] if path.is_file() else sorted(path.rglob("*.py"))
        files |= {str(Path(target) / one.relative_to(path)) if path.is_dir() else target for one in inside}
    return files


def observations() -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "last_quality": int(rng.integers(6)), "buffer_s": rng.uniform(0, 30), "delay_s": rng.uniform(0.1, 9),
            "throughput_mbps": rng.uniform(0.3, 5), "next_sizes_mb": rng.uniform(0.1, 2, 6).tolist(),
            "chunks_left": 47 - step,
        }
        for step in range(12)
    ]  # fmt: skip


def decided_here(folder: Path) -> list[int]:
    session, actions = edge.load(folder).start(), []
    for observation in observations():
        actions.append(session.decide(observation))
        session.observe(1.0)
    return actions


def run(python: str | Path, folder: Path, **environment: str) -> dict:
    done = subprocess.run(
        [str(python), "-c", PROGRAM, str(folder), json.dumps(observations())],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False, cwd=folder.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return export(make(TASKS["fused"]()), tmp_path_factory.mktemp("edge") / "bundle", values="int8")


def test_the_wheel_holds_what_the_edge_imports_and_nothing_else():
    needed = {str(path.relative_to(ROOT / "src")) for path in closure().values()}
    assert shipped() == needed, "packaging/edge/pyproject.toml: list exactly these files under force-include"


def test_nothing_beyond_the_dependencies_is_imported():
    outside = {}
    for name, path in closure().items():
        imported = imported_by(ast.parse(path.read_text()), name, path.name == "__init__.py")
        tops = {other.partition(".")[0] for other in imported}
        outside[name] = tops - ALLOWED - SERVING.get(name, set()) - {"edgenetllm"} - set(sys.stdlib_module_names)
    assert {name: tops for name, tops in outside.items() if tops} == {}
    assert "edgenetllm.edge.compiled.step" in outside


def test_the_version_is_that_of_the_template():
    template = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = SETTINGS["project"]
    assert (ours["version"], ours["requires-python"]) == (template["version"], template["requires-python"])
    assert set(ours["dependencies"]) <= set(template["dependencies"])


def test_deciding_in_the_whole_template_imports_no_torch_either(bundle):
    answer = run(sys.executable, bundle, PYTHONPATH=str(ROOT / "src"))
    assert [name for name in FORBIDDEN if name in answer["modules"]] == []
    assert answer["actions"] == decided_here(bundle)


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_decides_as_here(bundle, tmp_path, capsys):
    # An environment with the wheel and what it asks for; skipped where no package can be had.
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(PACKAGING)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("hatchling cannot be had here")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("edgenetllm_edge-*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == shipped()
    installed = subprocess.run([*pip, "install", "-q", str(wheel)], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"the dependencies cannot be had here: {installed.stderr[-200:]}")
    subprocess.run([*pip, "uninstall", "-q", "-y", "pip", "setuptools"], check=True)
    # What it decides, and its size.
    answer = run(python, bundle, PYTHONPATH="", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert answer["actions"] == decided_here(bundle)
    assert not {"torch", "scipy", *FORBIDDEN} & set(answer["modules"])
    megabytes = sum(path.lstat().st_size for path in (tmp_path / "venv").rglob("*")) / 1e6
    with capsys.disabled():
        print(f"\nedge environment: {megabytes:.0f} MB")
    assert megabytes <= MOST_MB
    # With the extra it serves.
    extra = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", f"{wheel}[serve]"]
    installed = subprocess.run(extra, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"the extra cannot be had here: {installed.stderr[-200:]}")
    with started(python, bundle, PYTHONPATH="", XDG_CACHE_HOME=str(tmp_path / "cache")) as (_, address):
        key = post(f"{address}/sessions", {})["session"]
        decided = post(f"{address}/sessions/{key}/decide", {"observation": observations()[0]})
        assert decided["action"] == answer["actions"][0]
