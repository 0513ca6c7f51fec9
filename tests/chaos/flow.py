"""How long until events flow again: watches the processed offsets in Postgres and the gateways' answers."""

import time
from collections.abc import Callable, Iterable

import psycopg

from schemas import topics
from tests.chaos.journal import Journal

_POLL_S = 0.1

Offsets = dict[int, int]


class NoFlowError(Exception):
    """Events did not flow again in time."""


class Flow:
    """Answers for one lane of faults; not for use by several threads."""

    def __init__(self, database_url: str, journal: Journal, limit_s: float) -> None:
        """`limit_s`: how long events may stand still after a fault before that counts as a failure."""
        self._database_url = database_url
        self._journal = journal
        self._limit_s = limit_s
        self._connection: psycopg.Connection | None = None

    def processed(self) -> Offsets:
        """How far each partition of `events` is; waits for Postgres."""
        deadline = time.monotonic() + self._limit_s
        while True:
            try:
                return self._ask()
            except psycopg.OperationalError as error:
                self.close()
                if time.monotonic() > deadline:
                    raise NoFlowError(f"Postgres does not answer for {self._limit_s:.0f} s") from error
                time.sleep(_POLL_S)

    def until_processed(self, before: Offsets, partitions: Iterable[int] | None = None) -> None:
        """Wait until each of the `partitions`, all by default, is further than `before`."""
        wanted = set(before if partitions is None else partitions)

        def moved() -> bool:
            now = self.processed()
            return all(now.get(number, 0) > before.get(number, 0) for number in wanted)

        self._until(moved, lambda: f"partitions {sorted(wanted)} do not move on from {before}: {self.processed()}")

    def until_accepted(self, gateways: Iterable[str], since: float) -> None:
        """Wait until each of the gateways has accepted something after `since` (`time.monotonic()`)."""
        urls = list(gateways)

        def accepted() -> bool:
            return all(self._journal.accepted_at.get(url, 0.0) > since for url in urls)

        self._until(accepted, lambda: f"not all of {urls} accept events")

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _until(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        deadline = time.monotonic() + self._limit_s
        while not condition():
            if time.monotonic() > deadline:
                raise NoFlowError(f"{what()} for {self._limit_s:.0f} s")
            time.sleep(_POLL_S)

    def _ask(self) -> Offsets:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._database_url, autocommit=True, connect_timeout=3)
        rows = self._connection.execute(
            "select kafka_partition, next_offset from headrace.progress where topic = %s", (topics.EVENTS,)
        ).fetchall()
        return dict(rows)
