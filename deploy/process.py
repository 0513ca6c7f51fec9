"""One child process: start, see whether it lives, stop it within a bound, tell it from a stranger with its pid."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from deploy.errors import DeployError
from deploy.local import child

LOG_BYTES_MAX = 32 * 1024 * 1024
_TAIL_BYTES = 4096
# psutil derives the start from the boot time, which clock adjustments may move a little.
_START_TOLERANCE_S = 2.0
_KILL_WAIT_S = 5.0


class Identity(NamedTuple):
    """A process that cannot be mistaken for a later one with the same pid. `started_s` is Unix time."""

    pid: int
    started_s: float

    def process(self) -> psutil.Process | None:
        """The process, or None where it has ended (also when its pid now belongs to another)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_s) < _START_TOLERANCE_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def identity_of(pid: int) -> Identity:
    """Identity of a living process; of an ended one, one that matches nothing."""
    try:
        return Identity(pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return Identity(pid, 0.0)


class User(NamedTuple):
    """Whom a child becomes when started as root; `reach` ("", "search", "override") as in ``deploy/local/child.py``."""

    uid: int
    gid: int
    reach: str = ""

    def argument(self) -> str:
        """As ``deploy/local/child.py`` takes it."""
        return f"{self.uid}:{self.gid}{'+' if self.reach else ''}{self.reach}"


def guarded(command: Sequence[str], user: User | None = None, death_signal: int = signal.SIGTERM) -> list[str]:
    """`command` behind the wrapper that ties it to this process's life and changes the user."""
    who = user.argument() if user else "-"
    # The wrapper's path must reach the interpreter as a plain file: it imports nothing of this project.
    return [sys.executable, "-IS", str(child.__file__), str(os.getpid()), str(int(death_signal)), who, *command]


class Spec(NamedTuple):
    """What to start. `stop_signal` asks it to end in order; `grace_s` later it is killed."""

    role: str
    number: int
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 15.0
    user: User | None = None
    ready_file: Path | None = None

    @property
    def name(self) -> str:
        """``gateway-0`` and the like: the name of its log."""
        return f"{self.role}-{self.number}"


def rotate(log: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Keep `log` bounded: past `bytes_max` it becomes ``….1`` and starts anew, under its writer's feet."""
    if log.exists() and log.stat().st_size > bytes_max:
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)


def tail(log: Path) -> str:
    """The last line of a log that says something, for an error message; empty where there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return next((line for line in reversed(said) if not line.startswith("at ")), "")  # "at …": a Java stack


class Process:
    """A running child of this process, made from a :class:`Spec`. Its output goes to its log."""

    def __init__(self, spec: Spec) -> None:
        """Start it. Raises :class:`DeployError` where its program cannot be started."""
        self.spec = spec
        if spec.ready_file:
            spec.ready_file.unlink(missing_ok=True)
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        rotate(spec.log)
        with spec.log.open("ab") as log:
            try:
                self._popen = subprocess.Popen(  # noqa: S603 - the command is this project's own
                    guarded(spec.command, spec.user, spec.stop_signal),
                    env=dict(spec.env),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor only: it stops in order
                )
            except OSError as error:
                raise DeployError(f"{spec.name} cannot be started: {error}") from error
        self.identity = identity_of(self._popen.pid)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    def exit_code(self) -> int | None:
        """None while it lives; its exit code afterwards (negative: the signal that ended it)."""
        return self._popen.poll()

    def ready(self) -> bool:
        """Whether it says so itself, by its ready file; true where it has none."""
        return self.spec.ready_file is None or self.spec.ready_file.exists()

    def failure(self) -> str:
        """One line on why it ended, with the end of its log."""
        code = self.exit_code() or 0
        if code < 0:
            return f"{self.spec.name} was ended by {signal.Signals(-code).name} (log: {self.spec.log})"
        last = tail(self.spec.log)
        said = f": {last}" if last else ""
        return f"{self.spec.name} ended with {code}{said} (log: {self.spec.log})"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has already ended."""
        if self.exit_code() is None:
            self._popen.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, `timeout_s` at most; whether it has ended."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait(_KILL_WAIT_S)

    def stop(self) -> None:
        """Ask it to end; kill it when it has not within its grace."""
        self.signal(self.spec.stop_signal)
        if not self.wait(self.spec.grace_s):
            self.kill()


def stop_all(processes: Sequence[Process]) -> None:
    """Stop several at the same time, each within its own grace."""
    for process in processes:
        process.signal(process.spec.stop_signal)
    for process in processes:
        if not process.wait(process.spec.grace_s):
            process.kill()
