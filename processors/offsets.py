"""Where the partitions end: asked of the brokers, to say how far behind the processing is."""

import asyncio
import contextlib

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas import kafka, topics
from schemas.settings import Settings

_ANSWER_S = 10.0


class EndOffsets:
    """Asks for the ends of all partitions of the topics that are processed. Belongs to no consumer group."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None

    async def ask(self) -> dict[tuple[str, int], int]:
        """The offset after the last record, by topic and partition. Raises KafkaError or TimeoutError."""
        async with asyncio.timeout(_ANSWER_S):
            consumer = await self._connected()
            partitions = [
                TopicPartition(topic, number)
                for topic in (topics.EVENTS, topics.RETRY)
                for number in consumer.partitions_for_topic(topic) or ()
            ]
            ends = await consumer.end_offsets(partitions) if partitions else {}
        return {(at.topic, at.partition): offset for at, offset in ends.items()}

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(**kafka.connection(self._settings), enable_auto_commit=False)
            try:
                await consumer.start()
                await consumer.topics()  # without a subscription nothing else fetches the partitions
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer
        return self._consumer

    async def stop(self) -> None:
        """Close the connection."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(consumer.stop(), _ANSWER_S)
