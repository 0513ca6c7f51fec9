"""CPU time and memory of processes, their children included."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

_STARTUP_GONE = 0.0


def cpu_s(pid: int) -> float:
    """User and system time of a process, of its living children and of those that it has waited for."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return _STARTUP_GONE
    total = 0.0
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile: its parent's count has it
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory now, and at its highest, in MB (10^6 bytes)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return tuple(int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


class Spent(NamedTuple):
    """What a piece of work took: wall time, and CPU time by the name of the process."""

    seconds: float
    cpu_s: dict[str, float]

    def plus(self, other: "Spent") -> "Spent":
        """Both together."""
        names = self.cpu_s.keys() | other.cpu_s.keys()
        sums = {name: self.cpu_s.get(name, 0.0) + other.cpu_s.get(name, 0.0) for name in names}
        return Spent(self.seconds + other.seconds, sums)

    def us_per_event(self, events: int) -> dict[str, float]:
        """CPU microseconds an event, by the name of the process."""
        return {name: spent / max(events, 1) * 1e6 for name, spent in self.cpu_s.items()}


def ratio(cost: float, other: float) -> float | None:
    """`cost` over `other`; None where the clock's ticks (10 ms) were too coarse to see the other at all."""
    return cost / other if other > 0 else None


def beside(costs: Sequence[float], others: Sequence[float]) -> float | None:
    """The ratio of two costs that were measured in turns, of all rounds together.

    The median of the rounds, each against the one beside it, differs more from run to run (the suite's README).
    """
    return ratio(sum(costs), sum(others))


class Meter:
    """Reads the CPU time of some processes, by name; what was spent is the difference of two readings."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self.restart()

    def restart(self) -> None:
        """Begin to count here."""
        self._at = time.monotonic()
        self._before = {name: cpu_s(pid) for name, pid in self._pids.items()}

    def spent(self) -> Spent:
        """What was spent since the beginning."""
        seconds = time.monotonic() - self._at
        return Spent(seconds, {name: cpu_s(pid) - self._before[name] for name, pid in self._pids.items()})
