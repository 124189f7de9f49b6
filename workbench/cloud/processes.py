"""Starting, finding and ending an embedded cloud: an AWS emulator with its functions and training jobs on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from workbench.cloud.environment import LOOPBACK, edition
from workbench.cloud.state import AlreadyRunningError, CloudError, Running, running_in

CHECKOUT = Path(__file__).resolve().parents[2]

_UP_WITHIN_SECONDS = 60.0
_ANSWERS_WITHIN_SECONDS = 2.0
_DOWN_WITHIN_SECONDS = 5.0
_PAUSE_SECONDS = 0.05
_TAIL_CHARACTERS = 2_000
_ATTEMPTS_AT_A_FREE_PORT = 3

# the launchers that are children of this process, which has to wait for them when they end
_launchers: dict[int, "subprocess.Popen[bytes]"] = {}


class NothingRunsError(CloudError):
    """There is no cloud to end in this state folder."""


class PortTakenError(CloudError):
    """Something else listens on the port."""


class EmbeddedCloud:
    """One cloud, by its state folder. Two with different folders share nothing.

    What a cloud stores lies in the folder and stays readable after `down`; the next `up` starts empty.

    Args:
        state: the folder; by default what OVERCUT_STATE names, else `.overcut/cloud` in the checkout.
    """

    def __init__(self, state: Path | None = None) -> None:
        self.state = (state or default_state()).resolve()

    @property
    def log(self) -> Path:
        """The emulator's log."""
        return self.state / "log"

    def up(self, port: int = 0, owner_pid: int | None = None) -> Running:
        """Start the cloud and wait until it answers.

        Args:
            port: the port to serve on; 0 picks a free one.
            owner_pid: the cloud ends when this process does; without it, it runs until `down`.

        Raises:
            AlreadyRunningError: one runs in this folder.
            PortTakenError: something listens on `port`.
            CloudError: it ended, or did not answer in time; the message holds the end of its log.
        """
        for attempt in range(_ATTEMPTS_AT_A_FREE_PORT):
            try:
                return self._up(port or _free_port(), owner_pid)
            except PortTakenError:
                # a free port may be taken by another process before the cloud binds it
                if port or attempt == _ATTEMPTS_AT_A_FREE_PORT - 1:
                    raise
        raise AssertionError("unreachable")

    def status(self) -> Running | None:
        """The cloud that runs in the folder, or None."""
        return running_in(self.state)

    def answers(self, running: Running) -> bool:
        """Whether it is this cloud that answers at its address."""
        try:
            health = httpx.get(f"{running.url}/_ministack/health", timeout=_ANSWERS_WITHIN_SECONDS, trust_env=False)
        except httpx.TransportError:
            return False
        return health.is_success and edition(self.state) in health.text

    def down(self) -> Running:
        """End the cloud and everything it started, and wait until that is gone; returns what ran.

        Raises:
            NothingRunsError: no cloud runs in the folder.
        """
        running = self.status()
        if running is None:
            raise NothingRunsError(f"No embedded cloud runs in {self.state}.")
        for sign in (signal.SIGTERM, signal.SIGKILL):
            # while the lock is held the group is the cloud's own: see workbench.cloud.state
            if self.status() == running:
                os.killpg(running.pid, sign)
            if self._gone_within(_DOWN_WITHIN_SECONDS, running):
                _reap(running.pid)
                return running
        raise CloudError(f"The embedded cloud (process {running.pid}) does not end.")

    def _up(self, port: int, owner_pid: int | None) -> Running:
        already = self.status()
        if already is not None:
            raise AlreadyRunningError(self.state, already)
        if _listens(port):
            raise PortTakenError(f"Port {port} is taken: something else listens on {LOOPBACK}:{port}.")
        self.state.mkdir(parents=True, exist_ok=True)
        owner = [] if owner_pid is None else ["--owner-pid", str(owner_pid)]
        launcher = subprocess.Popen(
            [sys.executable, "-m", "workbench.cloud.launcher", "--state", str(self.state), "--port", str(port), *owner],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        _launchers[launcher.pid] = launcher
        try:
            return self._wait_until_up(launcher, port)
        except BaseException:
            launcher.kill()
            _reap(launcher.pid)
            raise
        finally:
            if launcher.stderr:
                launcher.stderr.close()

    def _wait_until_up(self, launcher: "subprocess.Popen[bytes]", port: int) -> Running:
        deadline = time.monotonic() + _UP_WITHIN_SECONDS
        while time.monotonic() < deadline:
            if launcher.poll() is not None:
                self._explain(launcher, port)
            running = self.status()
            if running is not None and running.pid == launcher.pid and self.answers(running):
                return running
            time.sleep(_PAUSE_SECONDS)
        raise CloudError(f"The embedded cloud did not answer within {_UP_WITHIN_SECONDS:.0f} s.\n{tail(self.log)}")

    def _explain(self, launcher: "subprocess.Popen[bytes]", port: int) -> None:
        """Raise the error that tells why the launcher ended."""
        other = self.status()
        if other is not None:
            raise AlreadyRunningError(self.state, other)
        # until it has claimed the folder it speaks here, afterwards in the log
        said = launcher.stderr.read().decode(errors="replace").strip() if launcher.stderr else ""
        said = said or tail(self.log)
        if "already in use" in said:
            raise PortTakenError(f"Port {port} is taken: something else listens on {LOOPBACK}:{port}.")
        raise CloudError(f"The embedded cloud ended while it started.\n{said}")

    def _gone_within(self, seconds: float, running: Running) -> bool:
        deadline = time.monotonic() + seconds
        while self.status() == running:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True


def default_state() -> Path:
    """The state folder where none is named."""
    named = os.environ.get("OVERCUT_STATE")
    return Path(named) if named else CHECKOUT / ".overcut" / "cloud"


def tail(log: Path) -> str:
    """The end of a log file, and where it is."""
    try:
        text = log.read_text(errors="replace").strip()
    except FileNotFoundError:
        text = ""
    return f"{text[-_TAIL_CHARACTERS:]}\n(log: {log})"


def _reap(pid: int) -> None:
    launcher = _launchers.pop(pid, None)
    if launcher is not None:
        launcher.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0
