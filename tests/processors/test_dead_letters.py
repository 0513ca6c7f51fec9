"""Whatever stands in the topic, the stream goes on: what is no event is kept with code, reason and its very bytes."""

import asyncio
import json
import uuid
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from processors import outbox
from schemas import topics
from schemas.kafka import partition_of
from tests.conftest import PARTITIONS
from tests.processors.lab import LEDGER, Partition, bench, payload, rows, statuses_of
from tests.stack import Stack, wait_until

pytestmark = pytest.mark.anyio

Letter = ConsumerRecord[bytes | None, bytes | None]


def _bad(program: str) -> list[tuple[str, bytes | None, bytes | None, list[tuple[str, bytes]]]]:
    """Records that are no events, each with its code."""
    key, fine = program.encode(), payload(program, "fine")
    return [
        ("unreadable_record", b"\xff\xfe\x00", key, []),
        ("unreadable_record", None, key, []),
        ("unreadable_record", b"{" * 1_000, key, []),
        ("key_mismatch", fine, b"another key", []),
        ("key_mismatch", fine, None, []),
        ("invalid_event", payload(program, "k", colour="red"), key, []),
        ("invalid_event", payload(program, "k", **{"x" * 100_000: 1}), key, []),
        ("invalid_event", payload(program, "k" * 256), key, []),
        ("invalid_program_id", payload("nobody", "k"), key, []),
        ("event_too_large", payload(program, "k", {"text": "x" * 65_536}), key, []),
        (
            "unreadable_record",
            b"",
            key,
            [("a\0b", b"\0"), ("received-at", b"0001-01-01T00:00:00+14:00"), ("empty", b"")],
        ),
        ("event_too_large", payload(program, "k", {"text": "x" * 6_000_000}), key, []),
    ]


async def _letters(kafka: str, topic: str, program: str) -> list[Letter]:
    """The dead letters of the records of one partition of `topic`."""
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        places = [TopicPartition(topics.DEAD_LETTERS, number) for number in range(PARTITIONS)]
        consumer.assign(places)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(places)
        found: list[Letter] = []
        for place in places:
            while await consumer.position(place) < ends[place]:
                found += (await consumer.getmany(place, timeout_ms=1_000)).get(place, [])
    partition = str(partition_of(program.encode(), PARTITIONS)).encode()
    wanted = {"topic": topic.encode(), "partition": partition}
    return [one for one in found if wanted.items() <= dict(one.headers).items()]


