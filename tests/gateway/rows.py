"""Rows for the tests: events, claims and keys, put into Postgres as the other processes would."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from schemas.keys import new_key

# As the migration has it: whoever has lost the table of fresh spans knows nothing of the newest events.
WHOLE = "insert into pg_temp.fresh_spans values ('-infinity', 0, '-infinity', '-infinity', 0)"
T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@contextmanager
def copies(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection with empty copies of the lists' tables, indexes included: other tests' events stay out of them."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("set timezone = 'UTC'")
        for table in ("events", "spans", "fresh_spans"):
            connection.execute(f"create temporary table {table} (like headrace.{table} including all)".encode())
        connection.execute(WHOLE.encode())
        yield connection


def event_row(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any column's value
    """A completed event's columns."""
    row: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "program_id": str(uuid.uuid4()),
        "idempotency_key": uuid.uuid4().hex,
        "fingerprint": str(uuid.uuid4()),
        "event_timestamp": T0,
        "external_id": "user_1",
        "participant_id": None,
        "recipient_external_id": None,
        "recipient_id": None,
        "event_data": "{}",
        "status": "COMPLETED",
        "event_type": "EXTERNAL",
        "error_code": None,
        "error_message": None,
        "attempts": 1,
        "duplicate_count": 0,
        "conflicts": None,
        "result": None,
        "received_at": T0,
        "created_at": T0 + timedelta(seconds=1),
        "updated_at": T0 + timedelta(seconds=2),
        "processed_at": T0 + timedelta(seconds=2),
        "kafka_partition": 0,
        "kafka_offset": 0,
        "counted_offset": 0,
    }
    unknown = set(changes) - set(row)
    assert not unknown, unknown
    return row | changes


def insert_events(url: str, rows: Sequence[dict[str, Any]]) -> None:
    """Put events into their table."""
    columns = list(rows[0])
    statement = sql.SQL("insert into headrace.events ({}) values ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(sql.Placeholder() * len(columns))
    )
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.executemany(statement, [[row[column] for column in columns] for row in rows])


def insert_claim(url: str, event_id: str, record: bytes, claimed_at: datetime | None = None) -> None:
    """Put a claim into its table; one of long ago would be freed by any worker that runs."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into headrace.claims (id, fingerprint, kafka_partition, claimed_at, record)"
            " values (%s, %s, 0, %s, %s)",
            (event_id, uuid.uuid4(), claimed_at or datetime.now(UTC), record),
        )


def insert_key(
    url: str,
    scopes: Sequence[str] = ("read",),
    *,
    programs: Sequence[str] | None = None,
    expires_at: datetime | None = None,
    name: str = "test",
) -> str:
    """Make a key; returns its text."""
    text, sha256 = new_key()
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into headrace.api_keys (key_sha256, name, scopes, program_ids, expires_at)"
            " values (%s, %s, %s, %s::uuid[], %s)",
            (sha256, name, list(scopes), None if programs is None else list(programs), expires_at),
        )
    return text


def execute(url: str, statement: str, params: Sequence[Any] = ()) -> None:
    """Run any statement."""
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode(), params)
