"""The programs that `pip install` makes: edgenetllm-train, -prune, -evaluate, -specialise and -compare.

The first four do what train.py, prune.py, evaluate.py and specialise.py of a checkout do; the last is
`python -m edgenetllm.compare`.
"""

from __future__ import annotations

from edgenetllm import cli, console


def train() -> None:
    cli.main("train")


def prune() -> None:
    cli.main("prune")


def evaluate() -> None:
    cli.main("evaluate")


def specialise() -> None:
    cli.main("specialise")


def compare() -> None:
    """Torch is imported here, so that the others answer `--help` at once."""
    from edgenetllm.compare.__main__ import main

    console.program(lambda: main(prog="edgenetllm-compare"))