async def test_bad_records_are_dead_letters_and_the_stream_goes_on(stack: Stack, program_id: str) -> None:
    number = partition_of(program_id.encode(), PARTITIONS)
    bad = _bad(program_id)
    sent: dict[int, tuple[str, bytes | None, bytes | None]] = {}
    # Compressed, a record can be larger than the topic seems to take.
    async with AIOKafkaProducer(
        bootstrap_servers=stack.kafka, acks="all", compression_type="gzip", max_request_size=20_000_000
    ) as producer:

        async def send(value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes]]) -> int:
            acknowledged = await producer.send_and_wait(topics.EVENTS, value, key, partition=number, headers=headers)
            return int(acknowledged.offset)

        for at, (code, value, key, headers) in enumerate(bad):
            sent[await send(value, key, headers)] = (code, value, key)
            await send(payload(program_id, f"good{at}"), program_id.encode(), [])
        conflict = payload(program_id, "good0", {"other": 1})
        hostile = [("received-at", b"0001-01-01T00:00:00+14:00")]
        sent[await send(conflict, program_id.encode(), hostile)] = (
            "idempotency_conflict",
            conflict,
            program_id.encode(),
        )
        await send(payload(program_id, "last"), program_id.encode(), [])

    def good() -> bool:
        return list(statuses_of(stack.database_url, program_id).values()) == ["COMPLETED"] * (len(bad) + 1)

    await asyncio.to_thread(wait_until, good, "the good events completed", 30)
    found = rows(
        stack.database_url,
        """select kafka_offset, code, reason, record_value, record_key, record_headers, program_id
           from headrace.dead_letters
           where topic = 'events' and kafka_partition = %s and kafka_offset = any(%s) order by kafka_offset""",
        number,
        list(sent),
    )
    assert {offset: (code, value, key) for offset, code, _, value, key, *_ in found} == sent
    assert all(0 < len(reason) <= 1_000 for _, _, reason, *_ in found)
    strange = next(headers for *_, headers, _ in found if headers and len(headers) == 3)
    assert strange[0] == ["a\\0b", "00"]
    assert {program for _, code, *_, program in found if code == "key_mismatch"} == {uuid.UUID(program_id)}
    letters: dict[int, Letter] = {}
    async with asyncio.timeout(30):  # told after the commit that completes the good events
        while not sent.keys() <= letters.keys():
            told_so_far = await _letters(stack.kafka, topics.EVENTS, program_id)
            letters = {int(dict(one.headers)["offset"]): one for one in told_so_far}
    for offset, (code, value, key) in sent.items():
        letter = letters[offset]
        told = dict(letter.headers)
        assert told["code"] == code.encode()
        assert told["first-seen"].endswith(b"Z")
        assert told["reason"]
        if value is not None and len(value) > outbox.RECORD_BYTES_MAX:
            assert (letter.value, told["omitted-bytes"]) == (None, str(len(value) + len(key or b"")).encode())
        else:
            assert letter.value == value
            assert letter.key == (program_id.encode() if code == "key_mismatch" else key)
    query = """select jsonb_array_length(conflicts), conflicts->0->>'reason' from headrace.events
               where program_id = %s and idempotency_key = 'good0'"""
    assert rows(stack.database_url, query, program_id) == [(1, "idempotency_conflict")]


async def test_a_chunk_read_again_leaves_one_row_per_dead_letter(tables: str, program_id: str) -> None:
    partition = Partition()
    for code, value, key, headers in _bad(program_id):
        partition.put(value, key, headers=headers)
        assert code
    partition.put(payload(program_id, "one"), program_id.encode())
    partition.put(payload(program_id, "one", {"n": 1}), program_id.encode())
    async with bench(tables, LEDGER) as lab:
        await lab.process(partition)
        await lab.process(partition)
        await lab.process(partition, partition.log[3:])
    query = "select kafka_offset, code from headrace.dead_letters where topic = %s order by 1"
    expected = [code for code, *_ in _bad(program_id)] + ["idempotency_conflict"]
    conflict_at = len(expected)
    assert rows(tables, query, partition.topic) == [
        (at if code != "idempotency_conflict" else conflict_at, code) for at, code in enumerate(expected)
    ]
    # The topic has them at least once: a crash may have come before it was told.
    told = [int(dict(one.headers)["offset"]) for one in lab.producer.letters()]
    assert sorted(set(told)) == [*range(len(expected) - 1), conflict_at]


async def test_what_a_crash_kept_from_being_told_is_told_when_the_chunk_is_read_again(
    tables: str, program_id: str
) -> None:
    rejected: dict[str, Any] = {"do": "reject"}
    partition = Partition()
    ids = partition.put_events(program_id, [{}, rejected])
    handlers = f"{LEDGER},tests.handlers_for_tests:act"
    async with bench(tables, handlers) as dead:
        await dead.process(partition)
    async with bench(tables, handlers) as successor:
        await successor.process(partition)
    assert [(one["id"], one["status"]) for one in successor.producer.statuses()] == [
        (str(ids[0]), "COMPLETED"),
        (str(ids[1]), "FAILED"),
    ]
    assert successor.producer.statuses() == dead.producer.statuses()
    assert successor.producer.letters() == dead.producer.letters()
    assert len(successor.producer.letters()) == 1
    assert json.loads(successor.producer.letters()[0].value or b"")["event_data"] == rejected
