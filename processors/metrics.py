"""What a worker counts, for Prometheus: served on ``worker_metrics_port`` where that is set.

Counted after the commit, so that what is done again is not counted again; but a worker that is killed takes with it
what nobody had fetched, as every counter of a process does. The rows in Postgres are the exact ones.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, Summary, start_http_server

from processors import exits
from processors.ports import Part
from processors.written import Written

REGISTRY = CollectorRegistry()

RECORDS = Counter("headrace_worker_records_total", "Records processed, by topic", ["topic"], registry=REGISTRY)
CHUNKS = Counter("headrace_worker_chunks_total", "Chunks processed", registry=REGISTRY)
DUPLICATES = Counter("headrace_worker_duplicates_total", "Identical repeats counted at their event", registry=REGISTRY)
CONFLICTS = Counter("headrace_worker_conflicts_total", "Records under the key of another payload", registry=REGISTRY)
DEAD_LETTERS = Counter("headrace_worker_dead_letters_total", "Dead letters, by code", ["code"], registry=REGISTRY)
RETRIES = Counter("headrace_worker_retries_planned_total", "Attempts planned after one that failed", registry=REGISTRY)
AGAIN = Counter(
    "headrace_worker_transactions_again_total", "Transactions decided anew, since rows had changed", registry=REGISTRY
)
POSTGRES_WAITS = Counter(
    "headrace_worker_postgres_waits_total",
    "Transactions begun again after a fault of Postgres",
    registry=REGISTRY,
)
POSTGRES_WAITING = Gauge(
    "headrace_worker_postgres_waiting", "1 while processing waits for Postgres to come back", registry=REGISTRY
)
UPKEEP_FAILURES = Counter(
    "headrace_worker_upkeep_failures_total",
    "Failed rounds of a loop beside the chunks",
    ["loop"],
    registry=REGISTRY,
)
CHANGELOG = Summary(
    "headrace_worker_changelog_seconds", "Time until the table's changelog is acknowledged", registry=REGISTRY
)
LAG = Gauge("headrace_worker_lag", "Records in this worker's partitions behind what was taken", registry=REGISTRY)
IN_FLIGHT = Gauge("headrace_worker_chunks_in_flight", "Chunks taken and not yet done with", registry=REGISTRY)
STILL = Gauge("headrace_worker_seconds_since_progress", "Time with work at hand and no progress", registry=REGISTRY)
TABLE_ENTRIES = Gauge("headrace_worker_table_entries", "Keys in the dedupe table, estimated", registry=REGISTRY)
RECOVERY = Gauge(
    "headrace_worker_recovery_seconds", "Time from the last assignment to a complete table", registry=REGISTRY
)
ProcessCollector(registry=REGISTRY)


def serve(host: str, port: int) -> None:
    """Answer ``GET /metrics`` from a thread of its own; ends the process where that cannot be."""
    try:
        start_http_server(port, host, REGISTRY)
    except OSError as error:
        exits.leave(exits.CONFIGURATION, f"metrics cannot be served on {host}:{port}: {error.strerror or error}")


def count(parts: Sequence[Part], written: Written) -> None:
    """Count chunks that are committed."""
    for part in parts:
        CHUNKS.inc()
        RECORDS.labels(part.topic).inc(len(part.records))
    DUPLICATES.inc(written.duplicates)
    CONFLICTS.inc(written.conflicts)
    RETRIES.inc(written.retries)
    for letter in written.letters:
        DEAD_LETTERS.labels(letter.code).inc()


@contextmanager
def timed(observe: Callable[[float], None]) -> Iterator[None]:
    """Tell `observe` how many seconds passed."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        observe(time.perf_counter() - begun)
