"""Where the partitions end: asked of the brokers, to say how far behind the processing is."""

import asyncio
import contextlib

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas import kafka, topics
from schemas.settings import Settings

_ANSWER_S = 10.0


class EndOffsets:
    """Asks for the ends of all partitions of the topics that are processed. Belongs to no consumer group."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._partitions: list[TopicPartition] = []

    async def ask(self) -> dict[tuple[str, int], int]:
        """The offset after the last record, by topic and partition. Raises KafkaError or TimeoutError."""
        async with asyncio.timeout(_ANSWER_S):
            if self._consumer is None:
                self._partitions = await _partitions(self._settings)
                self._consumer = await _connected(self._settings)
            ends = await self._consumer.end_offsets(self._partitions)
        return {(at.topic, at.partition): offset for at, offset in ends.items()}

    async def stop(self) -> None:
        """Close the connection."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(consumer.stop(), _ANSWER_S)


async def _connected(settings: Settings) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(**kafka.connection(settings), enable_auto_commit=False)
    try:
        await consumer.start()
    except (KafkaError, asyncio.CancelledError):
        await consumer.stop()
        raise
    return consumer


async def _partitions(settings: Settings) -> list[TopicPartition]:
    """The partitions of the topics; a consumer without a subscription does not know them."""
    admin = AIOKafkaAdminClient(**kafka.connection(settings))
    try:
        await admin.start()
        described = await admin.describe_topics([topics.EVENTS, topics.RETRY])
    finally:
        await admin.close()
    return [TopicPartition(topic["topic"], each["partition"]) for topic in described for each in topic["partitions"]]
