"""Keeps processes running: waits until they are ready, starts again what dies, stops all in reverse order."""

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

from deploy.errors import DeployError
from deploy.process import Process, Spec, rotate, stop_all
from deploy.state import ProcessState

_POLL_S = 0.05
_TICK_S = 0.2
_ROTATE_EVERY_S = 5.0
_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 30.0
# A process that lived this long died of something new: its next start does not wait for the earlier failures.
_STABLE_S = 30.0


class Stopped(Exception):  # noqa: N818 - no error: it was asked for
    """Somebody asked the supervisor to stop."""


class _Slot:
    """A place in the stack and the process that fills it, anew after each death."""

    def __init__(self, spec: Spec) -> None:
        self.process = Process(spec)
        self.restarts = 0
        self._failures = 0
        self._started = time.monotonic()
        self._due: float | None = None

    def tick(self, tell: Callable[[str], None]) -> bool:
        """Start the process again where it has died and its pause is over; whether that happened."""
        now = time.monotonic()
        if self.process.exit_code() is None:
            return False
        if self._due is None:
            self._failures = 1 if now - self._started > _STABLE_S else self._failures + 1
            pause_s = min(_BACKOFF_FIRST_S * 2 ** (self._failures - 1), _BACKOFF_MAX_S)
            self._due = now + pause_s
            tell(f"{self.process.failure()}; starting it again in {pause_s:g} s")
        if now < self._due:
            return False
        self.process = Process(self.process.spec)
        self._due = None
        self._started = now
        self.restarts += 1
        return True

    def state(self) -> ProcessState:
        spec = self.process.spec
        return ProcessState(spec.role, spec.number, self.process.identity, self.restarts)


class Supervisor:
    """Runs groups of processes; a later group stands on the earlier ones, and stops before them."""

    def __init__(self, tell: Callable[[str], None], changed: Callable[[list[ProcessState]], object]) -> None:
        """`tell` gets a line for the operator; `changed` gets all processes whenever one was started."""
        self._tell = tell
        self._changed = changed
        self._groups: list[list[_Slot]] = []
        self._stopping = False

    def heed_signals(self) -> None:
        """From now on SIGINT and SIGTERM end the run in order. Main thread only."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._stopping = True

    def check(self) -> None:
        """Raise :class:`Stopped` when somebody asked to stop."""
        if self._stopping:
            raise Stopped

    def start(self, specs: Sequence[Spec]) -> None:
        """Start a group of processes."""
        self.check()
        group: list[_Slot] = []
        self._groups.append(group)
        for spec in specs:
            group.append(_Slot(spec))  # noqa: PERF401 - one by one: those started are stopped when the next fails
        self._changed(self.states())

    def wait_until(self, ready: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until `ready` says so. Raises :class:`DeployError` when a process ends, or after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            self.check()
            for slot in self._slots():
                if slot.process.exit_code() is not None:
                    raise DeployError(slot.process.failure())
            if time.monotonic() > deadline:
                logs = ", ".join(str(slot.process.spec.log) for slot in self._groups[-1])
                raise DeployError(f"{what}: not within {timeout_s:g} s (logs: {logs})")
            time.sleep(_POLL_S)

    def all_say_ready(self) -> bool:
        """Whether each process that tells when it is ready has done so."""
        return all(slot.process.ready() for slot in self._slots())

    def states(self) -> list[ProcessState]:
        """Every process, in the order of their start."""
        return [slot.state() for slot in self._slots()]

    def _slots(self) -> list[_Slot]:
        return [slot for group in self._groups for slot in group]

    def supervise(self) -> None:
        """Start again what dies, until somebody asks to stop."""
        rotated = time.monotonic()
        while not self._stopping:
            started = [slot.tick(self._tell) for slot in self._slots()]
            if any(started):
                self._changed(self.states())
            if time.monotonic() - rotated > _ROTATE_EVERY_S:
                rotated = time.monotonic()
                for slot in self._slots():
                    rotate(slot.process.spec.log)
            time.sleep(_TICK_S)

    def stop(self) -> None:
        """Stop everything, the last group first."""
        for group in reversed(self._groups):
            stop_all([slot.process for slot in group])
