"""Attempts aside: when, how often, counted once whatever is sent or read twice, and nobody else's records."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from processors.handling import Job
from processors.ports import Record
from processors.runner import Outcome
from schemas import topics
from tests import handlers_for_tests
from tests.processors.lab import (
    ACT,
    LEDGER,
    WATCHING,
    Bench,
    Partition,
    bench,
    ledger_of,
    payload,
    record,
    rows,
    statuses_of,
)

pytestmark = pytest.mark.anyio

BOTH = f"{LEDGER},{ACT}"
FAILING = {"do": "raise"}
EXACT = timedelta(milliseconds=10)


class Retry:
    """What waits for its next attempt."""

    def __init__(self, database_url: str, program_id: str, partition: Partition) -> None:
        self.database_url = database_url
        self.program_id = program_id
        self.partition = partition
        self.log: list[Record] = []

    def planned(self) -> list[tuple[int, datetime, bytes]]:
        """Attempt, time and record of each event of the program that waits, in order of their ids."""
        query = "select attempt, not_before, record from headrace.retries where program_id = %s order by id"
        return rows(self.database_url, query, self.program_id)

    def put(self, value: bytes, attempt: bytes | int | None) -> Record:
        """A record of the topic of retries."""
        text = attempt if isinstance(attempt, bytes) else str(attempt).encode()
        headers = [] if attempt is None else [("attempt", text), ("not-before", b"2024-01-01T00:00:00Z")]
        one = record(
            value,
            self.program_id.encode(),
            len(self.log),
            partition=self.partition.number,
            topic=topics.RETRY,
            headers=headers,
        )
        self.log.append(one)
        return one

    def put_planned(self) -> list[Record]:
        """The records that the upkeep sends for what waits."""
        return [self.put(value, attempt) for attempt, _, value in self.planned()]

    async def process(self, lab: Bench, records: Sequence[Record]) -> None:
        await lab.process_retries(self.partition.number, records)

    def event(self) -> tuple[Any, ...]:
        """Status, attempts and error of the program's one event."""
        query = "select status::text, attempts, error_code, error_message from headrace.events where program_id = %s"
        (row,) = rows(self.database_url, query, self.program_id)
        return row

    def letters(self) -> list[tuple[Any, ...]]:
        """The program's dead letters."""
        query = "select code, topic, kafka_offset from headrace.dead_letters where program_id = %s order by number"
        return rows(self.database_url, query, self.program_id)


async def _failed_once(lab: Bench, database_url: str, program_id: str, data: dict[str, Any]) -> Retry:
    partition = Partition()
    partition.put_events(program_id, [data])
    await lab.process(partition)
    return Retry(database_url, program_id, partition)


async def test_five_further_attempts_at_growing_delays_then_failed(tables: str, program_id: str) -> None:
    async with bench(tables, f"{BOTH},{WATCHING}") as lab:
        begun = datetime.now(UTC)
        retry = await _failed_once(lab, tables, program_id, FAILING)
        for attempt, delay_s in enumerate([2, 4, 8, 16, 32], start=2):
            ended, delay = datetime.now(UTC), timedelta(seconds=delay_s)
            ((planned, not_before, _),) = retry.planned()
            assert planned == attempt
            assert begun + delay - EXACT <= not_before <= ended + delay + EXACT
            assert retry.event() == ("PROCESSING", attempt - 1, "handler_failed", "ValueError: told to raise")
            begun = datetime.now(UTC)
            await retry.process(lab, retry.put_planned())
        assert retry.planned() == []
        assert retry.event() == ("FAILED", 6, "handler_failed", "ValueError: told to raise")
        assert retry.letters() == [("handler_failed", topics.RETRY, 4)]
        assert [(status["status"], status["error_code"]) for status in lab.producer.statuses()] == [
            ("FAILED", "handler_failed")
        ]
        (letter,) = lab.producer.letters()
    assert (letter.key, letter.value) == (program_id.encode(), retry.log[4].value)
    assert ledger_of(tables, program_id) == []
    (id_,) = statuses_of(tables, program_id)
    assert rows(tables, "select status from tests.finished where event_id = %s", id_) == [("FAILED",)]


