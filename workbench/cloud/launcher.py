"""The embedded cloud's own process: `python -m workbench.cloud.launcher --state DIR --port N [--owner-pid PID]`.

Two processes in one group. The launcher claims the state folder, forks the emulator and watches it and its owner; the
emulator adds our services to ministack's tables and serves. Whichever of the two ends, and however, the other one ends
the whole group: functions and training jobs run in it.
"""

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from workbench.cloud.environment import LOOPBACK, emulator_environment
from workbench.cloud.state import AlreadyRunningError, Running, claim

_WATCH_SECONDS = 0.2
_EPHEMERAL = ("s3", "services", "tmp", "training-jobs", "job-runs")


def main() -> None:
    """Run a cloud until it is told to end, or its owner is gone."""
    options = _options()
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        claimed = claim(options.state, Running(f"http://{LOOPBACK}:{options.port}", options.port, os.getpid(), started))
    except AlreadyRunningError as error:
        sys.exit(str(error))
    _log_to(options.state / "log")
    _start_afresh(options.state)
    launcher = os.getpid()
    emulator = os.fork()
    if emulator == 0:
        _serve(options.state, options.port, launcher)
    else:
        _guard(emulator, options.owner_pid)
        os.ftruncate(claimed, 0)
        os.killpg(0, signal.SIGKILL)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--owner-pid", type=int, help="end when this process does")
    return parser.parse_args()


def _log_to(file: Path) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _start_afresh(state: Path) -> None:
    """A cloud starts empty: what an earlier one stored is removed only now, so that it can be read until then."""
    for name in _EPHEMERAL:
        shutil.rmtree(state / name, ignore_errors=True)
        (state / name).mkdir()


def _serve(state: Path, port: int, launcher: int) -> None:
    threading.Thread(target=_end_group_without, args=(launcher,), daemon=True).start()
    environ = emulator_environment(state, port, os.environ)
    os.environ.clear()
    os.environ.update(environ)
    # ministack reads its environment while it is imported
    from workbench.cloud import emulator

    emulator.serve(state)


def _guard(emulator: int, owner: int | None) -> None:
    """Wait until the emulator has ended or the owner is gone."""
    # a signal to the group is for the emulator to obey and for its launcher to clear up after
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner_gone = _gone(owner) if owner is not None else lambda: False
    while os.waitpid(emulator, os.WNOHANG)[0] == 0 and not owner_gone():
        time.sleep(_WATCH_SECONDS)


def _gone(pid: int) -> Callable[[], bool]:
    if os.getppid() == pid:
        # also true of a dead owner that nobody has waited for yet
        return lambda: os.getppid() != pid

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    return gone


def _end_group_without(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_WATCH_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
