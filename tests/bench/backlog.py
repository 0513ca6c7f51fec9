"""A backlog in Kafka, as gateways would have left it: made once, quickly, from a seed."""

import asyncio
import random
from collections.abc import Iterator

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.producer.message_accumulator import BatchBuilder

from schemas import kafka
from schemas.identity import uuid_ascii
from schemas.reader import EventReader
from schemas.settings import Settings
from tests.bench.bed import PARTITIONS
from tests.bench.payloads import SEED, Payloads

DUPLICATES = 0.05
_RECEIVED_AT = b"2026-01-02T00:00:00.5Z"


def numbers(records: int) -> Iterator[int]:
    """The event numbers of a backlog: each new one is the next, and a twentieth repeat an earlier one."""
    rng = random.Random(SEED)  # noqa: S311 - repeatable, not secret
    new = 0
    for _ in range(records):
        if new and rng.random() < DUPLICATES:
            yield rng.randrange(new)
        else:
            yield new
            new += 1


def distinct(records: int) -> int:
    """How many different events a backlog has."""
    return max(numbers(records), default=-1) + 1


def fill(bootstrap: str, topic: str, records: int, first: int = 0) -> None:
    """Write a backlog of `records` records to `topic`; its first event is number `first`."""
    asyncio.run(_fill(bootstrap, topic, records, first))


def make_topic(bootstrap: str, topic: str) -> None:
    """Make a topic of the suite's own."""

    async def make() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
        finally:
            await admin.close()

    asyncio.run(make())


def end_offsets(bootstrap: str, topic: str) -> int:
    """The sum of the end offsets of a topic's partitions."""

    async def ends() -> int:
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
            found = await consumer.end_offsets([TopicPartition(topic, number) for number in range(PARTITIONS)])
            return sum(found.values())

    return asyncio.run(ends())


class Writer:
    """Fills partitions through one producer, a batch of each at a time."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self._open: dict[int, BatchBuilder] = {}
        self._sent: list[asyncio.Future[object]] = []

    async def add(self, partition: int, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        """Add a record."""
        while True:
            builder = self._open.get(partition)
            if builder is None:
                builder = self._open[partition] = self._producer.create_batch()
            if builder.append(timestamp=None, key=key, value=value, headers=headers) is not None:
                return
            await self._send(partition)

    async def finish(self) -> None:
        """Send the rest, and wait for every acknowledgement."""
        for partition in list(self._open):
            await self._send(partition)
        await asyncio.gather(*self._sent)

    async def _send(self, partition: int) -> None:
        builder = self._open.pop(partition)
        builder.close()
        self._sent.append(await self._producer.send_batch(builder, self._topic, partition=partition))


async def _fill(bootstrap: str, topic: str, records: int, first: int) -> None:
    payloads = Payloads()
    settings = Settings(kafka=bootstrap)
    reader = EventReader(settings.max_event_bytes)
    async with AIOKafkaProducer(**kafka.producing(settings)) as producer:
        writer = Writer(producer, topic)
        for counted in numbers(records):
            number = first + counted
            event = reader.read(payloads.event(number))
            headers = [
                ("id", uuid_ascii(event.id)),
                ("fingerprint", event.fingerprint.hex().encode()),
                ("received-at", _RECEIVED_AT),
            ]
            record_key = payloads.program(number).encode()
            await writer.add(kafka.partition_of(record_key, PARTITIONS), record_key, event.record, headers)
        await writer.finish()
