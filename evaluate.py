"""Replay the bundle of a run on other data: `python evaluate.py run=logs/... data=norway`."""

from edgenetllm.cli import main
from edgenetllm.stages.evaluate import evaluate

if __name__ == "__main__":
    main("evaluate", evaluate)
