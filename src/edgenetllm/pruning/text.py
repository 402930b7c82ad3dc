"""Text to calibrate on, in place of windows of the experience pool: does it matter what the pruned model has seen?"""

from __future__ import annotations

from pydoc_data.topics import topics

import torch
from torch import Tensor

from edgenetllm.errors import UserError


def default_text() -> str:
    """English prose that every Python ships, about 465,000 characters: what `help("CLASSES")` and its like print.

    These are the topics of `pydoc_data.topics`, in alphabetical order: chapters of the Python language reference with
    their examples, © Python Software Foundation, PSF licence. Their wording changes a little with the version of Python.
    """
    return "\n\n".join(topics[name] for name in sorted(topics))


def text_windows(embeddings: Tensor, windows: int, length: int, seed: int) -> Tensor:
    """(windows, length, width): different pieces of the text, none of which overlap, in an order drawn from `seed`.

    `embeddings` (tokens, width) is cut into pieces of `length` tokens from its start; a shorter rest is left out.
    Raises UserError where the text has fewer than `windows` pieces.
    """
    tokens, width = embeddings.shape
    pieces = tokens // length
    if windows > pieces:
        raise UserError(
            f"pruning.windows={windows}: the calibration text has {tokens} tokens, "
            f"which makes {pieces} windows of {length} tokens at most"
        )
    chosen = torch.randperm(pieces, generator=torch.Generator().manual_seed(seed))[:windows]
    return embeddings[: pieces * length].view(pieces, length, width)[chosen]
