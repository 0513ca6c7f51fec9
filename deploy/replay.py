"""Dead letters replayed: each once, by whom is written down, and a crash at any moment does no harm.

A letter is an event that failed, or a record that is no event of its topic. An event gets a new attempt, planned in
Postgres as ``POST /v1/events/{id}/retry`` plans it. A record is published again. Letters are taken a chunk at a time:
locked, published, marked and counted in one transaction, which commits after Kafka has acknowledged. What a crash
leaves published and not marked is published once more by the next replay, and the processors drop the repetition.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from psycopg.types.json import Jsonb

from deploy.database import Connection, connected, one_line
from deploy.dead_letters import MATCHES, Filter, Letter, select
from deploy.errors import DeployError
from schemas import errors, kafka, topics
from schemas.event import Event, InvalidEventError
from schemas.reader import EventReader
from schemas.retry_sql import PLAN_ATTEMPTS
from schemas.settings import Settings

_CHUNK_LETTERS_MAX = 100
_CHUNK_TIMEOUT_S = 90.0
_KAFKA_TIMEOUT_S = 60.0
# Below what the topic takes, as far as a batch's own bytes need. A record that was compressed may have been larger.
_RECORD_BYTES_MAX = kafka.REQUEST_BYTES_MAX - 65_536

# What is wrong with records; any other code is of an event that was processed and failed, mostly a handler's own.
_RECORD_CODES = frozenset(
    {
        errors.UNREADABLE_RECORD,
        errors.KEY_MISMATCH,
        errors.UNSTORABLE_EVENT,
        errors.UNKNOWN_RETRY,
        errors.IDEMPOTENCY_CONFLICT.code,
        errors.INVALID_EVENT.code,
        errors.INVALID_PROGRAM_ID.code,
        errors.EVENT_TOO_LARGE.code,
    }
)

_CHUNK = f"number > %(after)s and number <= %(until)s and {MATCHES} order by number limit %(most)s"
_STANDINGS = "select id, status::text, error_code, fingerprint from headrace.events where id = any(%s)"
_MARK = """
update headrace.dead_letter_records set replayed_at = now(), replayed_by = %s where number = any(%s::bigint[])
"""
_NOTE = """
insert into headrace.dead_letter_replays (started_at, replayed_by, filter, events, records)
values (%s, %s, %s, %s, %s) returning number
"""
_NOTE_MORE = """
update headrace.dead_letter_replays set events = events + %s, records = records + %s, updated_at = now()
where number = %s
"""


class Outcome(NamedTuple):
    """What is done about a letter: its event tried again, its record published, or nothing, and why."""

    number: int
    code: str
    action: Literal["event", "record", "skipped"]
    detail: str


class Wanted(NamedTuple):
    """A replay: which letters, at most how many (None: all), for whom, and whether only to tell."""

    which: Filter
    most: int | None
    by: str
    dry_run: bool

    def described(self) -> dict[str, Any]:
        """What was asked for, as the audit keeps it."""
        which = self.which
        return {
            "codes": list(which.codes),
            "programs": [str(program) for program in which.programs],
            "numbers": list(which.numbers),
            "limit": self.most,
            "again": which.replayed,
        }


class _Standing(NamedTuple):
    status: str
    error_code: str | None
    fingerprint: bytes


class Replay:
    """One run. Iterate over :meth:`outcomes` to have it done."""

    def __init__(self, settings: Settings, wanted: Wanted) -> None:
        """Nothing is asked yet."""
        self._settings = settings
        self._wanted = wanted
        # As large as the topics take them: whether an event is too large is for the processors to say.
        self._reader = EventReader(max(settings.max_event_bytes, kafka.REQUEST_BYTES_MAX))
        self._producer: AIOKafkaProducer | None = None
        self._audit: int | None = None
        self._planned: set[UUID] = set()
        self._started_at = datetime.now(UTC)

    async def outcomes(self) -> AsyncIterator[Outcome]:
        """Replay the letters in their order; the outcomes of a chunk come once it is committed.

        Raises :class:`DeployError` where Kafka or Postgres refuses; the chunk under way is then not marked.
        """
        left = self._wanted.most
        after = 0
        try:
            async with connected(self._settings.database_url) as connection:
                # Letters that come while this runs, such as those of records that fail again, are for another run.
                until = await _last_number(connection)
                while left is None or left > 0:
                    most = _CHUNK_LETTERS_MAX if left is None else min(left, _CHUNK_LETTERS_MAX)
                    letters, outcomes = await self._bounded_chunk(connection, after, until, most)
                    if not letters:
                        return
                    after = letters[-1].number
                    for outcome in outcomes:
                        yield outcome
                    if left is not None:
                        left -= sum(outcome.action != "skipped" for outcome in outcomes)
        finally:
            if self._producer is not None:
                await self._producer.stop()

    async def _bounded_chunk(
        self, connection: Connection, after: int, until: int, most: int
    ) -> tuple[list[Letter], list[Outcome]]:
        try:
            async with asyncio.timeout(_CHUNK_TIMEOUT_S), connection.transaction():
                return await self._chunk(connection, {"after": after, "until": until, "most": most})
        except TimeoutError as error:
            raise DeployError("Kafka or Postgres does not answer in time: see `headrace doctor`") from error

    async def _chunk(self, connection: Connection, bounds: dict[str, int]) -> tuple[list[Letter], list[Outcome]]:
        lock = "" if self._wanted.dry_run else " for update skip locked"
        letters = await select(connection, _CHUNK + lock, self._wanted.which.values() | bounds)
        standings = await _standings(connection, letters)
        outcomes: list[Outcome] = []
        records: list[tuple[Letter, bytes | None]] = []
        events: list[tuple[Letter, Event]] = []
        for letter in letters:
            event = self._read(letter)
            outcome = _decide(letter, event, standings, self._planned)
            if outcome.action == "event" and event is not None:
                self._planned.add(UUID(bytes=event.id))
                events.append((letter, event))
            elif outcome.action == "record":
                records.append((letter, letter.record_key if event is None else event.program.key))
            outcomes.append(outcome)
        if self._wanted.dry_run:
            return letters, outcomes
        await self._publish(records)
        await self._plan(connection, events)
        await self._note(connection, outcomes)
        return letters, outcomes

    def _read(self, letter: Letter) -> Event | None:
        if letter.record_value is None:
            return None
        try:
            return self._reader.read(letter.record_value)
        except InvalidEventError:
            return None

    async def _publish(self, records: Sequence[tuple[Letter, bytes | None]]) -> None:
        """Publish records and wait until every one is acknowledged."""
        if not records:
            return
        try:
            async with asyncio.timeout(_KAFKA_TIMEOUT_S):
                producer = await self._started_producer()
                sent = [
                    await producer.send(topics.EVENTS, letter.record_value, key, headers=letter.headers())
                    for letter, key in records
                ]
                await asyncio.gather(*sent)
        except (KafkaError, TimeoutError, OSError) as error:
            where = f"Kafka at {self._settings.kafka}"
            raise DeployError(
                f"{where} does not take the records ({one_line(error)}): see `headrace doctor`"
            ) from error

    async def _started_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = self._producer = AIOKafkaProducer(**kafka.producing(self._settings))
            await producer.start()
        return self._producer

    async def _plan(self, connection: Connection, events: Sequence[tuple[Letter, Event]]) -> None:
        """Plan an attempt at each event that is still FAILED; one that is not has been planned by somebody else."""
        records = {UUID(bytes=event.id): event.record for _, event in events}
        if records:
            await connection.execute(PLAN_ATTEMPTS, {"ids": list(records), "records": list(records.values())})

    async def _note(self, connection: Connection, outcomes: Sequence[Outcome]) -> None:
        """Mark the letters that were replayed, and count them in the audit."""
        done = [outcome for outcome in outcomes if outcome.action != "skipped"]
        if not done:
            return
        by = self._wanted.by
        await connection.execute(_MARK, (by, [outcome.number for outcome in done]))
        records = sum(outcome.action == "record" for outcome in done)
        counts = (len(done) - records, records)
        if self._audit is None:
            described = Jsonb(self._wanted.described())
            row = await (await connection.execute(_NOTE, (self._started_at, by, described, *counts))).fetchone()
            self._audit = None if row is None else row[0]
        else:
            await connection.execute(_NOTE_MORE, (*counts, self._audit))


def _decide(letter: Letter, event: Event | None, standings: dict[UUID, _Standing], planned: set[UUID]) -> Outcome:
    """What to do about a letter whose value is `event` (None: no event)."""
    standing = standings.get(letter.event_id) if letter.event_id is not None else None
    if event is None or standing is None or not _is_of(letter, event, standing):
        if letter.size() > _RECORD_BYTES_MAX:
            why = f"the record is larger than the topic {topics.EVENTS} takes"
            return Outcome(letter.number, letter.code, "skipped", why)
        key = letter.record_key if event is None else event.program.key
        shown = "no key" if key is None else f"key {key.decode(errors='replace')}"
        return Outcome(letter.number, letter.code, "record", f"to {topics.EVENTS} with {shown}")
    if letter.event_id in planned or standing.status == "FAILED":
        return Outcome(letter.number, letter.code, "event", f"another attempt at event {letter.event_id}")
    return Outcome(letter.number, letter.code, "skipped", f"its event {letter.event_id} is {standing.status} by now")


def _is_of(letter: Letter, event: Event, standing: _Standing) -> bool:
    """Whether the letter is of the event's own failure, not of another record with its key."""
    if event.fingerprint != standing.fingerprint:
        return False
    return letter.code not in _RECORD_CODES or letter.code == standing.error_code


async def _last_number(connection: Connection) -> int:
    cursor = await connection.execute("select coalesce(max(number), 0) from headrace.dead_letter_records")
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def _standings(connection: Connection, letters: Sequence[Letter]) -> dict[UUID, _Standing]:
    ids = [letter.event_id for letter in letters if letter.event_id is not None]
    rows = await (await connection.execute(_STANDINGS, (ids,))).fetchall()
    return {id_: _Standing(status, code, fingerprint.bytes) for id_, status, code, fingerprint in rows}
