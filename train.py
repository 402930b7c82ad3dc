"""Adapt a language model to a networking task, prune it once, write the bundle, evaluate. `python train.py --help`."""

from edgenetllm.cli import main
from edgenetllm.stages.train import train

if __name__ == "__main__":
    main("train", train)
