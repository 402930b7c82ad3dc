"""The wheel and the source distribution: what they hold, and the programs of an installed package outside of a checkout."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from small import ROOT
from typed import ABR, TINY, surroundings

from edgenetllm import commands, installation

SOURCES = ["src", "conf", "tests", "docs", "benchmarks", "scripts", "examples", ".ci", "data/README.md", "setup.py",
           "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md",
           "CITATION.cff", "mkdocs.yml", "Makefile", "constraints.txt", "train.py", "prune.py", "evaluate.py",
           "specialise.py"]  # fmt: skip
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
OFFLINE = ["--no-deps", "--no-index", "--no-build-isolation"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout, as a build leaves files in it. Among them those of an older build."""
    try:
        if int(metadata.version("setuptools").split(".")[0]) < 77:
            pytest.skip("needs setuptools 77 or newer to build without network")
    except metadata.PackageNotFoundError:
        pytest.skip("needs setuptools to build without network")
    folder = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        (folder / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    stale = folder / "build" / "lib" / "edgenetllm" / "conf" / "gone.yaml"
    stale.parent.mkdir(parents=True)
    stale.touch()
    return folder


def build(source: Path, target: Path) -> Path:
    subprocess.run([*PIP, "wheel", *OFFLINE, "-w", str(target), str(source)], check=True)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the installed package and, in `bin`, its programs; what it needs is in this environment already."""
    folder = tmp_path_factory.mktemp("installed")
    install = ["install", "--no-deps", "--no-index", "--no-warn-script-location", "--target", str(folder)]
    subprocess.run([*PIP, *install, str(wheel)], check=True)
    return folder


def environment(installed: Path) -> dict[str, str]:
    path = f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**surroundings(), "PYTHONPATH": str(installed), "PATH": path}


def started(installed: Path, folder: Path, program: str, *words: str, code: int = 0) -> str:
    """The output of an installed program in `folder`, which is no checkout."""
    env = environment(installed)
    done = subprocess.run([program, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def interrupted(installed: Path, folder: Path, *command: str) -> str:
    """The command that a run prints to go on with, when Ctrl-C is pressed after it has begun."""
    with subprocess.Popen(
        command, cwd=folder, env=environment(installed), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not process.stdout.readline().startswith("run: "):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT
        return process.stderr.read().rpartition("go on with:")[2].strip()


def files_of(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def expected_files() -> set[str]:
    """All that lies in `conf` and `src`, where git or the building of an earlier package put nothing else."""
    conf = {f"edgenetllm/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*") if path.is_file()}
    found = [path.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*") if path.is_file()]
    return conf | {str(path) for path in found if "__pycache__" not in path.parts and ".egg-info" not in str(path)}


def test_the_wheel_holds_the_packages_and_the_configuration_and_nothing_else(wheel):
    assert files_of(wheel) == expected_files()
    assert {"edgenetllm/conf/config.yaml", "hydra_plugins/edgenetllm_sweepers.py"} <= files_of(wheel)
    assert {Path(name).suffix for name in files_of(wheel)} >= {".html", ".css", ".js", ".json", ".safetensors", ".yaml"}
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("edgenetllm/conf/data/fcc.yaml") == (ROOT / "conf" / "data" / "fcc.yaml").read_bytes()


def test_the_source_distribution_makes_the_same_wheel(source, wheel, tmp_path):
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    for name in SOURCES:
        assert (unpacked / name).exists(), name
    assert files_of(build(unpacked, tmp_path / "again")) == files_of(wheel)


def test_an_installed_program_has_its_own_configuration(installed, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    text = started(installed, folder, "edgenetllm-train", "--help")
    assert "abr, abr+cjs, cjs" in text
    assert "edgenetllm-prune" in text
    shown = started(installed, folder, "edgenetllm-train", "--info", "searchpath")
    assert f"file://{installed.resolve()}/edgenetllm/conf" in shown
    assert str(ROOT) not in shown
    assert "Did you mean 'sparsity'?" in started(installed, folder, "edgenetllm-train", "sparsty=1", code=2)
    assert "error: edgenetllm-prune needs the folder of a run" in started(installed, folder, "edgenetllm-prune", code=2)
    assert "starts a new run; edgenetllm-prune and" in started(installed, folder, "edgenetllm-train", "run=x", code=2)
    assert "edgenetllm-compare logs" in started(installed, folder, "edgenetllm-compare", "--help")
    assert not list(folder.iterdir())
    code = "from edgenetllm.installation import install_command; print(install_command('search'))"
    assert started(installed, folder, sys.executable, "-c", code) == "pip install 'optuna>=4.5'\n"


@pytest.mark.slow
def test_installed_programs_work_in_an_empty_folder(installed, tmp_path):
    """Every stage and a sweep, with relative paths below that folder, and an interruption."""
    planned = started(installed, tmp_path, "edgenetllm-train", "-m", *TINY, "seed=1,2", "dry_run=true")
    assert "2 jobs" in planned
    resumed = interrupted(installed, tmp_path, "edgenetllm-train", *ABR, "evaluation.plots=false")
    assert resumed.startswith("edgenetllm-train ")
    started(installed, tmp_path, "bash", "-c", resumed)
    (run,) = (tmp_path / "logs" / "train").iterdir()
    assert (tmp_path / "data" / "cache" / "pools").is_dir()
    assert str(ROOT) not in (run / "config.yaml").read_text()
    name = f"run={run.relative_to(tmp_path)}"
    started(installed, tmp_path, "edgenetllm-prune", name, "sparsity=0.6", "evaluation.plots=false")
    started(installed, tmp_path, "edgenetllm-evaluate", name, "data.test=8", "evaluation.plots=false")
    assert "3 runs compared" in started(installed, tmp_path, "edgenetllm-compare", "logs")
    assert (tmp_path / "logs" / "comparison.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "logs"]


def test_a_printed_command_starts_the_program_that_printed_it(tmp_path, monkeypatch):
    program = tmp_path / "bin dir" / "edgenetllm-train"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert commands.shell(["a b"]) == f"'{program}' 'a b'"
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    assert commands.shell(["-m", "seed=1"]) == "edgenetllm-train -m seed=1"
    other = tmp_path / "first" / "edgenetllm-train"
    other.parent.mkdir()
    other.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(other.parent), prepend=os.pathsep)
    assert commands.shell([]) == f"'{program}'"
    assert (installation.program_of("prune"), installation.command_of("prune")) == ("edgenetllm-prune",) * 2
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py"])
    assert commands.shell(["seed=1"]) == "python /somewhere/train.py seed=1"
    assert (installation.program_of("prune"), installation.command_of("prune")) == ("prune.py", "python prune.py")


def test_a_checkout_is_configured_from_its_own_folder():
    assert ROOT / "conf" == installation.CONF
    assert installation.IS_CHECKOUT
