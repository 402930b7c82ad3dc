"""The software that ran: versions of packages and the state of the source, for `results.json`."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from edgenetllm.report.results import Git

PACKAGES = (
    "edgenetllm",
    "torch",
    "lightning",
    "transformers",
    "peft",
    "hydra-core",
    "numpy",
    "numba",
    "scipy",
    "safetensors",
    "pyarrow",
)


def versions() -> dict[str, str]:
    """Versions of the packages that can change a number, with `python`, `platform` and `cpu`."""
    version_of = {"python": platform.python_version(), "platform": platform.platform(), "cpu": _cpu()}
    for package in PACKAGES:
        try:
            version_of[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return version_of


def git_state(file: Path = Path(__file__)) -> Git | None:
    """Commit of the repository that tracks `file`, and whether tracked files differ from it. None without one."""
    folder = file.parent
    if _git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return None  # an installed package may lie in somebody else's repository: its commit says nothing
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return Git(commit=commit, dirty=bool(_git(folder, "status", "--porcelain", "--untracked-files=no")))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    """The name that the kernel gives the processor, for example `AMD EPYC 7B13`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
