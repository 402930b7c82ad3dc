"""Another sparsity or pruning method from the same adaptation: `python prune.py run=logs/... sparsity=0.6`."""

from edgenetllm.cli import main

if __name__ == "__main__":
    main("prune")