async def test_an_attempt_that_succeeds_has_its_effect_once_however_often_it_is_read(
    tables: str, program_id: str
) -> None:
    async with bench(tables, BOTH) as lab:
        retry = await _failed_once(lab, tables, program_id, {"do": "until", "attempt": 3})
        second = retry.put_planned() * 2
        await retry.process(lab, second)
        third = retry.put_planned()
        await retry.process(lab, [*second, *third])
        await retry.process(lab, [*second, *third])
        await retry.process(lab, third)
        assert retry.event() == ("COMPLETED", 3, None, None)
        assert retry.planned() == []
        told = {(status["id"], status["status"]) for status in lab.producer.statuses()}
    (id_,) = statuses_of(tables, program_id)
    assert ledger_of(tables, program_id) == [id_]
    assert told == {(str(id_), "COMPLETED")}
    assert retry.letters() == []


async def test_the_attempts_of_a_replayed_chunk_are_made_in_one_go(tables: str, program_id: str) -> None:
    """After a crash the log holds attempts 2 and 3: 2 is done, and 3 must not wait for being sent again."""
    async with bench(tables, BOTH) as lab:
        retry = await _failed_once(lab, tables, program_id, {"do": "until", "attempt": 3})
        await retry.process(lab, retry.put_planned())
        retry.put_planned()
        await retry.process(lab, retry.log)
    assert retry.event()[:2] == ("COMPLETED", 3)


async def test_repeats_of_an_event_that_waits_are_counted_and_change_nothing_else(tables: str, program_id: str) -> None:
    async with bench(tables, BOTH) as lab:
        retry = await _failed_once(lab, tables, program_id, {"do": "until", "attempt": 2})
        partition = retry.partition
        partition.put(payload(program_id, "k0", {"do": "until", "attempt": 2}), program_id.encode())
        partition.put(payload(program_id, "k0", {"other": 1}), program_id.encode())
        await lab.process(partition, partition.log[1:])
        assert retry.event()[:2] == ("PROCESSING", 1)
        await retry.process(lab, retry.put_planned())
        await lab.process(partition)
    query = """select status::text, duplicate_count, jsonb_array_length(conflicts), event_data from headrace.events
               where program_id = %s"""
    assert rows(tables, query, program_id) == [("COMPLETED", 1, 1, {"do": "until", "attempt": 2})]
    assert len(ledger_of(tables, program_id)) == 1
    assert retry.letters() == [("idempotency_conflict", partition.topic, 2)]


async def test_forged_records_are_dead_letters_and_have_no_effect(tables: str, program_id: str) -> None:
    async with bench(tables, BOTH) as lab:
        retry = await _failed_once(lab, tables, program_id, FAILING)
        ((_, _, real),) = retry.planned()
        forged = [
            (payload(program_id, "nobody's"), 2),
            (payload(program_id, "k0", {"other": "payload"}), 2),
            (real, 3),
            (real, 999_999_999),
            (real, None),
            (real, b""),
            (real, b"-1"),
            (real, b"2.0"),
            (real, b"9" * 5_000),
        ]
        for value, attempt in forged:
            retry.put(value, attempt)
        unreadable = record(b"{", None, len(retry.log), partition=retry.partition.number, topic=topics.RETRY)
        await asyncio.wait_for(retry.process(lab, [*retry.log, unreadable]), 20)
        await retry.process(lab, retry.log)
    assert retry.event()[:2] == ("PROCESSING", 1)
    assert sorted(retry.letters()) == [("unknown_retry", topics.RETRY, at) for at in range(len(forged))]
    assert [attempt for attempt, *_ in retry.planned()] == [2]
    assert len(statuses_of(tables, program_id)) == 1
    codes = [dict(letter.headers)["code"] for letter in lab.producer.letters()]
    assert set(codes) == {b"unknown_retry", b"unreadable_record"}


