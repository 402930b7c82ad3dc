"""A job sees the process as if it were the first one in it, and leaves nothing to the next one."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch
from hydra.core.global_hydra import GlobalHydra


@contextmanager
def isolated(seed: int, folder: Path | None = None) -> Iterator[None]:
    """Inside, random numbers start from `seed` and relative paths from `folder`; outside, everything is as it was.

    Restored are environment variables, working folder, torch's threads and float type and Hydra's global state; a W&B run
    that is still open is closed as failed, figures are closed, and GPU memory goes back to the driver.
    """
    environment, here, hydra = dict(os.environ), Path.cwd(), GlobalHydra.instance().hydra
    threads, float_type, deterministic = _torch_state()
    try:
        if folder is not None and folder.is_dir():  # some launchers start workers elsewhere
            os.chdir(folder)
        L.seed_everything(seed, verbose=False)
        yield
    finally:
        _close_wandb()
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
        os.chdir(here)
        _restore_environment(environment)
        torch.set_num_threads(threads)
        torch.set_default_dtype(float_type)
        torch.use_deterministic_algorithms(deterministic)
        GlobalHydra.instance().hydra = hydra
        gc.collect()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def _torch_state() -> tuple[int, torch.dtype, bool]:
    return torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()


def _restore_environment(environment: dict[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _close_wandb() -> None:
    if "wandb" not in sys.modules:
        return
    import wandb

    if wandb.run is not None:
        wandb.finish(exit_code=1)
