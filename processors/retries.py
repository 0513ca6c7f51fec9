"""Further attempts: records of ``events.retry``, each of which repeats one event's processing.

The plan stands in Postgres (``headrace.retries``), written in the transaction of the attempt that failed; when an attempt
is due, its record is sent to the topic, so that it is processed by the worker that has its program. An attempt counts
only if it is the next one of its event: a record sent twice, or read twice, changes nothing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from processors import outbox, store
from processors.attempts import Attempts
from processors.database import Database
from processors.handling import Job
from processors.ports import Outgoing
from processors.records import Arrival, BadRecord, Record, header, read_record
from processors.written import Written
from schemas import topics
from schemas.errors import UNKNOWN_RETRY
from schemas.event import EventReader


class _Try(NamedTuple):
    arrival: Arrival
    attempt: int


class Retries:
    """Processes chunks of the topic of retries."""

    def __init__(self, database: Database, reader: EventReader, attempts: Attempts) -> None:
        self._database = database
        self._reader = reader
        self._attempts = attempts

    async def process(self, partition: int, records: Sequence[Record]) -> Written:
        """Attempt each record's event again, in one transaction."""
        tries, bad = self._read(records)
        return await self._database.run(
            lambda connection: self._transact(connection, partition, tries, bad, records[-1])
        )

    def _read(self, records: Sequence[Record]) -> tuple[list[_Try], list[BadRecord]]:
        tries: list[_Try] = []
        bad: list[BadRecord] = []
        for record in records:
            item = read_record(self._reader, record)
            if isinstance(item, BadRecord):
                bad.append(item)
                continue
            attempt = header(record.headers, "attempt")
            if attempt is None or not attempt.isdigit():
                event = item.event
                reason = "a record of this topic has a header `attempt`, a whole number"
                bad.append(BadRecord(UNKNOWN_RETRY, reason, record, event.program.packed, event.id))
            else:
                tries.append(_Try(item, int(attempt)))
        return tries, bad

    async def _transact(
        self, connection: store.Connection, partition: int, tries: list[_Try], bad: list[BadRecord], last: Record
    ) -> Written:
        now = datetime.now(UTC)
        standings = await store.standings(connection, {one.arrival.event.id for one in tries})
        due = [one for one in _first_of_each(tries) if _is_next(one, standings.get(one.arrival.event.id))]
        jobs = [Job(one.arrival.event, one.attempt, one.arrival.received_at) for one in due]
        attempted = await self._attempts.run(connection, [one.arrival for one in due], jobs)
        await store.end_attempts(
            connection,
            [
                store.Ending(
                    one.job.event.id, one.job.attempt, one.status, one.error_code, one.error_message, one.result
                )
                for one in attempted
            ],
            now,
        )
        await self._attempts.schedule(connection, attempted, partition)
        await self._attempts.finish(connection, attempted)
        letters = [*bad, *(one.letter() for one in attempted if one.failed)]
        await store.add_dead_letters(connection, letters)
        await store.note_progress(connection, topics.RETRY, partition, last)
        processed = outbox.processed_text(now)
        statuses = [
            outbox.status_record(one.job_arrival, one.status, one.error_code, processed)
            for one in attempted
            if one.status in store.FINAL
        ]
        return Written([], statuses + _told_again(tries, due, standings), letters)


def _first_of_each(tries: Sequence[_Try]) -> list[_Try]:
    first: dict[bytes, _Try] = {}
    for one in tries:
        first.setdefault(one.arrival.event.id, one)
    return list(first.values())


def _is_next(one: _Try, standing: store.Standing | None) -> bool:
    return (
        standing is not None
        and standing.status not in store.FINAL
        and standing.attempts == one.attempt - 1
        and standing.owner.fingerprint == one.arrival.event.fingerprint
    )


def _told_again(tries: Sequence[_Try], due: Sequence[_Try], standings: dict[bytes, store.Standing]) -> list[Outgoing]:
    """Statuses of attempts that a crash may have kept from being told: those already done, by this very attempt."""
    done = {one.arrival.event.id for one in due}
    again = []
    for arrival, attempt in tries:
        standing = standings.get(arrival.event.id)
        if arrival.event.id in done or standing is None or standing.attempts != attempt:
            continue
        if standing.status in store.FINAL:
            text = outbox.processed_text(standing.processed_at)
            again.append(outbox.status_record(arrival, standing.status, standing.error_code, text))
    return again
