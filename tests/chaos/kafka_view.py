"""What the brokers say: where topics end, what they hold, who leads a partition, what the group has committed."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, NamedTuple, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

_ANSWER_S = 20.0
_READ_S = 120.0

T = TypeVar("T")
Ends = dict[int, int]


class LogRecord(NamedTuple):
    """A record where it stands."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class KafkaView:
    """Asks the brokers directly, past all proxies. Every call has a limit, and raises KafkaError or TimeoutError."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        self._bootstrap = bootstrap
        self._partitions = range(partitions)

    def ends(self, topic: str) -> Ends:
        """The offset after the last record, by partition."""

        async def ask(consumer: AIOKafkaConsumer) -> Ends:
            ends = await consumer.end_offsets([TopicPartition(topic, number) for number in self._partitions])
            return {at.partition: offset for at, offset in ends.items()}

        return _run(self._with_consumer(ask), _ANSWER_S)

    def read(self, topic: str, start: Ends, end: Ends) -> list[LogRecord]:
        """The records of the topic between the offsets, partition by partition in order."""
        if all(offset <= start.get(number, 0) for number, offset in end.items()):
            return []  # a consumer that is assigned nothing does not even end in order
        return _run(self._with_consumer(lambda consumer: self._read(consumer, topic, start, end)), _READ_S)

    def committed(self, group: str, topics: Iterable[str]) -> dict[tuple[str, int], int]:
        """What the group has committed."""

        async def ask(admin: AIOKafkaAdminClient) -> dict[tuple[str, int], int]:
            offsets = await admin.list_consumer_group_offsets(group)
            return {(at.topic, at.partition): found.offset for at, found in offsets.items() if at.topic in topics}

        return _run(self._with_admin(ask), _ANSWER_S)

    def leader(self, topic: str, partition: int) -> int:
        """Node id of the partition's leader."""

        async def ask(admin: AIOKafkaAdminClient) -> int:
            (described,) = await admin.describe_topics([topic])
            return next(int(found["leader"]) for found in described["partitions"] if found["partition"] == partition)

        node: int = _run(self._with_admin(ask), _ANSWER_S)
        return node

    def coordinator(self, group: str) -> int:
        """Node id of the group's coordinator."""
        node: int = _run(self._with_admin(lambda admin: admin.find_coordinator(group)), _ANSWER_S)
        return node

    async def _read(self, consumer: AIOKafkaConsumer, topic: str, start: Ends, end: Ends) -> list[LogRecord]:
        found: list[LogRecord] = []
        at = {TopicPartition(topic, number): start.get(number, 0) for number in self._partitions}
        open_ = {tp for tp, offset in at.items() if offset < end[tp.partition]}
        consumer.assign(list(open_))
        for tp in open_:
            consumer.seek(tp, at[tp])
        while open_:
            for tp, records in (await consumer.getmany(*open_, timeout_ms=500)).items():
                found += [
                    LogRecord(tp.partition, record.offset, record.key, record.value, tuple(record.headers))
                    for record in records
                    if record.offset < end[tp.partition]
                ]
            open_ = {tp for tp in open_ if await consumer.position(tp) < end[tp.partition]}
        return sorted(found, key=lambda record: record[:2])

    async def _with_consumer(self, work: Any) -> Any:  # noqa: ANN401 - whatever `work` gives
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, enable_auto_commit=False)
        try:
            await consumer.start()
            return await work(consumer)
        finally:
            await consumer.stop()

    async def _with_admin(self, work: Any) -> Any:  # noqa: ANN401 - whatever `work` gives
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=10_000)
        try:
            await admin.start()
            return await work(admin)
        finally:
            await admin.close()


def _run(work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    return asyncio.run(asyncio.wait_for(work, timeout_s))


__all__ = ["Ends", "KafkaError", "KafkaView", "LogRecord"]
