"""`cloud.json`: what runs in a state folder, and, by the lock on it, whether it still does.

The lock (`flock`) is the truth and the file's content only describes its holder: a lock ends with its processes however
they end, while a process id may be given to a stranger. The launcher takes the lock and its emulator inherits it, so a
held lock also proves that the process group named in the file is still the cloud's own and may be signalled.
"""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_DESCRIBED_WITHIN_SECONDS = 1.0
_PAUSE_SECONDS = 0.02


class CloudError(Exception):
    """The embedded cloud cannot do what was asked; the message is for the person who asked."""


class AlreadyRunningError(CloudError):
    """A cloud runs in this state folder already."""

    def __init__(self, state: Path, running: "Running") -> None:
        super().__init__(f"An embedded cloud runs in {state} already: {running.url} (process {running.pid}).")
        self.running = running


@dataclass(frozen=True)
class Running:
    """One running cloud.

    Attributes:
        url: its one endpoint.
        port: the port of `url`.
        pid: its launcher, which leads its process group.
        started: when, as ISO 8601 in UTC.
    """

    url: str
    port: int
    pid: int
    started: str


def claim(state: Path, running: Running) -> int:
    """Take the state folder for `running`.

    Returns the file descriptor that holds the lock; it is to stay open as long as anything of the cloud lives.

    Raises:
        AlreadyRunningError: another cloud holds it.
    """
    state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state / "cloud.json", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + _DESCRIBED_WITHIN_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # it may be a reader, who lets go at once
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise AlreadyRunningError(state, running_in(state) or running) from None
            time.sleep(_PAUSE_SECONDS)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(running)).encode(), 0)
    return descriptor


def running_in(state: Path) -> Running | None:
    """The cloud that holds the state folder, or None; what a crashed one left behind counts as None."""
    deadline = time.monotonic() + _DESCRIBED_WITHIN_SECONDS
    while True:
        text = _held(state / "cloud.json")
        if text is None:
            return None
        try:
            return Running(**json.loads(text))
        except ValueError:
            # its holder has the lock and has not described itself yet
            if time.monotonic() > deadline:
                raise CloudError(f"{state / 'cloud.json'} is locked, but does not say by whom.") from None
            time.sleep(_PAUSE_SECONDS)


def _held(file: Path) -> str | None:
    """The file's text while someone holds its lock, else None."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 65536, 0).decode()
    else:
        return None
    finally:
        os.close(descriptor)
