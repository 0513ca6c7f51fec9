"""Faults of workers: killed, ended, stopped and woken, killed inside a chunk, their tables damaged."""

import resource
import signal
import time
from functools import partial

from processors import failpoints
from tests.chaos.faults import Fault, Field, Hit, pid_of, ready, wait_for
from tests.chaos.system import SESSION_TIMEOUT_MS

_AWAY_S = 12.0
_ZOMBIE_S = SESSION_TIMEOUT_MS / 1000 + 2.5
_FULL_S = 2.0
_PASSINGS_MAX = 12


def _end(number: signal.Signals, field: Field, name: str, **orders: str | float) -> Hit:
    """Signal a worker; what `orders` say happens to it while it is down."""
    ready(field, name)
    if orders:
        field.system.order(name, **orders)
    began = time.monotonic()
    field.system.signal(name, number)
    ended = time.monotonic()
    field.flow.until_processed(field.flow.processed())
    ready(field, name)
    return Hit(name, began, ended)


def _table(fault: str, field: Field, name: str) -> Hit:
    return _end(signal.SIGKILL, field, name, table=fault)


def _away(field: Field, name: str) -> Hit:
    """Killed, and not back before the other worker must have taken over."""
    return _end(signal.SIGKILL, field, name, pause_s=_AWAY_S)


def _both(field: Field, _: str) -> Hit:
    names = [f"worker-{number}" for number in range(field.system.workers)]
    for name in names:
        ready(field, name)
    began = time.monotonic()
    for name in names:
        field.system.signal(name, signal.SIGKILL)
    ended = time.monotonic()
    field.flow.until_processed(field.flow.processed())
    return Hit("workers", began, ended)


def _zombie(field: Field, name: str) -> Hit:
    """Stopped for longer than its session lasts; then it wakes up and believes that nothing has happened."""
    ready(field, name)
    began = time.monotonic()
    field.system.signal(name, signal.SIGSTOP)
    try:
        # Woken at its time, whether or not the others have taken over by then.
        time.sleep(_ZOMBIE_S)
        before = field.flow.processed()
    finally:
        field.system.signal(name, signal.SIGCONT)
    ended = time.monotonic()
    field.flow.until_processed(before)
    ready(field, name)
    return Hit(name, began, ended, "end")


def _fail_point(point: str, field: Field, name: str) -> Hit:
    """Killed at a point inside a chunk, at one of its first passings after the start."""
    ready(field, name)
    before = pid_of(field, name)
    field.system.order(name, fail_point=f"{point}:{field.rng.randint(1, _PASSINGS_MAX)}")
    field.system.signal(name, signal.SIGKILL)
    wait_for(lambda: pid_of(field, name) not in {None, before}, f"{name} started with the fail point {point}")
    doomed = pid_of(field, name)
    wait_for(lambda: pid_of(field, name) != doomed, f"{name} killed at the fail point {point}")
    began = time.monotonic()
    field.flow.until_processed(field.flow.processed())
    ready(field, name)
    return Hit(name, began, began)


def _disk_full(field: Field, name: str) -> Hit:
    """No file of the worker's can grow any more, its table's above all; then it is told to end."""
    ready(field, name)
    began = time.monotonic()
    pid = pid_of(field, name)
    if pid is not None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
    time.sleep(_FULL_S)
    field.system.signal(name, signal.SIGTERM)
    ended = time.monotonic()
    field.flow.until_processed(field.flow.processed())
    ready(field, name)
    return Hit(name, began, ended, "end")


SIGKILL = Fault("worker SIGKILL", partial(_end, signal.SIGKILL))
SIGTERM = Fault("worker SIGTERM", partial(_end, signal.SIGTERM))
AWAY = Fault("worker SIGKILL, the other takes over", _away)
BOTH = Fault("both workers SIGKILL", _both)
ZOMBIE = Fault("worker SIGSTOP beyond its session", _zombie)
DISK_FULL = Fault("worker's disk full", _disk_full)
FAIL_POINTS = [Fault(f"worker killed {name}", partial(_fail_point, name)) for name in failpoints.NAMES]
TABLES = [
    Fault("table deleted", partial(_table, "delete")),
    Fault("table truncated", partial(_table, "truncate")),
    Fault("table of an older run", partial(_table, "old")),
]
