"""Further attempts: records of ``events.retry``, each of which repeats one event's processing.

The plan stands in Postgres (``headrace.retries``), written in the transaction of the attempt that failed; when an
attempt is due, its record is sent to the topic, so that it is processed by the worker that has its program. An attempt
counts only if it is the next one of its event: a record sent twice, or read twice, changes nothing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from processors import metrics, outbox, store
from processors.attempts import Attempted, Attempts
from processors.database import Database
from processors.handling import Job
from processors.parts import write_in_parts
from processors.ports import Part, Record
from processors.records import Arrival, BadRecord, header, read_record
from processors.written import Written
from schemas.errors import UNKNOWN_RETRY
from schemas.reader import EventReader

_ATTEMPT_DIGITS_MAX = 9
_ROUNDS_MAX = 10


class _Try(NamedTuple):
    arrival: Arrival
    attempt: int


class Retries:
    """Processes chunks of the topic of retries."""

    def __init__(self, database: Database, reader: EventReader, attempts: Attempts) -> None:
        self._database = database
        self._reader = reader
        self._attempts = attempts

    def read(self, parts: Sequence[Part]) -> "Read":
        """Read the records of `parts`, which are to be one transaction."""
        tries: list[_Try] = []
        bad: list[BadRecord] = []
        for part in parts:
            self._read(part.records, tries, bad)
        return Read(tries, bad, [store.progress_to(part) for part in parts])

    async def process(self, read: "Read") -> Written:
        """Attempt each record's event again."""
        written = await write_in_parts(read.tries, partial(self._write, read))
        written.letters += read.bad
        return written

    async def _write(self, read: "Read", tries: Sequence[_Try], blame: Exception | None) -> Written:
        for decided_before in range(_ROUNDS_MAX):
            metrics.AGAIN.inc(min(decided_before, 1))
            try:
                return await self._database.run(partial(self._transact, read, tries, blame))
            except store.RowsDifferError:
                continue
        where = ", ".join(f"{one.topic}[{one.partition}]" for one in read.progress)
        raise RuntimeError(f"{where}: somebody else attempts the same events all the time")

    def _read(self, records: Sequence[Record], tries: list[_Try], bad: list[BadRecord]) -> None:
        for record in records:
            item = read_record(self._reader, record)
            if isinstance(item, BadRecord):
                bad.append(item)
                continue
            attempt = header(record.headers, "attempt")
            if attempt is None or not attempt.isdigit() or len(attempt) > _ATTEMPT_DIGITS_MAX:
                event = item.event
                reason = "a record of this topic has a header `attempt`, a whole number"
                bad.append(BadRecord(UNKNOWN_RETRY, reason, record, event.program.packed, event.id))
            else:
                tries.append(_Try(item, int(attempt)))

    async def _transact(
        self, read: "Read", tries: Sequence[_Try], blame: Exception | None, connection: store.Connection
    ) -> Written:
        standings = await store.standings(connection, {one.arrival.event.id for one in tries})
        judged = [(one, standings.get(one.arrival.event.id)) for one in tries]
        due = _due(judged)
        attempted = await self._attempts.run(connection, [one.arrival for one, _ in due], _jobs(due), blame)
        now = datetime.now(UTC)
        await store.end_attempts(connection, [_ending(one) for one in attempted], now)
        await self._attempts.schedule(connection, attempted)
        await self._attempts.finish(connection, attempted)
        letters = [_unknown(one) for one, standing in judged if _is_foreign(one, standing)]
        letters += [one.letter() for one in attempted if one.failed]
        await store.add_dead_letters(connection, [*read.bad, *letters])
        await store.note_progress(connection, read.progress_of(tries))
        written = outbox.written(attempted, letters, now)
        _tell_again(written, judged)
        return written


class Read(NamedTuple):
    """Chunks of the topic as they were read."""

    tries: Sequence[_Try]
    bad: Sequence[BadRecord]
    progress: Sequence[store.Progress]

    def progress_of(self, part: Sequence[_Try]) -> Sequence[store.Progress]:
        """How far processing is when `part` of the tries is done, and those before it."""
        if 0 < len(part) < len(self.tries):
            return store.progress_up_to(one.arrival.record for one in part)
        return self.progress


_Judged = tuple[_Try, store.Standing | None]


def _due(judged: Sequence[_Judged]) -> list[tuple[_Try, store.Standing]]:
    """The attempts that are their event's next; of records that repeat one another the first."""
    due: dict[bytes, tuple[_Try, store.Standing]] = {}
    for one, standing in judged:
        if standing is None or _is_foreign(one, standing) or standing.status in store.FINAL:
            continue
        if standing.attempts == one.attempt - 1:
            due.setdefault(one.arrival.event.id, (one, standing))
    return list(due.values())


def _jobs(due: Sequence[tuple[_Try, store.Standing]]) -> list[Job]:
    return [Job(one.arrival.event, one.attempt, standing.received_at, standing.failed_before) for one, standing in due]


def _ending(one: Attempted) -> store.Ending:
    return store.Ending(one.job.event.id, one.job.attempt, one.status, one.error_code, one.error_message, one.result)


def _is_foreign(one: _Try, standing: store.Standing | None) -> bool:
    """Whether no worker can have sent this: of no event, of another payload, or of an attempt that is not yet planned.

    After somebody asked for it, attempts are counted anew: then a record read again may be of an earlier count.
    """
    if standing is None or standing.owner.fingerprint != one.arrival.event.fingerprint:
        return True
    return one.attempt > standing.attempts + 1 and not standing.failed_before


def _unknown(one: _Try) -> BadRecord:
    event = one.arrival.event
    reason = f"no event with this payload waits for its attempt {one.attempt}"
    return BadRecord(UNKNOWN_RETRY, reason, one.arrival.record, event.program.packed, event.id)


def _tell_again(written: Written, judged: Sequence[_Judged]) -> None:
    """Tell what a crash may have kept from being told: the final statuses of attempts made before."""
    for one, standing in judged:
        if standing is not None and standing.attempts == one.attempt and not _is_foreign(one, standing):
            outbox.tell_again(written, one.arrival, standing)
