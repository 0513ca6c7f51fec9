"""Traffic from a seed, straight to Kafka, and everything that it must have left behind in the end.

The expectations follow from the log alone: the first record of a key wins, what equals it is a duplicate, anything else
under its key a conflict. What was killed meanwhile, and where, has no part in them.
"""

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from deploy.process import Process
from schemas import topics
from schemas.kafka import partition_of
from tests.conftest import PARTITIONS
from tests.crash.handlers import SCHEMA
from tests.processors.lab import payload, rows
from tests.stack import Stack, wait_until

SETTLE_S = 60.0
HANDLERS = "tests.crash.handlers:money"

_FAILING = {"reject": "no_credit", "constraint": "handler_failed", "die": "handler_crashed", "block": "handler_crashed"}


class _Event(NamedTuple):
    program: str
    key: str
    data: dict[str, Any]

    @property
    def id(self) -> uuid.UUID:
        return uuid.uuid5(uuid.UUID(self.program), self.key)

    def value(self) -> bytes:
        return payload(self.program, self.key, self.data)


class World:
    """Some programs of their own on a stack: `publish` makes traffic, `check` holds Postgres and Kafka to it."""

    def __init__(self, stack: Stack, seed: int, programs: int = 8, group: str = "headrace") -> None:
        rows(stack.database_url, SCHEMA)
        self.stack = stack
        self.group = group
        self.programs = [_program_of(number % PARTITIONS) for number in range(programs)]
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._events: list[_Event] = []
        self._duplicates: Counter[uuid.UUID] = Counter()
        self._conflicts: Counter[uuid.UUID] = Counter()
        self._letters: Counter[str] = Counter()
        self._status_from = ends(stack.kafka, topics.STATUS)

    # -- what is sent

    def publish(self, count: int, *, do: Sequence[str] = ("reject", "second"), share: float = 0.02) -> None:
        """Send `count` records: of ten, one repeats and one in twenty-five contradicts an earlier one; some are bad.

        A `share` of the new events tells the handler to do one of `do`.
        """
        asyncio.run(self._send([self._record(do, share) for _ in range(count)]))

    def send(self, *datas: dict[str, Any], program: int = 0) -> list[uuid.UUID]:
        """Send events with the data given, in one program; their ids."""
        events = [self._new({"cents": 1, **data}, self.programs[program]) for data in datas]
        asyncio.run(self._send([(event.program.encode(), event.value()) for event in events]))
        return [event.id for event in events]

    def _record(self, do: Sequence[str], share: float) -> tuple[bytes, bytes]:
        rng = self._random
        kind = rng.random()
        if self._events and kind < 0.10:
            event = rng.choice(self._events)
            self._duplicates[event.id] += 1
            return event.program.encode(), event.value()
        if self._events and kind < 0.14:
            event = rng.choice(self._events)
            self._conflicts[event.id] += 1
            self._letters["idempotency_conflict"] += 1
            changed = event._replace(data=event.data | {"cents": rng.randrange(10**9, 10**10)})
            return event.program.encode(), changed.value()
        if kind < 0.16:
            return self._bad(rng.choice(self.programs))
        data: dict[str, Any] = {"cents": rng.randrange(1, 10**6)}
        if do and rng.random() < share:
            data["do"] = rng.choice(do)
        event = self._new(data, rng.choice(self.programs))
        return event.program.encode(), event.value()

    def _new(self, data: dict[str, Any], program: str) -> _Event:
        event = _Event(program, f"k{len(self._events)}-{self._random.getrandbits(32)}", data)
        self._events.append(event)
        return event

    def _bad(self, program: str) -> tuple[bytes, bytes]:
        rng = self._random
        code, value = rng.choice(
            [
                ("unreadable_record", b"\xff\xfe{"),
                ("unreadable_record", b'{"program_id":'),
                ("key_mismatch", payload(str(uuid.UUID(int=rng.getrandbits(128), version=4)), "k", {"cents": 1})),
                ("invalid_event", payload(program, f"unknown{rng.random()}", {}, colour="red")),
                ("event_too_large", payload(program, f"large{rng.random()}", {"text": "x" * 70_000})),
            ]
        )
        self._letters[code] += 1
        return program.encode(), value

    async def _send(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=self.stack.kafka, acks="all", enable_idempotence=True, linger_ms=2
        ) as producer:
            sent = [
                await producer.send(topics.EVENTS, value, key, partition=partition_of(key, PARTITIONS))
                for key, value in records
            ]
            await asyncio.gather(*sent)

    # -- what must come of it

    def start_worker(self, number: int = 0, *, wait: bool = True, **settings: str) -> Process:
        """A worker with the handler of these tests."""
        chosen = {"handlers": HANDLERS, "chunk_events_max": "40", "group": self.group} | settings
        return self.stack.start_worker(number, wait=wait, **chosen)

    def settled(self) -> bool:
        """Whether every event sent has a final status, and every record is counted."""
        wanted = len(self._events), self._duplicates.total(), self._conflicts.total(), self.letters().total()
        return self._counts() == wanted

    def done(self) -> int:
        """How many events have a final status."""
        return int(self._counts()[0])

    def wait(self, timeout_s: float = SETTLE_S) -> None:
        """Wait until `settled`."""
        wait_until(self.settled, "every event final, every record counted", timeout_s)

    def check(self) -> None:
        """Everything is there, once."""
        self._check_rows()
        self._check_money()
        self._check_letters()
        self._check_offsets()
        self._check_statuses()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return rows(self.stack.database_url, query, *values)

    def _counts(self) -> tuple[Any, ...]:
        (counts,) = self.rows(
            """select count(*) filter (where status in ('COMPLETED', 'FAILED')), coalesce(sum(duplicate_count), 0),
                      coalesce(sum(jsonb_array_length(coalesce(conflicts, '[]'))), 0),
                      (select count(*) from headrace.dead_letter_records where record_key = any(%s))
               from headrace.events where program_id = any(%s::uuid[])""",
            self._keys(),
            self.programs,
        )
        return counts

    def _keys(self) -> list[bytes]:
        return [program.encode() for program in self.programs]

    def final(self, event: _Event) -> str:
        """The status in which an event must end."""
        return "FAILED" if event.data.get("do") in _FAILING else "COMPLETED"

    def letters(self) -> Counter[str]:
        """Dead letters that there must be, by code."""
        failed = Counter(_FAILING[event.data["do"]] for event in self._events if event.data.get("do") in _FAILING)
        return self._letters + failed

    def _check_rows(self) -> None:
        found = self.rows(
            """select id, status::text, duplicate_count, jsonb_array_length(coalesce(conflicts, '[]')),
                      (event_data->>'cents')::bigint
               from headrace.events where program_id = any(%s::uuid[])""",
            self.programs,
        )
        wanted = {
            event.id: (self.final(event), self._duplicates[event.id], self._conflicts[event.id], event.data["cents"])
            for event in self._events
        }
        assert len(found) == len(self._events)
        assert {id_: tuple(rest) for id_, *rest in found} == wanted
        waiting = "select count(*) from headrace.retries where program_id = any(%s::uuid[])"
        assert self.rows(waiting, self.programs) == [(0,)]

    def _check_money(self) -> None:
        """Each completed event is paid once, and a program's are paid in the order of its log."""
        query = "select event_id, cents from tests.money where program_id = %s order by number"
        for program in self.programs:
            paid = self.rows(query, program)
            mine = [event for event in self._events if event.program == program]
            wanted = {event.id: event.data["cents"] for event in mine if self.final(event) == "COMPLETED"}
            assert Counter(id_ for id_, _ in paid) == Counter(list(wanted))
            assert sum(cents for _, cents in paid) == sum(wanted.values())
            first_time = [event.id for event in mine if event.data.get("do") is None]
            assert [id_ for id_, _ in paid if id_ in set(first_time)] == first_time

    def _check_letters(self) -> None:
        found = self.rows(
            """select code, kafka_partition, kafka_offset, topic from headrace.dead_letter_records
               where record_key = any(%s)""",
            self._keys(),
        )
        assert len({tuple(place) for _, *place in found}) == len(found), "a dead letter is there twice"
        assert Counter(code for code, *_ in found) == self.letters()

    def _check_offsets(self) -> None:
        """Nothing is left: what is committed, and what Postgres has noted, is the end of the log."""
        wait_until(lambda: self.committed() == self.ends(), "every offset committed", 20)
        noted = dict(
            self.rows("select kafka_partition, next_offset from headrace.progress where topic = %s", topics.EVENTS)
        )
        assert {number: noted.get(number, 0) for number in range(PARTITIONS)} == self.ends()

    def ends(self, topic: str = topics.EVENTS) -> dict[int, int]:
        """End of each partition of a topic."""
        return ends(self.stack.kafka, topic)

    def committed(self, topic: str = topics.EVENTS) -> dict[int, int]:
        """Committed offset of each partition of a topic."""
        return asyncio.run(_committed(self.stack.kafka, self.group, topic))

    def _check_statuses(self) -> None:
        """Each event's final status is told once at least, and never another one."""
        # Told after the commit at which an event is settled; that of a last attempt is behind no offset of ``events``.
        wait_until(lambda: len(self._told()) >= len(self._events), "every status told", 20)
        assert self._told() == {str(event.id): {self.final(event)} for event in self._events}

    def _told(self) -> dict[str, set[str]]:
        """The statuses told of each event."""
        told: dict[str, set[str]] = {}
        programs = set(self.programs)
        for value in read(self.stack.kafka, topics.STATUS, self._status_from):
            status = json.loads(value)
            if status["program_id"] in programs:
                told.setdefault(status["id"], set()).add(status["status"])
        return told


