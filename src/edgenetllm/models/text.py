"""Text as the pretrained model sees it: its own tokens, looked up in its own token embedding.

Decisions need no words, so that `load()` drops the embedding; a backbone calibrated on text fetches it from its source.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from edgenetllm.errors import UserError


@torch.no_grad()
def embed(text: str, tokenizer: PreTrainedTokenizerBase, embedding: nn.Module) -> Tensor:
    """(tokens, width) float32: `embedding` of the text's own tokens, without a token that marks its start or end.

    None is added because the text is cut into windows afterwards: only one of them would have it.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False)[
        "input_ids"
    ]  # verbose warns of texts above the context
    vectors: Tensor = embedding(torch.tensor(ids, dtype=torch.long))
    return vectors.float()


@torch.no_grad()
def token_vectors(model: nn.Module) -> Tensor:
    """(vocabulary, width): what the model feeds to its first block for each token, scaled where it scales (Gemma)."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    vectors: Tensor = embedding(torch.arange(embedding.weight.shape[0]))  # type: ignore[operator,union-attr]
    return vectors


def stored_tokenizer(source: Path | str, where: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer that `tokenizer.json` of a folder or hub repository describes; `where` holds the revision.

    Not AutoTokenizer: where the file is missing, that of transformers 5 makes up a tokenizer with no vocabulary, to which
    every text is empty; where it is there, it takes the vocabulary from it and how words are split from `model_type`.
    Raises OSError where the file is missing or out of reach.
    """
    return PreTrainedTokenizerFast(tokenizer_file=cached_file(str(source), "tokenizer.json", **where))


def no_tokenizer(name: str, reason: str) -> UserError:
    """The error of `embed_text` where text cannot be turned into tokens; `reason` completes `model=<name> ...`."""
    return UserError(f"model={name} {reason} (pruning.calibration=pool needs none)")
