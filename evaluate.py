"""Replay the bundle of a run on other data: `python evaluate.py run=logs/... data=norway`."""

from edgenetllm.cli import main

if __name__ == "__main__":
    main("evaluate")
