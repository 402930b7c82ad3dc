"""A check that a repository of the Hugging Face hub can be read, in seconds and not by minutes of retries."""

from __future__ import annotations

import functools
import threading
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from edgenetllm.errors import UserError

PATIENCE = 8.0  # s for the first answer, unless HF_HUB_ETAG_TIMEOUT asks for another time


def reading_options(path: str, revision: str | None) -> dict[str, Any]:
    """Options for `from_pretrained` of a hub repository: `local_files_only` where the hub is away but the copy is there.

    Raises UserError, which completes a sentence on the path, where neither can be read.
    """
    try:
        validate_repo_id(path)
    except HFValidationError:
        raise UserError("no such folder, and not the name of a hub repository, which is owner/name") from None
    return dict(_options(path, revision, constants.ENDPOINT, constants.is_offline_mode()))


@functools.cache  # a run reads its model several times
def _options(path: str, revision: str | None, endpoint: str, offline: bool) -> tuple[tuple[str, Any], ...]:
    if offline:
        return (("local_files_only", True),)
    error = _first_answer(hf_hub_url(path, "config.json", revision=revision, endpoint=endpoint))
    if error is None:
        return ()
    if isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
        return (("local_files_only", True),)
    raise UserError(_reason(error, revision, endpoint)) from None


def _first_answer(url: str) -> Exception | None:
    """The error of one request for the head of a file; None where it succeeds."""
    wait = (
        PATIENCE if constants.HF_HUB_ETAG_TIMEOUT == constants.DEFAULT_ETAG_TIMEOUT else constants.HF_HUB_ETAG_TIMEOUT
    )
    errors: list[Exception | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(url, timeout=wait)
            errors.append(None)
        except Exception as error:  # whatever the client for HTTP below raises
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(wait)
    return errors[0] if errors else TimeoutError(f"no answer within {wait:g} s; HF_HUB_ETAG_TIMEOUT=60 waits longer")


def _reason(error: Exception, revision: str | None, endpoint: str) -> str:
    if isinstance(error, GatedRepoError):
        return "the repository is gated: accept its terms on its page, then `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return f"{endpoint} has no such repository, or it is private: `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return f"the repository has no revision {revision}: model.revision=..."
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, HfHubHTTPError):
        return f"{endpoint} answers: {line}"
    return f"{endpoint} cannot be reached: {line}"
