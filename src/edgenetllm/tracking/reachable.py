"""A check that a server answers at all, within seconds."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request

ANSWER_S = 5.0  # for a connection, and again for an answer
PATIENCE_S = 12.0  # all together, looking up the name included
NOT_THERE = (502, 503, 504)  # what a proxy answers for a server that it does not reach


def is_reachable(url: str) -> bool:
    """True where anything answers at the address, through the proxy of the environment if there is one.

    A refusal is an answer, and so is a certificate that is not trusted: a real connection says what is wrong.
    """
    answered: list[bool] = []
    # A thread, as looking up a name has no time limit of its own.
    thread = threading.Thread(target=lambda: answered.append(_answers(url)), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return bool(answered and answered[0])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S):
            return True
    except urllib.error.HTTPError as error:
        return error.code not in NOT_THERE
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError) and not isinstance(error.reason, TimeoutError)
    except (OSError, ValueError):
        return False
