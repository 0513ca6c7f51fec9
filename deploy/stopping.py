"""Ends a stack by the pids that it wrote down, and nothing else: each pid must still be the same process."""

import signal

import psutil

from deploy.errors import DeployError
from deploy.process import Identity
from deploy.state import StackState

_SUPERVISOR_GRACE_S = 60.0
_GRACE_S = 15.0
_KILL_WAIT_S = 5.0
# Postgres takes SIGTERM as "when every client has gone"; SIGINT is its ordinary stop.
_STOP_SIGNALS = {"postgres": signal.SIGINT}


def stop(stack: StackState) -> bool:
    """Stop a stack through its supervisor, and what remains without it; whether anything ran."""
    supervised = _end([(stack.supervisor, signal.SIGTERM)], _SUPERVISOR_GRACE_S)
    return end_leftovers(stack) + supervised > 0


def end_leftovers(stack: StackState) -> int:
    """End the processes that a killed supervisor has left; how many there were."""
    return _end(
        [(found.identity, _STOP_SIGNALS.get(found.role, signal.SIGTERM)) for found in reversed(stack.processes)],
        _GRACE_S,
    )


def _end(wanted: list[tuple[Identity, signal.Signals]], grace_s: float) -> int:
    living = []
    for identity, number in wanted:
        process = identity.process()
        if process:
            _signal(process, number)
            living.append(process)
    _, stubborn = psutil.wait_procs(living, timeout=grace_s)
    for process in stubborn:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=_KILL_WAIT_S)
    return len(living)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise DeployError(f"process {process.pid} belongs to another user: run this as that user") from error
