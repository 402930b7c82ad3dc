"""The exceptions that a user is meant to read: the entry points print them without a traceback."""

from edgenetllm.printable import shortened, single_line


class UserError(Exception):
    """Something that the user can correct; the message names the override, file or line to change.

    Each argument is a line of the message, whatever line breaks and control characters it has from a name in it.
    """

    def __init__(self, *lines: object) -> None:
        super().__init__(*(shortened(single_line(str(line))) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class NotFinite(UserError):
    """Tokens, a hidden state or logits that are NaN or infinite, so that there is no decision."""


class StoppedEarly(Exception):
    """A search has ended this run, as others do better: no failure. `value` is the last one that it reported."""

    def __init__(self, message: str, value: float) -> None:
        super().__init__(message)
        self.value = value


class RankZeroEnded(Exception):
    """The first rank of a fit ended, so that this one has nothing to do any more; the message says how."""


class NotReproduced(Exception):
    """A run that was replayed is not as its record says; the message names it."""


class JobsFailed(Exception):
    """Some jobs of a sweep failed; the message lists them."""
