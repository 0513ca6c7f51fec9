"""The main job, whole: events through both doors, a worker restarted, and every row as the contract says."""

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from schemas import topics
from tests.conftest import PARTITIONS
from tests.model import Sent, Stored, model
from tests.stack import Stack, wait_until
from tests.traffic import Traffic

HTTP_EVENTS = 5_000
KAFKA_EVENTS = 1_000
SENDERS = 4
SEED = 20_240_115


def _batches(sends: Sequence[Sent], rng: random.Random) -> Iterator[Sequence[Sent]]:
    at = 0
    while at < len(sends):
        size = rng.choice([1, 2, 7, 30, 100])
        yield sends[at : at + size]
        at += size


def _post(stack: Stack, sends: Sequence[Sent], seed: int) -> list[tuple[Sent, dict[str, Any]]]:
    """Send one sender's events in mixed batches, one after the other; each with its answer."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    traffic = Traffic(seed, [], "http")
    answered: list[tuple[Sent, dict[str, Any]]] = []
    with httpx.Client(headers=stack.headers, timeout=30) as client:
        for batch in _batches(sends, rng):
            body = '{"events":[' + ",".join(traffic.spell(sent.payload) for sent in batch) + "]}"
            response = client.post(f"{stack.url}/v1/events/batch", content=body.encode())
            assert response.status_code == 200, response.text
            answer = response.json()
            assert answer["total"] == len(batch) == answer["success_count"] + answer["error_count"]
            assert [result["index"] for result in answer["results"]] == list(range(len(batch)))
            answered += zip(batch, answer["results"], strict=True)
    return answered


async def _publish(kafka: str, sends: Sequence[Sent], seed: int) -> None:
    """Publish as any service would: a key, a JSON value, nothing else."""
    traffic = Traffic(seed, [], "kafka")
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
        for sent in sends:
            key, value = str(sent.payload["program_id"]).encode(), traffic.spell(sent.payload).encode()
            await producer.send(topics.EVENTS, key=key, value=value)


def _event_rows(stack: Stack, programs: Sequence[str]) -> dict[tuple[object, object], dict[str, Any]]:
    with psycopg.connect(stack.database_url) as connection:
        cursor = connection.execute(
            "select *, event_data::text as data_text from headrace.event_status where program_id = any(%s::uuid[])",
            (list(programs),),
        )
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    return {(str(row["program_id"]), row["idempotency_key"]): row for row in rows}


def _all_counted(stack: Stack, programs: Sequence[str], expected: dict[tuple[object, object], Stored]) -> bool:
    wanted = Counter(events=len(expected))
    for stored in expected.values():
        wanted.update(duplicates=stored.duplicates, conflicts=stored.conflicts)
    with psycopg.connect(stack.database_url) as connection:
        row = connection.execute(
            """select count(*), sum(duplicate_count), sum(jsonb_array_length(conflicts)) from headrace.event_status
               where program_id = any(%s::uuid[]) and status = 'COMPLETED'""",
            (list(programs),),
        ).fetchone()
    return row == (wanted["events"], wanted["duplicates"], wanted["conflicts"])


def _expected_row(stored: Stored) -> dict[str, Any]:
    payload = stored.first.payload
    return {
        "id": uuid.uuid5(uuid.UUID(str(payload["program_id"])), str(payload["idempotency_key"])),
        "status": "COMPLETED",
        "event_type": "EXTERNAL" if stored.first.door == "http" else "SYSTEM",
        "event_timestamp": payload["event_timestamp"],
        "external_id": payload.get("external_id"),
        "participant_id": payload.get("participant_id") and uuid.UUID(str(payload["participant_id"])),
        "recipient_external_id": payload.get("recipient_external_id"),
        "recipient_id": None,
        "event_data": payload["event_data"],
        "attempts": 1,
        "duplicate_count": stored.duplicates,
        "conflicts": stored.conflicts,
        "error_code": None,
        "error_message": None,
    }


def _found_row(row: dict[str, Any]) -> dict[str, Any]:
    return row | {
        "event_data": json.loads(row["data_text"], parse_float=Decimal),
        "conflicts": len(row["conflicts"]),
        "event_timestamp": row["event_timestamp"].astimezone(UTC),
    }


@pytest.mark.timeout(300)
def test_every_row_is_as_the_contract_predicts(bare_stack: Stack) -> None:
    """Sends through both doors, with the worker restarted in the middle, end in the model's rows."""
    stack = bare_stack
    stack.start_worker()
    stack.start_gateway()
    programs = [[str(uuid.uuid4()) for _ in range(5)] for _ in range(SENDERS)]
    by_sender = [
        Traffic(SEED + number, own, "http").make(HTTP_EVENTS // SENDERS, duplicates=0.10, conflicts=0.02)
        for number, own in enumerate(programs)
    ]
    with ThreadPoolExecutor(SENDERS) as pool:
        halves = [
            [
                pool.submit(_post, stack, sends[: len(sends) // 2], SEED + number)
                for number, sends in enumerate(by_sender)
            ]
        ]
        stack.kill_worker()
        stack.start_worker(wait=False)
        answered = [future.result() for future in halves[0]]
        rest = [
            pool.submit(_post, stack, sends[len(sends) // 2 :], SEED + number) for number, sends in enumerate(by_sender)
        ]
        stack.stop_worker()
        stack.start_worker(wait=False)
        answered += [future.result() for future in rest]
    over_http = [sent for sends in by_sender for sent in sends]
    direct_program = [str(uuid.uuid4())]
    direct = Traffic(SEED + 99, direct_program, "kafka")
    over_kafka = direct.make(KAFKA_EVENTS // 2, 0.1, 0.02) + direct.make(KAFKA_EVENTS // 2, 0.3, 0.1, over_http)
    asyncio.run(_publish(stack.kafka, over_kafka, SEED))

    everything = [program for own in programs for program in own] + direct_program
    expected = model(over_http + over_kafka)
    wait_until(lambda: _all_counted(stack, everything, expected), "every event counted", 90)
    rows = _event_rows(stack, everything)
    assert rows.keys() == expected.keys()
    for key, stored in expected.items():
        wanted = _expected_row(stored)
        found = _found_row(rows[key])
        assert {name: found[name] for name in wanted} == wanted
    _check_answers([pair for part in answered for pair in part], model(over_http))
    _check_rollups(stack, everything, expected)
    _check_participants(stack, everything, expected)
    # A status is told after the commit at which its event is counted.
    wait_until(lambda: len(asyncio.run(_statuses(stack.kafka, everything))) >= len(expected), "every status told", 30)
    told = asyncio.run(_statuses(stack.kafka, everything))
    assert len(told) == len(expected)
    assert set().union(*told.values()) == {"COMPLETED"}


def _check_answers(answered: list[tuple[Sent, dict[str, Any]]], events: dict[tuple[object, object], Stored]) -> None:
    """Each HTTP answer says of its event what the model does."""
    for sent, result in answered:
        first = events[sent.payload["program_id"], sent.payload["idempotency_key"]].first
        id_ = uuid.uuid5(uuid.UUID(str(sent.payload["program_id"])), str(sent.payload["idempotency_key"]))
        assert result["event"]["id"] == str(id_)
        if sent.payload == first.payload:
            assert result["status"] == "accepted", result
            assert result["event"]["status"] in {"PENDING", "COMPLETED"}
        else:
            assert (result["status"], result["code"], result["retryable"]) == ("error", "idempotency_conflict", False)


def _check_rollups(stack: Stack, programs: list[str], expected: dict[tuple[object, object], Stored]) -> None:
    hours = Counter(
        (
            str(stored.first.payload["program_id"]),
            stored.first.payload["event_timestamp"].replace(minute=0, second=0, microsecond=0),  # type: ignore[attr-defined]
        )
        for stored in expected.values()
    )
    with psycopg.connect(stack.database_url) as connection:
        rows = connection.execute(
            """select program_id::text, hour, status::text, events from headrace.program_hourly
               where program_id = any(%s::uuid[])""",
            (programs,),
        ).fetchall()
    assert {(program, hour.astimezone(UTC)): events for program, hour, _, events in rows} == hours
    assert {status for *_, status, _ in rows} == {"COMPLETED"}


def _check_participants(stack: Stack, programs: list[str], expected: dict[tuple[object, object], Stored]) -> None:
    """Each external id is one participant, the one that the first event naming it says if it says."""
    named = {
        (str(stored.first.payload["program_id"]), str(stored.first.payload["external_id"]))
        for stored in expected.values()
        if "external_id" in stored.first.payload
    }
    with psycopg.connect(stack.database_url) as connection:
        rows = connection.execute(
            """select program_id::text, external_id from headrace.participants
               where program_id = any(%s::uuid[]) and external_id is not null""",
            (programs,),
        ).fetchall()
    assert len(rows) == len(set(rows))
    assert set(rows) == named


async def _statuses(kafka: str, programs: list[str]) -> dict[str, set[str]]:
    """What the topic of statuses has of each event, which is once at least."""
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        partitions = [TopicPartition(topics.STATUS, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        found: dict[str, set[str]] = {}
        for partition in partitions:
            while await consumer.position(partition) < ends[partition]:
                for record in (await consumer.getmany(partition, timeout_ms=1_000)).get(partition, []):
                    value = json.loads(record.value)
                    assert record.key.decode() == value["program_id"]
                    if value["program_id"] in programs:
                        found.setdefault(value["id"], set()).add(value["status"])
    return found
