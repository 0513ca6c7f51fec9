"""What is found at the end of a round: in Kafka, in Postgres. Plain values, so that the checker can be tested alone."""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import psycopg

from schemas import topics
from tests.chaos.kafka_view import Ends, KafkaView, LogRecord

_TOPICS = (topics.EVENTS, topics.RETRY)


class Row(NamedTuple):
    """A row of ``headrace.events``. `fields` are those that a producer sends."""

    id: str
    fields: dict[str, Any]
    status: str
    event_type: str
    error_code: str | None
    attempts: int
    duplicates: int
    conflicts: int
    offset: int


class Entry(NamedTuple):
    """A line of the ledger."""

    number: int
    event_id: str
    program_id: str
    account: str
    cents: int
    attempt: int


class Letter(NamedTuple):
    """A dead letter, in Postgres or in the topic: which record, and why."""

    topic: str
    partition: int
    offset: int
    code: str


class Position(NamedTuple):
    """How far a partition's processing is, by the group's commits and by Postgres, and where the partition ends."""

    topic: str
    partition: int
    committed: int
    processed: int
    end: int


class Evidence(NamedTuple):
    """Everything that the checker looks at. Records and letters are those of this round."""

    records: Sequence[LogRecord]
    statuses: Sequence[LogRecord]
    dead_records: Sequence[LogRecord]
    positions: Sequence[Position]
    rows: Sequence[Row]
    rows_of_others: int
    """Rows that appeared for programs that this round did not use."""
    entries: Sequence[Entry]
    letters: Sequence[Letter]
    unfinished: Sequence[tuple[str, str]]
    """Event id and status of what has no final status."""
    retries: Sequence[str]
    claims: Sequence[str]
    """Ids that are claimed and have no event."""
    hourly: dict[tuple[str, str], int]
    """Events by program and status, from the roll-ups."""


class Marks(NamedTuple):
    """Where everything stood when the round began."""

    ends: dict[str, Ends]
    rows: int
    entry: int
    letter: int


def marks(kafka: KafkaView, database_url: str) -> Marks:
    """Where everything stands now."""
    ends = {topic: kafka.ends(topic) for topic in (topics.EVENTS, topics.STATUS, topics.DEAD_LETTERS)}
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            """select (select count(*) from headrace.events), (select coalesce(max(number), 0) from chaos.ledger),
                      (select coalesce(max(number), 0) from headrace.dead_letter_records)"""
        ).fetchone()
    assert row is not None
    return Marks(ends, *row)


def positions(kafka: KafkaView, database_url: str, group: str) -> list[Position]:
    """How far the processing of each partition is."""
    committed = kafka.committed(group, _TOPICS)
    with psycopg.connect(database_url, connect_timeout=5) as connection:
        rows = connection.execute("select topic, kafka_partition, next_offset from headrace.progress").fetchall()
    processed = {(topic, partition): offset for topic, partition, offset in rows}
    return [
        Position(topic, partition, committed.get((topic, partition), 0), processed.get((topic, partition), 0), end)
        for topic in _TOPICS
        for partition, end in kafka.ends(topic).items()
    ]


def gather(kafka: KafkaView, database_url: str, group: str, programs: Sequence[str], since: Marks) -> Evidence:
    """Everything that a round with these `programs` has left."""
    found = {topic: kafka.read(topic, start, kafka.ends(topic)) for topic, start in since.ends.items()}
    with psycopg.connect(database_url, connect_timeout=5) as connection:
        rows = _rows(connection, programs)
        return Evidence(
            found[topics.EVENTS],
            found[topics.STATUS],
            found[topics.DEAD_LETTERS],
            positions(kafka, database_url, group),
            rows,
            _one(connection, "select count(*) from headrace.events") - since.rows - len(rows),
            _entries(connection, since.entry),
            _letters(connection, since.letter),
            _all(
                connection,
                "select id::text, status::text from headrace.events where status not in ('COMPLETED', 'FAILED')",
            ),
            [row[0] for row in _all(connection, "select id::text from headrace.retries")],
            [
                row[0]
                for row in _all(
                    connection,
                    """select id::text from headrace.claims c
                       where not exists (select from headrace.events e where e.id = c.id)""",
                )
            ],
            _hourly(connection, programs),
        )


def _all(connection: psycopg.Connection, query: str, *parameters: Any) -> list[Any]:  # noqa: ANN401 - any value
    return connection.execute(query.encode(), parameters).fetchall()


def _one(connection: psycopg.Connection, query: str) -> int:
    ((value,),) = _all(connection, query)
    return int(value)


def _rows(connection: psycopg.Connection, programs: Sequence[str]) -> list[Row]:
    found = _all(
        connection,
        """select id::text, program_id::text, idempotency_key, event_timestamp, external_id, participant_id::text,
                  recipient_external_id, event_data::text, status::text, event_type::text, error_code, attempts,
                  duplicate_count, coalesce(jsonb_array_length(conflicts), 0), kafka_offset
           from headrace.events where program_id = any(%s::uuid[])""",
        list(programs),
    )
    names = ("program_id", "idempotency_key", "event_timestamp", "external_id", "participant_id")
    rows = []
    for id_, *sent, recipient, data, status, kind, code, attempts, duplicates, conflicts, offset in found:
        fields = dict(zip((*names, "recipient_external_id"), (*sent, recipient), strict=True))
        fields = {name: value for name, value in fields.items() if value is not None}
        fields["event_data"] = json.loads(data, parse_float=Decimal)
        rows.append(Row(id_, fields, status, kind, code, attempts, duplicates, conflicts, offset))
    return rows


def _entries(connection: psycopg.Connection, after: int) -> list[Entry]:
    query = """select number, event_id::text, program_id::text, account, cents, attempt
               from chaos.ledger where number > %s order by number"""
    return [Entry(*row) for row in _all(connection, query, after)]


def _letters(connection: psycopg.Connection, after: int) -> list[Letter]:
    query = "select topic, kafka_partition, kafka_offset, code from headrace.dead_letter_records where number > %s"
    return [Letter(*row) for row in _all(connection, query, after)]


def _hourly(connection: psycopg.Connection, programs: Sequence[str]) -> dict[tuple[str, str], int]:
    query = """select program_id::text, status::text, sum(events)::bigint from headrace.hourly
               where program_id = any(%s::uuid[]) group by 1, 2 having sum(events) <> 0"""
    return {(program, status): events for program, status, events in _all(connection, query, list(programs))}
