"""Every column of an event's row comes back from Postgres as it went in, at the ends of what it can hold too."""

import asyncio
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors import rows as rows_module
from processors import store
from processors.database import is_transient
from processors.records import EXTERNAL, SYSTEM, arrived
from processors.rows import COLUMNS, Row, encode_rows
from schemas.reader import EventReader
from tests.conftest import own_database
from tests.processors.lab import record, rows

READER = EventReader(4_000_000)
FIRST = datetime(1, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
LARGEST = 2**63 - 1

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=255)
times = st.datetimes(datetime(1, 1, 1), LAST.replace(tzinfo=None), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
numbers = st.one_of(
    st.integers(-(10**3_000), 10**3_000),
    st.decimals(allow_nan=False, allow_infinity=False, places=30, min_value=-(10**20), max_value=10**20),
    st.sampled_from([Decimal("1e-3000"), Decimal("-1.5e-2999"), Decimal("1e3000")]),
)
data = st.dictionaries(
    text, st.recursive(st.none() | st.booleans() | numbers | text, st.lists, max_leaves=6), max_size=4
)
made_json = st.one_of(st.none(), st.lists(text, max_size=3).map(lambda value: json.dumps(value).encode()))


def _spelled(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_spelled(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spelled, value)) + "]"
    return str(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else json.dumps(value)


@st.composite
def made_rows(draw: st.DrawFn) -> Row:
    who = draw(st.sampled_from(["external_id", "participant_id", "both"]))
    fields: dict[str, Any] = {
        "program_id": str(uuid.uuid4()),
        "idempotency_key": draw(names),
        "event_timestamp": draw(times).isoformat(),
        "event_data": draw(data),
    }
    if who != "participant_id":
        fields["external_id"] = draw(names)
    if who != "external_id":
        fields["participant_id"] = str(draw(st.uuids()))
    fields["recipient_external_id"] = draw(st.none() | names)
    fields["recipient_id"] = draw(st.none() | st.uuids().map(str))
    event = READER.read(_spelled(fields).encode())
    offset = draw(st.integers(0, LARGEST))
    final = draw(st.booleans())
    stood = record(b"", None, offset, partition=draw(st.integers(0, 2**31 - 1)))
    return Row(
        arrived(event, stood, draw(times), draw(st.sampled_from([EXTERNAL, SYSTEM]))),
        draw(st.sampled_from(["COMPLETED", "FAILED"])) if final else "PROCESSING",
        final,
        draw(st.integers(0, LARGEST)),
        draw(st.integers(0, 2**31 - 1)),
        draw(made_json),
        draw(st.none() | text),
        draw(st.none() | text),
        draw(made_json),
    )


def _expected(row: Row, now: datetime) -> dict[str, Any]:
    event = row.arrival.event
    return {
        "id": uuid.UUID(bytes=event.id),
        "program_id": uuid.UUID(event.program.text),
        "fingerprint": uuid.UUID(bytes=event.fingerprint),
        "event_type": row.arrival.event_type,
        "event_timestamp": _micros(event.timestamp),
        "received_at": _micros(row.arrival.received_at),
        "idempotency_key": event.idempotency_key,
        "event_data": event.event_data,
        "external_id": event.external_id,
        "participant_id": event.participant_id and uuid.UUID(event.participant_id),
        "recipient_external_id": event.recipient_external_id,
        "recipient_id": event.recipient_id and uuid.UUID(event.recipient_id),
        "status": row.status,
        "attempts": 1,
        "duplicate_count": row.duplicates,
        "conflicts": row.conflicts and json.loads(row.conflicts),
        "error_code": row.error_code,
        "error_message": row.error_message,
        "result": row.result and json.loads(row.result),
        "updated_at": _micros(now),
        "processed_at": _micros(now) if row.final else None,
        "kafka_partition": row.arrival.record.partition,
        "kafka_offset": row.arrival.offset,
        "counted_offset": row.counted_offset,
    }


def _micros(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


_TIMES = {"event_timestamp", "received_at", "created_at", "updated_at", "processed_at"}
_JSON = {"event_data", "conflicts", "result"}


def _selected(column: str) -> str:
    if column in _TIMES:
        return f"(extract(epoch from {column}) * 1000000)::bigint"
    return f"{column}::text" if column in _JSON or column in {"status", "event_type"} else column


def _read(value: str | None, column: str) -> object:
    if column not in _JSON or value is None:
        return value
    return json.loads(value, parse_float=Decimal)


# Of this transaction: the events; those that lie within a fresh span; and whether no fresh span is wider than need be.
_TOLD = """
with made as (select * from headrace.events where xmin = pg_current_xact_id()::xid),
told as (select * from headrace.fresh_spans where xmin = pg_current_xact_id()::xid)
select count(*), (
    select count(*) from made join told on created_at >= created_from and created_at < created_from + interval '250 ms'
    and event_timestamp between event_min and event_max
), (min(event_timestamp), max(event_timestamp), count(*)) =
   all (select event_min, event_max, events from told) from made
"""


async def _round_trip(database_url: str, made: Sequence[Row], now: datetime) -> list[dict[str, Any]]:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        async with store.inserting_events(connection, made, now):
            pass
        query = f"select {', '.join(map(_selected, COLUMNS))} from headrace.events where id = any(%s::uuid[])"  # noqa: S608 - of names
        cursor = await connection.execute(query, (store.uuid_array(row.arrival.event.id for row in made),))
        found = await cursor.fetchall()
        cursor = await connection.execute(_TOLD)
        assert await cursor.fetchone() == (len(made), len(made), True)
        await connection.rollback()
    read: list[dict[str, Any]] = [
        {name: _read(value, name) for name, value in zip(COLUMNS, row, strict=True)} for row in found
    ]
    # One after the other, the last one now.
    created = sorted(row.pop("created_at") for row in read)
    assert created == list(range(_micros(now) - len(made) + 1, _micros(now) + 1))
    return read


def test_every_column_comes_back_as_it_went_in(database_url: str) -> None:
    @given(st.lists(made_rows(), min_size=1, max_size=5), times | st.sampled_from([FIRST, LAST]))
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def run(made: list[Row], now: datetime) -> None:
        found = asyncio.run(_round_trip(database_url, made, now))
        expected = [_expected(row, now) for row in made]
        assert sorted(found, key=lambda row: row["id"].bytes) == sorted(expected, key=lambda row: row["id"].bytes)

    with mock.patch.object(rows_module, "_ROWS_A_PIECE", 2):  # so that most streams have several pieces
        run()


@pytest.mark.parametrize(
    "older",
    [
        "drop function headrace.note_fresh",
        "drop trigger events_untold on headrace.events; drop table headrace.fresh_spans",
        "revoke all on headrace.fresh_spans from current_user",
    ],
)
def test_an_older_database_is_waited_for_and_no_event_is_to_blame(database_url: str, older: str) -> None:
    fields = {"program_id": str(uuid.uuid4()), "idempotency_key": "k", "external_id": "u", "event_data": {}}
    event = READER.read(json.dumps(fields | {"event_timestamp": LAST.isoformat()}).encode())
    made = Row(arrived(event, record(b"", None, 1), LAST, SYSTEM), "COMPLETED", final=True, counted_offset=1)

    async def insert() -> None:
        async with await psycopg.AsyncConnection.connect(own_database(database_url)) as connection:
            await connection.execute(older.encode())
            async with store.inserting_events(connection, [made], LAST):
                pass

    with pytest.raises(store.NotMigratedError, match="headrace migrate") as caught:
        asyncio.run(insert())
    assert is_transient(caught.value)


def test_the_ends_of_what_a_row_can_hold(database_url: str) -> None:
    program = uuid.uuid4()
    longest = "😀" * 255
    rest = f'"event_data":{{"n":{"9" * 3_999},"m":1e-3999,"long":"{"ä" * 1_000_000}","":""}}'
    made = []
    for at, (instant, key, external) in enumerate([(FIRST, longest, longest), (LAST, "x", '"\\\n\t\x01\x7f')]):
        fields = {"program_id": str(program), "idempotency_key": key, "external_id": external}
        fields["event_timestamp"] = instant.isoformat()
        event = READER.read((json.dumps(fields)[:-1] + "," + rest + "}").encode())
        arrival = arrived(event, record(b"", None, LARGEST, partition=2**31 - 1), instant, SYSTEM)
        made.append(Row(arrival, "COMPLETED", final=True, counted_offset=LARGEST - at))
    found = asyncio.run(_round_trip(database_url, made, LAST))
    by_key = {row["idempotency_key"]: row for row in found}
    for row in made:
        name = row.arrival.event.idempotency_key
        assert by_key[name] == _expected(row, LAST)
    assert by_key["x"]["event_data"]["n"] == 10**3_999 - 1


def test_the_statement_names_every_column_of_the_table(database_url: str) -> None:
    found = rows(
        database_url,
        """select column_name from information_schema.columns
           where table_schema = 'headrace' and table_name = 'events' and column_default is null
             and is_generated = 'NEVER'""",
    )
    assert {name for (name,) in found} <= set(COLUMNS)


def test_nothing_to_write_is_an_empty_stream() -> None:
    assert b"".join(encode_rows([], LAST)) == rows_module.HEADER + rows_module.TRAILER
