"""Records to Kafka in batches: one future per batch and partition, not one per record."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from processors.ports import Entry, Outgoing
from schemas.kafka import partition_of

TIMEOUT_S = 30.0
"""Longest wait for an acknowledgement. Batches of an idempotent producer never expire by themselves."""


_Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
_NO_HEADERS: list[tuple[str, bytes]] = []


class ProduceError(RuntimeError):
    """Records were not acknowledged: refused, or not in time. Some of them may have been written."""


def _partition_for(record: Outgoing, partitions: int) -> int:
    if record.partition is not None:
        return record.partition
    if record.key is not None:
        return partition_of(record.key, partitions)
    return random.randrange(partitions)  # noqa: S311 - any partition will do


class BatchSender:
    """Sends through one shared producer, which must have ``acks=all`` and idempotence on."""

    def __init__(self, producer: Callable[[], AIOKafkaProducer], timeout_s: float = TIMEOUT_S) -> None:
        self._producer = producer
        self._timeout_s = timeout_s

    async def send_many(self, topic: str, records: Sequence[Outgoing]) -> None:
        """See :class:`processors.ports.Producer`."""
        if not records:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send_many(topic, records)
        except (KafkaError, TimeoutError) as error:
            raise ProduceError(f"{len(records)} records to {topic} not acknowledged: {error!r}") from error

    async def send_entries(self, topic: str, partition: int, entries: Sequence[Entry]) -> int | None:
        """Write `entries` to one partition; returns the offset of the last, None if the broker does not say.

        Raises :class:`ProduceError`.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                sent = await self._send_partition(
                    topic, partition, [(key, value, _NO_HEADERS) for key, value in entries]
                )
        except (KafkaError, TimeoutError) as error:
            raise ProduceError(f"{len(entries)} entries to {topic}[{partition}]: {error!r}") from error
        metadata, count = sent[-1]
        # A retry that the broker had taken already is acknowledged without its offset.
        return metadata.offset + count - 1 if metadata.offset >= 0 else None

    async def _send_many(self, topic: str, records: Sequence[Outgoing]) -> None:
        partitions = len(await self._producer().partitions_for(topic))
        by_partition: dict[int, list[_Record]] = {}
        by_key: dict[bytes | None, list[_Record]] = {}  # a bundle has few keys
        for record in records:
            key = record.key
            where = by_key.get(key) if record.partition is None else None
            if where is None:
                where = by_partition.setdefault(_partition_for(record, partitions), [])
                if key is not None and record.partition is None:
                    by_key[key] = where
            where.append((key, record.value, list(record.headers) if record.headers else _NO_HEADERS))
        await asyncio.gather(*(self._send_partition(topic, number, part) for number, part in by_partition.items()))

    async def _send_partition(
        self, topic: str, partition: int, records: Sequence[_Record]
    ) -> list[tuple[RecordMetadata, int]]:
        producer = self._producer()
        futures: list[tuple[asyncio.Future[RecordMetadata], int]] = []

        async def submit(builder: BatchBuilder) -> None:
            builder.close()
            futures.append((await producer.send_batch(builder, topic, partition=partition), builder.record_count()))

        now_ms = time.time_ns() // 1_000_000  # asked for each record, the time costs as much as appending it
        builder = producer.create_batch()
        append = builder.append
        for key, value, headers in records:
            if append(timestamp=now_ms, key=key, value=value, headers=headers) is None:
                await submit(builder)
                # An empty builder takes any record, however large: what is too large is for the broker to refuse.
                builder = producer.create_batch()
                append = builder.append
                append(timestamp=now_ms, key=key, value=value, headers=headers)
        await submit(builder)
        return [(await future, count) for future, count in futures]
