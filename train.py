"""Adapt a language model to a networking task, prune it once, write the bundle, evaluate. `python train.py --help`."""

from edgenetllm.cli import main

if __name__ == "__main__":
    main("train")
