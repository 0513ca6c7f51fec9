"""Events counted by program, hour and final status; one that is tried again moves."""

import asyncio
import uuid
from datetime import UTC, datetime

import psycopg
import pytest

from processors.handlers.rollups import rollups
from processors.handling import Finish, Job
from schemas.reader import EventReader
from tests.processors.lab import payload, rows

pytestmark = pytest.mark.anyio


def _job(program: str, timestamp: str, *, failed_before: bool = False) -> Job:
    event = EventReader(1_000).read(payload(program, str(uuid.uuid4()), event_timestamp=timestamp))
    return Job(event, 1, datetime.now(UTC), failed_before)


async def _finished(database_url: str, *finishes: tuple[Job, str]) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await rollups.finished([Finish(*one) for one in finishes], connection)


async def test_events_are_counted_by_the_utc_hour_of_their_own_time(database_url: str, program_id: str) -> None:
    times = ["2024-01-15T10:59:59.999999Z", "2024-01-15T10:00:00Z", "2024-01-15T12:30:00+02:00", "2024-01-15T11:00:00Z"]
    ends = ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]
    await _finished(database_url, *((_job(program_id, time), "COMPLETED") for time in times + ends))
    await _finished(database_url, (_job(program_id, times[0]), "FAILED"), (_job(program_id, times[1]), "COMPLETED"))
    found = rows(
        database_url,
        """select to_char(hour, 'YYYY-MM-DD HH24:MI:SS'), status::text, events from headrace.program_hourly
           where program_id = %s order by hour, status""",
        program_id,
    )
    assert found == [
        ("0001-01-01 00:00:00", "COMPLETED", 1),
        ("2024-01-15 10:00:00", "COMPLETED", 4),
        ("2024-01-15 10:00:00", "FAILED", 1),
        ("2024-01-15 11:00:00", "COMPLETED", 1),
        ("9999-12-31 23:00:00", "COMPLETED", 1),
    ]


async def test_an_event_tried_again_is_no_longer_counted_as_failed(database_url: str, program_id: str) -> None:
    time = "2024-01-15T10:30:00Z"
    await _finished(database_url, (_job(program_id, time), "FAILED"), (_job(program_id, time), "FAILED"))
    await _finished(database_url, (_job(program_id, time, failed_before=True), "COMPLETED"))
    query = "select status::text, events from headrace.program_hourly where program_id = %s order by status"
    assert rows(database_url, query, program_id) == [("COMPLETED", 1), ("FAILED", 1)]


async def test_events_taken_back_in_any_order_lock_in_one(database_url: str) -> None:
    programs = [str(uuid.uuid4()) for _ in range(50)]
    time = "2024-01-15T10:30:00Z"
    await _finished(database_url, *((_job(program, time), "FAILED") for program in programs for _ in range(20)))
    again = [(_job(program, time, failed_before=True), "COMPLETED") for program in programs]
    await asyncio.gather(*(_finished(database_url, *again[:: 1 - 2 * (n % 2)]) for n in range(20)))
    query = "select status::text, sum(events)::int from headrace.program_hourly where program_id = any(%s) group by 1"
    assert dict(rows(database_url, query, programs)) == {"COMPLETED": 1_000, "FAILED": 0}
