"""A rank of a fit beside rank zero: `python -m edgenetllm.stages.rank RUN PIPE`, started by edgenetllm.stages.ranks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from transformers.utils import logging as transformers_logging

from edgenetllm import console
from edgenetllm.config import load_config
from edgenetllm.run import CONFIG_FILE
from edgenetllm.stages.fitting import fit
from edgenetllm.stages.pool import collect_pools
from edgenetllm.stages.ranks import READY


def main(folder: Path, pipe: int) -> None:
    console.prepare()
    transformers_logging.set_verbosity_error()
    settings = OmegaConf.to_container(OmegaConf.load(folder / CONFIG_FILE))
    assert isinstance(settings, dict)
    config = load_config({str(key): value for key, value in settings.items()})
    pools = collect_pools(config)  # rank zero has put it into the cache
    fit(config, folder, pools, loggers=None, meet=lambda: os.write(pipe, READY))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
