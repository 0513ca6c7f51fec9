"""What a fault is, what it acts on, and the steps that faults share."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.chaos.flow import Flow, NoFlowError
from tests.chaos.journal import Journal
from tests.chaos.system import System

_POLL_S = 0.05
_UP_S = 90.0
# After Postgres is back, a gateway may go on for so long as if it were not.
_SHAKY_AFTER_S = 3.0


class Field(NamedTuple):
    """What a fault acts on: the system, a view of the flow of events, and choices from the round's seed."""

    system: System
    flow: Flow
    journal: Journal
    rng: random.Random


class Outcome(NamedTuple):
    """One fault: whom it hit, from when to when (Unix time), and after how long events flowed again.

    `counted_from`: "begin" for what strikes in a moment, "end" for what lasts and lets nothing through meanwhile.
    """

    fault: str
    target: str
    began_at: float
    ended_at: float
    recovery_s: float
    counted_from: str


class Hit(NamedTuple):
    """What a fault tells of itself. Times are of `time.monotonic()`."""

    target: str
    began: float
    ended: float
    counted_from: str = "begin"


class Fault(NamedTuple):
    """A fault by its name; `strike` returns when events flow again and whoever was hit is up."""

    name: str
    strike: Callable[[Field, str], Hit]


def run(fault: Fault, field: Field, target: str) -> Outcome:
    """Strike, and measure. Raises :class:`NoFlowError`."""
    wall, clock = time.time(), time.monotonic()
    recovered: list[float] = []
    flow = _Noting(field.flow, recovered)
    hit = fault.strike(field._replace(flow=flow), target)
    since = hit.began if hit.counted_from == "begin" else hit.ended
    recovery_s = max(0.0, (recovered[0] if recovered else time.monotonic()) - since)
    return Outcome(
        fault.name, hit.target, wall + hit.began - clock, wall + hit.ended - clock, recovery_s, hit.counted_from
    )


class _Noting(Flow):
    """A flow that notes when the first of the waits for it was over."""

    def __init__(self, flow: Flow, recovered: list[float]) -> None:
        self.__dict__ = flow.__dict__
        self._recovered = recovered

    def _until(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        super()._until(condition, what)
        self._recovered.append(time.monotonic())


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = _UP_S) -> None:
    """Wait until `condition`. Raises :class:`NoFlowError` after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise NoFlowError(f"not within {limit_s:.0f} s: {what}")
        time.sleep(_POLL_S)


def ready(field: Field, name: str) -> None:
    """Wait until a gateway or a worker is up."""
    wait_for(lambda: field.system.is_ready(name), f"{name} ready")


def pid_of(field: Field, name: str) -> int | None:
    """The process id, None while it is down."""
    process = field.system.process(name)
    return None if process is None else process.pid


@contextmanager
def shaky(field: Field) -> Iterator[None]:
    """Note that Postgres cannot be relied upon meanwhile, nor shortly after."""
    since = time.time()
    try:
        yield
    finally:
        field.journal.shaky.append((since, time.time() + _SHAKY_AFTER_S))
