"""A rank of a fit beside rank zero: `python -m edgenetllm.stages.rank RUN`, started by edgenetllm.stages.ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from transformers.utils import logging as transformers_logging

from edgenetllm.config import load_config
from edgenetllm.run import CONFIG_FILE
from edgenetllm.stages.adaptation import collect_pool, fit


def main(folder: Path) -> None:
    transformers_logging.set_verbosity_error()
    settings = OmegaConf.to_container(OmegaConf.load(folder / CONFIG_FILE))
    assert isinstance(settings, dict)
    config = load_config({str(key): value for key, value in settings.items()})
    pool = collect_pool(config)  # rank zero has put it into the cache
    fit(config, folder, pool, logger=False)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
