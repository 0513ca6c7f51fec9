"""Dead letters for the tests: events that fail, and records that no event can be read from."""

import asyncio
import json
import urllib.request
import uuid
from typing import Any, NamedTuple

import psycopg
from aiokafka import AIOKafkaProducer
from psycopg.rows import dict_row

from schemas import topics
from tests.stack import Stack, wait_until

HANDLERS = "tests.deploy.failing_handler:handle"

Headers = list[tuple[str, bytes]]


class Record(NamedTuple):
    """A record to publish."""

    key: bytes | None
    value: bytes | None
    headers: Headers = []  # noqa: RUF012 - never changed


def event(program_id: str, key: str, **data: object) -> dict[str, Any]:
    """An event as producers send it."""
    return {
        "program_id": program_id,
        "idempotency_key": key,
        "event_timestamp": "2026-01-01T00:00:00Z",
        "external_id": "somebody",
        "event_data": data,
    }


def post(stack: Stack, path: str, body: object) -> dict[str, Any]:
    """POST to the stack's gateway; the answer."""
    request = urllib.request.Request(f"{stack.url}{path}", json.dumps(body).encode(), stack.headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310 - the tests' own gateway
        answer: dict[str, Any] = json.loads(response.read())
        return answer


def publish(kafka: str, *records: Record) -> None:
    """Put records into the topic of events, in order."""

    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka, max_request_size=4_000_000) as producer:
            for record in records:
                await producer.send_and_wait(topics.EVENTS, record.value, record.key, headers=record.headers)

    asyncio.run(send())


def rows(url: str, query: str, *values: object) -> list[dict[str, Any]]:
    """What Postgres answers."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query.encode(), values).fetchall()


def letters(url: str, program_id: str) -> list[dict[str, Any]]:
    """The dead letters of a program, the oldest first."""
    return rows(url, "select * from headrace.dead_letter_records where program_id = %s order by number", program_id)


def last_number(url: str) -> int:
    """The number of the latest dead letter."""
    return int(rows(url, "select coalesce(max(number), 0) as n from headrace.dead_letter_records")[0]["n"])


def unreadable_since(url: str, number: int) -> list[dict[str, Any]]:
    """The dead letters after that one which no event was read from; those of events may come late."""
    query = """select * from headrace.dead_letter_records
               where number > %s and code = 'unreadable_record' order by number"""
    return rows(url, query, number)


def stored(url: str, event_id: str) -> dict[str, Any]:
    """An event's row; empty before there is one."""
    found = rows(url, "select * from headrace.events where id = %s", event_id)
    return found[0] if found else {}


def await_status(url: str, event_id: str, status: str) -> dict[str, Any]:
    """The event's row, once it has that status."""
    wait_until(lambda: stored(url, event_id).get("status") == status, f"{event_id} is {status}", 20)
    return stored(url, event_id)


def failed_event(stack: Stack, program_id: str, key: str, **data: object) -> str:
    """An event that a handler has refused; its id."""
    event_id = str(uuid.uuid5(uuid.UUID(program_id), key))
    assert post(stack, "/v1/events", event(program_id, key, reject=True, **data))["id"] == event_id
    await_status(stack.database_url, event_id, "FAILED")
    return event_id
