"""The text that `pruning.calibration=text` calibrates on, as embedded tokens."""

from __future__ import annotations

from torch import Tensor

from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.pruning.text import default_text, text_windows


def calibration_text(config: Config) -> Tensor | None:
    """(windows, tokens, width) of embedded text where `pruning.calibration=text`. Raises UserError for no usable text."""
    embedded = embedded_text(config)
    if embedded is None:
        return None
    return text_windows(embedded, config.pruning.windows, config.pruning.text_length, config.seed)


def embedded_text(config: Config) -> Tensor | None:
    """(tokens, width) of the whole text where `pruning.calibration=text`. Raises UserError for an unreadable text."""
    pruning = config.pruning
    if pruning.calibration != "text":
        return None
    try:
        text = default_text() if pruning.text is None else pruning.text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"pruning.text={pruning.text}: not a readable text file ({error})") from None
    return config.model.embed_text(text)
