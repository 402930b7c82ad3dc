"""Encoder and head learn other data on a sparse backbone: `python specialise.py run=logs/... data=norway`."""

from edgenetllm.cli import main

if __name__ == "__main__":
    main("specialise")