def _program_of(partition: int) -> str:
    """A new program of that partition: each partition has one at least, and each worker its share of what is sent."""
    while True:
        program = str(uuid.uuid4())
        if partition_of(program.encode(), PARTITIONS) == partition:
            return program


def ends(kafka: str, topic: str) -> dict[int, int]:
    """End of each partition of a topic."""
    return asyncio.run(_ends(kafka, topic))


def read(kafka: str, topic: str, starts: dict[int, int]) -> list[bytes]:
    """The values of every record of a topic from `starts` to its present end."""
    return asyncio.run(_read(kafka, topic, starts))


async def _ends(kafka: str, topic: str) -> dict[int, int]:
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        return {tp.partition: end for tp, end in (await consumer.end_offsets(tps)).items()}


async def _committed(kafka: str, group: str, topic: str) -> dict[int, int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    found = {tp.partition: kept.offset for tp, kept in offsets.items() if tp.topic == topic}
    return {number: max(found.get(number, 0), 0) for number in range(PARTITIONS)}


async def _read(kafka: str, topic: str, starts: dict[int, int]) -> list[bytes]:
    values: list[bytes] = []
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        ends = await _ends(kafka, topic)
        consumer.assign([TopicPartition(topic, number) for number in starts])
        for number, start in starts.items():
            consumer.seek(TopicPartition(topic, number), start)
        for number, end in ends.items():
            partition = TopicPartition(topic, number)
            while await consumer.position(partition) < end:
                found = await consumer.getmany(partition, timeout_ms=1_000)
                values += [record.value or b"" for record in found.get(partition, [])]
    return values
