"""Runs of what takes records out of Kafka, each from its start until all is done."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import psycopg

from deploy.process import Process, guarded
from tests.bench.bed import Bed, environment
from tests.bench.cpu import Spent, memory_mb
from tests.stack import Backend, Stack

_FAST_POLL_S = 0.02
_POLL_S = 0.1
_DRAIN_TIMEOUT_S = 600.0
_STEP_TIMEOUT_S = 120.0


class Drained(NamedTuple):
    """A drained backlog: what it took from the first progress to the last record, and in all."""

    records: int
    spent: Spent
    seconds_with_start: float = 0.0
    peak_mb: float = 0.0

    def us(self, name: str) -> float:
        """CPU µs a record, from the first progress to the last record."""
        return self.spent.us_per_event(self.records)[name]

    @property
    def per_s(self) -> float:
        """Records a second, from the first progress to the last record."""
        return self.records / self.spent.seconds


def together(rounds: Sequence[Drained]) -> Drained:
    """Several as one: sums, and the highest peak."""
    return Drained(
        sum(each.records for each in rounds),
        reduce(Spent.plus, (each.spent for each in rounds)),
        sum(each.seconds_with_start for each in rounds),
        max(each.peak_mb for each in rounds),
    )


def follow(bed: Bed, process: Process, progress: Callable[[], int], wanted: int) -> Drained:
    """Watch a process just started until `progress` reaches `wanted`; the meter starts with its first progress."""
    start = time.monotonic()
    first = _wait(process, progress, 1, start)
    meter = bed.meter(process=process.pid)
    first = progress()
    _wait(process, progress, wanted, start)
    spent = meter.spent()
    return Drained(max(wanted - first, 1), spent, time.monotonic() - start, memory_mb(process.pid)[1])


def _wait(process: Process, progress: Callable[[], int], wanted: int, start: float) -> int:
    pause_s = _FAST_POLL_S if wanted == 1 else _POLL_S
    while (seen := progress()) < wanted:
        assert process.exit_code() is None, process.spec.log.read_text(encoding="utf-8", errors="replace")[-3000:]
        assert time.monotonic() - start < _DRAIN_TIMEOUT_S, f"{seen} of {wanted} after {_DRAIN_TIMEOUT_S} s"
        time.sleep(pause_s)
    return seen


def drain(bed: Bed, stack: Stack, database: Backend, records: int) -> Drained:
    """Have a worker of `stack` drain the topic `events`."""
    with psycopg.connect(database.database_url, autocommit=True) as connection:

        def progress() -> int:
            found = connection.execute(
                "select coalesce(sum(processed_offset), 0)::bigint from headrace.pipeline_lag where topic = 'events'"
            ).fetchone()
            return int(found[0]) if found else 0

        worker = stack.start_worker(wait=False)
        try:
            return follow(bed, worker, progress, records)
        finally:
            stack.stop()


def drain_plainly(bed: Bed, database: Backend, topic: str, events: int, records: int) -> Drained:
    """Have plain Faust drain `topic` into the table of :mod:`tests.bench.plain_faust`, as a new app."""
    name = f"plain-{database.database_url.rsplit('/', 1)[1]}"
    stack = bed.stack(database, name)
    stack.folder.mkdir(parents=True, exist_ok=True)
    given = {
        "BENCH_APP": name,
        "BENCH_KAFKA": bed.kafka,
        "BENCH_DATABASE_URL": database.database_url,
        "BENCH_TOPIC": topic,
        "BENCH_FOLDER": str(stack.folder / "data"),
    }
    arguments = ["-m", "faust", "-A", "tests.bench.plain_faust", "worker", "-l", "warn", "--without-web"]
    with psycopg.connect(database.database_url, autocommit=True) as connection:

        def progress() -> int:
            found = connection.execute("select count(*) from plain.events").fetchone()
            return int(found[0]) if found else 0

        process = bed.start(name, arguments, environment(stack) | given)
        try:
            drained = follow(bed, process, progress, events)
        finally:
            process.stop()
    # Rows show its progress, but duplicates are work too: the backlog's records are what it is divided by.
    return drained._replace(records=drained.records * records // events)


def floor(bed: Bed, *arguments: str) -> Spent:
    """Run one of :mod:`tests.bench.floors`, and count between its ``ready`` and its ``done``."""
    command = guarded([sys.executable, "-m", "tests.bench.floors", *arguments])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n", arguments
            meter = bed.meter(process=process.pid)
            process.stdin.write(b"go\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"done\n", arguments
            spent = meter.spent()
            process.stdin.write(b"end\n")
            process.stdin.flush()
            process.wait(_STEP_TIMEOUT_S)
        finally:
            process.kill()
    return spent