async def test_two_workers_make_an_attempt_once(tables: str, program_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zombie has run the handlers and not yet committed when its successor does the same."""
    async with bench(tables, BOTH) as zombie, bench(tables, BOTH) as successor:
        retry = await _failed_once(successor, tables, program_id, {"do": "until", "attempt": 2})
        records = retry.put_planned()
        handled, go_on = asyncio.Event(), asyncio.Event()
        met_before = handlers_for_tests.met["until"]
        runner = zombie.processor._runner  # noqa: SLF001 - where a pause fits between handlers and rows
        run = runner.run

        async def slow(jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[Outcome]:
            outcomes = await run(jobs, connection)
            handled.set()
            await go_on.wait()
            return outcomes

        monkeypatch.setattr(runner, "run", slow)
        frozen = asyncio.create_task(retry.process(zombie, records))
        await handled.wait()
        await retry.process(successor, records)
        go_on.set()
        await frozen
    assert handlers_for_tests.met["until"] - met_before == 2
    assert retry.event()[:2] == ("COMPLETED", 2)
    assert len(ledger_of(tables, program_id)) == 1


async def test_one_bad_attempt_costs_the_others_nothing(tables: str, program_id: str) -> None:
    fine: dict[str, Any] = {"do": "until", "attempt": 2}
    partition = Partition()
    ids = partition.put_events(program_id, [fine, {"do": "late"}, fine, {"do": "nul"}, fine])
    async with bench(tables, BOTH) as lab:
        await lab.process(partition)
        retry = Retry(tables, program_id, partition)
        await asyncio.wait_for(retry.process(lab, retry.put_planned()), 20)
        again = retry.planned()
    statuses = statuses_of(tables, program_id)
    assert [statuses[id_] for id_ in ids] == ["COMPLETED", "PROCESSING", "COMPLETED", "PROCESSING", "COMPLETED"]
    assert [attempt for attempt, *_ in again] == [3, 3]
    assert sorted(ledger_of(tables, program_id)) == sorted([ids[0], ids[2], ids[4]])


async def test_an_event_asked_for_again_starts_anew(tables: str, program_id: str) -> None:
    """As ``POST /v1/events/{id}/retry`` plans it; a record of the first count that is read again is no forgery."""

    async def until_failed() -> None:
        while retry.planned():
            await retry.process(lab, retry.put_planned())
        assert retry.event()[:2] == ("FAILED", 6)
        assert rows(tables, counted, program_id) == [("FAILED", 1)]

    counted = "select status::text, events from headrace.program_hourly where program_id = %s and events > 0"
    async with bench(tables, f"{BOTH},processors.handlers.rollups:rollups") as lab:
        retry = await _failed_once(lab, tables, program_id, FAILING)
        ((_, _, real),) = retry.planned()
        await until_failed()
        rows(
            tables,
            """update headrace.events set status = 'PENDING', attempts = 0, failed_before = true, error_code = null,
                      error_message = null, processed_at = null where program_id = %s""",
            program_id,
        )
        await retry.process(lab, retry.log)
        assert retry.event() == ("PENDING", 0, None, None)
        await retry.process(lab, [retry.put(real, 1)])
        assert retry.event()[:2] == ("PROCESSING", 1)
        assert [attempt for attempt, *_ in retry.planned()] == [2]
        await until_failed()
    assert {code for code, *_ in retry.letters()} == {"handler_failed"}


async def test_attempts_know_when_the_event_was_received(
    tables: str, program_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, datetime, uuid.UUID]] = []

    async def note(jobs: Sequence[Job], _: object) -> list[Exception | None]:
        seen.extend((job.attempt, job.received_at, job.id) for job in jobs)
        return [None if job.attempt > 1 else ValueError("again") for job in jobs]

    monkeypatch.setattr(handlers_for_tests, "note", note, raising=False)
    partition = Partition()
    headers = [("received-at", b"2024-01-15T10:30:00.123Z")]
    partition.put(payload(program_id, "k0"), program_id.encode(), headers=headers)
    async with bench(tables, "tests.handlers_for_tests:note") as lab:
        await lab.process(partition)
        retry = Retry(tables, program_id, partition)
        await retry.process(lab, retry.put_planned())
    received_at = datetime(2024, 1, 15, 10, 30, 0, 123_000, tzinfo=UTC)
    id_ = uuid.uuid5(uuid.UUID(program_id), "k0")
    assert seen == [(1, received_at, id_), (2, received_at, id_)]
