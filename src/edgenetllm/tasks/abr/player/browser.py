"""Chromium as a child process: looked for, never downloaded; always ended, with a profile in a temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from edgenetllm.errors import UserError

VARIABLE = "CHROMIUM"
HEADLESS = "/usr/lib/chromium/chromium-headless-shell"  # the program itself: the one in /usr/bin is a script around it
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-breakpad",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no connection to anything but this machine
)


def find_browser(named: str | None, visible: bool = False) -> str:
    """The program of Chromium or Chrome: `named` (replay.browser), that of the variable CHROMIUM, or one of the usual places.

    `visible`: a window is wanted, which the headless shell does not have. Raises UserError where there is none.
    """
    for origin, value in (("replay.browser", named), (VARIABLE, os.environ.get(VARIABLE))):
        if value:
            path = shutil.which(value)
            if path is None:
                raise UserError(f"{origin}={value}: no such program; name that of Chromium or Chrome")
            return path
    places = [*NAMES] if visible else [HEADLESS, *NAMES]
    found = next((path for place in places if (path := shutil.which(place)) is not None), None)
    if found is None:
        raise UserError(
            "replay=player plays in Chromium, and there is none in the usual places: install it (Debian: apt-get install "
            f"chromium-headless-shell), or name the program by replay.browser=... or the variable {VARIABLE}"
        )
    return found


def has_display() -> bool:
    """True where a window can be opened."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def version_of(browser: str) -> str:
    """The browser's own words, such as `Chromium 156.0.8078.108`. Raises UserError for a program that does not run."""
    try:
        said = subprocess.run([browser, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{browser} --version fails ({error}): is it Chromium, and whole?") from None
    return said.stdout.strip()[:100] or "unknown"


@contextmanager
def opened(browser: str, url: str, visible: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A browser at this address, for as long as the block runs; then all of its processes are ended."""
    with TemporaryDirectory(prefix="edgenetllm-player-", ignore_cleanup_errors=True) as profile:
        own = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        window = [f"--app={url}", "--window-size=1100,820"] if visible else ["--headless", url]
        log = Path(profile) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [browser, *FLAGS, *own, f"--user-data-dir={profile}", *window],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a whole process group at once: there is nothing that it should keep."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
