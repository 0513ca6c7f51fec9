"""A processor on the tests' Postgres, fed by hand: records made up, a dict as its table, a producer that remembers."""

import json
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import msgspec
import psycopg

from processors.ports import Context, Entries, Outgoing, Part, Record
from processors.processor import Processor
from schemas import topics
from schemas.settings import Settings
from tests import handlers_for_tests

LEDGER = "tests.handlers_for_tests:ledger"
ACT = "tests.handlers_for_tests:act"
WATCHING = "tests.handlers_for_tests:watching"
Headers = Sequence[tuple[str, bytes]]

PARTITIONS_FROM = 10_000
"""Partitions below this are real."""
WRITTEN_AT_MS = 1_700_000_000_000


def record(  # noqa: PLR0913 - a record has so many parts
    value: bytes | None,
    key: bytes | None,
    offset: int,
    *,
    partition: int = 0,
    topic: str = topics.EVENTS,
    headers: Headers = (),
    timestamp: int = WRITTEN_AT_MS,
) -> Record:
    """A record as it was consumed."""
    return Record(topic, partition, offset, timestamp, key, value, headers)


def payload(program_id: str, key: str, data: object = None, **fields: object) -> bytes:
    """An event's JSON."""
    event = {
        "program_id": program_id,
        "idempotency_key": key,
        "event_timestamp": "2024-01-15T10:30:00Z",
        "external_id": "user-1",
        "event_data": data or {},
    }
    return json.dumps(event | fields).encode()


class Remembering:
    """A producer whose records stay here."""

    def __init__(self) -> None:
        self.sent: dict[str, list[Outgoing]] = {}

    async def send_many(self, topic: str, records: Sequence[Outgoing]) -> None:
        self.sent.setdefault(topic, []).extend(records)

    def statuses(self) -> list[dict[str, Any]]:
        """The values told to ``events.status``."""
        return [json.loads(one.value or b"null") for one in self.sent.get(topics.STATUS, [])]

    def letters(self) -> list[Outgoing]:
        """What went to ``events.dlq``."""
        return self.sent.get(topics.DEAD_LETTERS, [])


class Partition:
    """A partition of a topic of its own, so that tests do not meet; its log grows by `put`."""

    def __init__(self) -> None:
        self.topic = f"events-{uuid.uuid4()}"
        self.number = PARTITIONS_FROM + uuid.uuid4().int % 2_000_000_000
        self.log: list[Record] = []

    def put(self, value: bytes | None, key: bytes | None, headers: Headers = ()) -> Record:
        """Append a record."""
        one = record(value, key, len(self.log), partition=self.number, topic=self.topic, headers=headers)
        self.log.append(one)
        return one

    def part(self, start: int = 0, end: int | None = None) -> Part:
        """A chunk of the log, all of it unless told otherwise."""
        end = len(self.log) if end is None else end
        return Part(self.topic, self.number, self.log[start:end], end)

    def put_events(self, program_id: str, datas: Iterable[dict[str, Any]]) -> list[uuid.UUID]:
        """Append an event per data; their ids."""
        ids = []
        for data in datas:
            key = f"k{len(self.log)}"
            self.put(payload(program_id, key, data), program_id.encode())
            ids.append(uuid.uuid5(uuid.UUID(program_id), key))
        return ids


class Bench:
    """A processor, with the dedupe table and the producer that it was given."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.producer = Remembering()
        self.table: dict[tuple[int, bytes], bytes] = {}
        self.beats = 0
        self.lookups = True

    def _lookup(self, partition: int, ids: Sequence[bytes]) -> list[bytes | None]:
        return [self.table.get((partition, id_)) if self.lookups else None for id_ in ids]

    def context(self) -> Context:
        """What the processor starts with."""

        def beat() -> None:
            self.beats += 1

        return Context(self._lookup, self.producer, beat)

    async def process(self, partition: Partition, records: Sequence[Record] | None = None) -> None:
        """Process a chunk, all of the log unless told otherwise, and keep what it brings for the table."""
        chunk = partition.log if records is None else records
        entries = await self.processor.process_chunk(partition.topic, partition.number, chunk)
        self.table.update({(partition.number, id_): value for id_, value in entries})

    async def process_bundle(self, *parts: Part) -> None:
        """Process chunks of several partitions together, and keep what they bring for the table."""
        committed = await self.processor.commit(await self.processor.read(parts))
        await self.processor.tell(committed)
        for partition, entries in committed.entries.items():
            self.table.update({(partition, id_): value for id_, value in entries})

    async def process_retries(self, partition: int, records: Sequence[Record]) -> None:
        """Process a chunk of the topic of retries."""
        assert await self.processor.process_chunk(topics.RETRY, partition, records) == []


class NoUpkeep:
    """Leaves the retries of the tests' other workers alone; remembers what was committed."""

    def __init__(self, *_: object) -> None:
        """Nothing was committed."""
        self.ids: list[bytes] = []

    def committed(self, entries: Entries) -> None:
        """End no claims."""
        self.ids += [id_ for kept in entries.values() for id_, _ in kept]

    async def start(self, _: Context) -> None:
        """Start nothing."""

    async def stop(self) -> None:
        """Stop nothing."""


@asynccontextmanager
async def bench(database_url: str, handlers: str = LEDGER, **settings: object) -> AsyncIterator[Bench]:
    """A started processor without upkeep."""
    given = {
        "database_url": database_url,
        "handlers": handlers,
        "database_pool_max": 2,
        "worker_id": "bench",
    } | settings
    with TemporaryDirectory() as folder:
        with mock.patch("processors.processor.Upkeep", NoUpkeep):
            made = Bench(Processor(msgspec.convert({"table_dir": folder} | given, Settings)))
        await made.processor.start(made.context())
        try:
            yield made
        finally:
            await made.processor.stop()


def forget_retries(database_url: str) -> None:
    """Leave no attempts to the workers of later tests."""
    rows(database_url, "delete from headrace.retries where kafka_partition >= %s", PARTITIONS_FROM)


def make_tables(database_url: str) -> None:
    """The tables that the tests' handlers write."""
    with psycopg.connect(database_url) as connection:
        connection.execute("select pg_advisory_xact_lock(77)")
        connection.execute(handlers_for_tests.SCHEMA)


def rows(database_url: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """What a query finds."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), values)
        return cursor.fetchall() if cursor.description else []


def ledger_of(database_url: str, program_id: str) -> list[uuid.UUID]:
    """The events of a program that have had an effect, in order of effect."""
    return [
        id_
        for (id_,) in rows(
            database_url, "select event_id from tests.ledger where program_id = %s order by number", program_id
        )
    ]


def statuses_of(database_url: str, program_id: str) -> dict[uuid.UUID, str]:
    """Each event's status."""
    found = rows(database_url, "select id, status::text from headrace.events where program_id = %s", program_id)
    return dict(found)
