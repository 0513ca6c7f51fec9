"""The baseline of the processors: Faust as its own guide teaches it, made safe, and nothing of Headrace's.

A model, a table of what was seen, an agent that takes events one by one and inserts them by the batch. Safe: an event
is acknowledged after its insert (the guide's ``async for event in stream`` acknowledges before).
Run as ``python -m faust -A tests.bench.plain_faust worker``; ``BENCH_KAFKA``, ``BENCH_DATABASE_URL``, ``BENCH_TOPIC``,
``BENCH_FOLDER`` say with what.
"""

import asyncio
import json
import os
import uuid
from datetime import datetime
from typing import Any

import faust
import psycopg

from tests.bench.bed import PARTITIONS

_BATCH = 1_000
_FLUSH_S = 0.5

TABLE = """
create schema plain;
create table plain.events (
    id uuid primary key, program_id uuid not null, idempotency_key text not null, event_timestamp timestamptz not null,
    external_id text, event_data jsonb not null, status text not null, created_at timestamptz not null default now()
);
create index on plain.events (created_at);
"""

_INSERT = """
insert into plain.events (id, program_id, idempotency_key, event_timestamp, external_id, event_data, status)
values (%s, %s, %s, %s, %s, %s, 'COMPLETED') on conflict (id) do nothing
"""


class Event(faust.Record, serializer="json"):
    """An event, in the guide's way."""

    program_id: str
    idempotency_key: str
    event_timestamp: str
    event_data: dict[str, Any]
    external_id: str | None = None


app = faust.App(
    os.environ.get("BENCH_APP", "plain"),
    broker=f"kafka://{os.environ.get('BENCH_KAFKA', '127.0.0.1:9092')}",
    datadir=os.environ.get("BENCH_FOLDER", "plain-data"),
    store="memory://",
    topic_partitions=PARTITIONS,
    topic_replication_factor=1,
    consumer_auto_offset_reset="earliest",
    producer_acks=-1,
    web_enabled=False,
)
source = app.topic(os.environ.get("BENCH_TOPIC", "plain"), value_type=Event)
seen = app.Table("seen", default=bool, partitions=PARTITIONS)


class Writer:
    """Gathers rows, and inserts and acknowledges them together."""

    def __init__(self) -> None:
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._rows: list[tuple[Any, ...]] = []
        self._events: list[Any] = []
        self._flushing = asyncio.Lock()

    async def add(self, event: Any, row: tuple[Any, ...] | None) -> None:  # noqa: ANN401 - Faust's own
        """Add an event, with its row unless it is a duplicate."""
        self._events.append(event)
        if row is not None:
            self._rows.append(row)
        if len(self._events) >= _BATCH:
            await self.flush()

    async def flush(self) -> None:
        """Insert, commit, acknowledge."""
        async with self._flushing:
            rows, self._rows = self._rows, []
            events, self._events = self._events, []
            if rows:
                await self._insert(rows)
            for event in events:
                event.ack()

    async def _insert(self, rows: list[tuple[Any, ...]]) -> None:
        if self._connection is None:
            self._connection = await psycopg.AsyncConnection.connect(os.environ["BENCH_DATABASE_URL"])
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            await cursor.executemany(_INSERT, rows)


writer = Writer()


@app.agent(source)
async def process(stream: Any) -> None:  # noqa: ANN401 - Faust's own
    """Drop what the table has seen, write the rest."""
    async for event in stream.noack().events():
        value = event.value
        id_ = str(uuid.uuid5(uuid.UUID(value.program_id), value.idempotency_key))
        row = None
        if not seen[id_]:
            seen[id_] = True
            row = (
                id_,
                value.program_id,
                value.idempotency_key,
                datetime.fromisoformat(value.event_timestamp),
                value.external_id,
                json.dumps(value.event_data),
            )
        await writer.add(event, row)


@app.timer(interval=_FLUSH_S)  # type: ignore[untyped-decorator]  # Faust's own
async def flush() -> None:
    """Let the last, smaller batch not wait for ever."""
    await writer.flush()
