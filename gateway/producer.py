"""Events to Kafka, in batches that many requests share.

Each partition is a lane. A lane sends one batch at a time: while that is under way, what arrives gathers in the next.
So an idle gateway adds no delay and a busy one builds big batches; a fixed timer was slower at both ends.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from schemas import kafka, topics
from schemas.settings import Settings

log = structlog.get_logger(__name__)

_RESTART_PAUSE_S = 0.5
_STOP_S = 5.0
_LOOK_EVERY_S = 2.0
_LOOK_TIMEOUT_S = 5.0

Headers = Sequence[tuple[str, bytes]]


class QueueFullError(Exception):
    """The process already holds as many unacknowledged events as it may."""


class NotAcknowledgedError(Exception):
    """Kafka did not take the batch; whether its records are in the log is unknown."""


class KafkaUnreachableError(Exception):
    """There is no connection to Kafka yet; the message says why."""


class Batch:
    """Records of one partition that are sent together; `acknowledged` ends with them."""

    def __init__(self, builder: BatchBuilder) -> None:
        self.builder = builder
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A request that gave up no longer asks; its batch's failure is counted here all the same.
        self.acknowledged.add_done_callback(lambda future: future.cancelled() or future.exception())


class _Lane:
    """One partition's batches: those `closed` and full, and the `open` one."""

    def __init__(self) -> None:
        self.closed: deque[Batch] = deque()
        self.open: Batch | None = None
        self.sender: asyncio.Task[None] | None = None

    def next(self) -> Batch | None:
        if self.closed:
            return self.closed.popleft()
        batch, self.open = self.open, None
        return batch


class Producer:
    """The gateway's way into the topic `events`. At most `max_in_flight_events` are unacknowledged at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kafka: AIOKafkaProducer | None = None
        self._unreachable: str | None = "not connected yet"
        self._lanes: dict[int, _Lane] = {}
        self._failed = asyncio.Event()
        self._connection: asyncio.Task[None] | None = None
        self.in_flight_events = 0
        self.partitions = 0

    async def start(self) -> None:
        """Begin to connect, and stay connected from then on; returns at once."""
        self._connection = asyncio.create_task(self._stay_connected(), name="kafka-connection")

    async def stop(self) -> None:
        """Send what has been appended, then close; at most a few seconds."""
        senders = [lane.sender for lane in self._lanes.values() if lane.sender is not None]
        if senders:
            await asyncio.wait(senders, timeout=_STOP_S)
        if self._connection is not None:
            self._connection.cancel()
            await asyncio.wait([self._connection], timeout=_STOP_S)
        if self._kafka is not None:
            await _close(self._kafka)

    def unreachable(self) -> str | None:
        """Why Kafka cannot be reached, as of the last look a few seconds ago, or None where it can."""
        return self._unreachable

    def has_room(self, records: int) -> bool:
        """Whether so many records could be appended now."""
        return self._kafka is not None and self.in_flight_events + records <= self._settings.max_in_flight_events

    def append(self, records: Sequence[tuple[bytes, bytes, Headers]]) -> list[Batch]:
        """Append (key, value, headers) in order; the batch of each record, in order.

        Raises :class:`QueueFullError` or :class:`KafkaUnreachableError`, and then none has been appended.
        """
        if self._kafka is None:
            raise KafkaUnreachableError(str(self._unreachable))
        if self.in_flight_events + len(records) > self._settings.max_in_flight_events:
            raise QueueFullError
        now_ms = time.time_ns() // 1_000_000
        batches = []
        for key, value, headers in records:
            partition = kafka.partition_of(key, self.partitions)
            batches.append(self._append_one(self._kafka, partition, now_ms, key, value, headers))
        self.in_flight_events += len(records)
        return batches

    def _append_one(
        self, client: AIOKafkaProducer, partition: int, now_ms: int, key: bytes, value: bytes, headers: Headers
    ) -> Batch:
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = _Lane()
        while True:
            if lane.open is None:
                lane.open = Batch(client.create_batch())
            if lane.sender is None:
                lane.sender = asyncio.create_task(self._send_all(partition, lane), name=f"lane-{partition}")
            batch = lane.open
            if batch.builder.append(timestamp=now_ms, key=key, value=value, headers=headers) is not None:
                return batch
            assert batch.builder.record_count(), "max_batch_size holds every record that limits let in"  # noqa: S101
            lane.closed.append(batch)
            lane.open = None

    async def _send_all(self, partition: int, lane: _Lane) -> None:
        """Send the lane's batches one by one until there is none."""
        try:
            while (batch := lane.next()) is not None:
                await self._send(partition, batch)
        finally:
            lane.sender = None

    async def _send(self, partition: int, batch: Batch) -> None:
        records = batch.builder.record_count()
        batch.builder.close()
        try:
            await self._deliver(partition, batch)
        except (KafkaError, NotAcknowledgedError) as error:
            log.warning("batch not acknowledged", partition=partition, events=records, reason=repr(error))
            batch.acknowledged.set_exception(NotAcknowledgedError(repr(error)))
            # After a lost batch an idempotent producer's sequence may have a hole: only a new one is sure to go on.
            self._failed.set()
        else:
            batch.acknowledged.set_result(None)
        finally:
            self.in_flight_events -= records

    async def _deliver(self, partition: int, batch: Batch) -> None:
        if self._kafka is None:
            raise NotAcknowledgedError(str(self._unreachable))
        delivery = await self._kafka.send_batch(batch.builder, topics.EVENTS, partition=partition)
        await delivery

    async def _stay_connected(self) -> None:
        while True:
            self._failed.clear()
            client = AIOKafkaProducer(**kafka.producing(self._settings))
            try:
                await client.start()
                await self._look(client)
                self._kafka = client
                log.info("kafka connected", kafka=self._settings.kafka, partitions=self.partitions)
                while not self._failed.is_set():
                    await self._pause_or_failure()
                    await self._look(client)
            except (KafkaError, OSError) as error:
                self._unreachable = f"no answer from {self._settings.kafka} ({type(error).__name__})"
                log.warning("kafka cannot be reached", kafka=self._settings.kafka, reason=self._unreachable)
            finally:
                self._kafka = None
                await _close(client)
            await asyncio.sleep(_RESTART_PAUSE_S)

    async def _pause_or_failure(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._failed.wait(), _LOOK_EVERY_S)

    async def _look(self, client: AIOKafkaProducer) -> None:
        """See whether a broker answers, and how many partitions there are. Batches under way wait either way."""
        try:
            answered = await asyncio.wait_for(client.client.force_metadata_update(), _LOOK_TIMEOUT_S)
        except TimeoutError:
            answered = False
        self._unreachable = None if answered else f"no answer from {self._settings.kafka}"
        partitions = await asyncio.wait_for(client.partitions_for(topics.EVENTS), _LOOK_TIMEOUT_S)
        self.partitions = len(partitions)


async def _close(client: AIOKafkaProducer) -> None:
    try:
        await asyncio.wait_for(client.stop(), _STOP_S)
    except (TimeoutError, KafkaError) as error:
        log.warning("kafka producer did not close cleanly", reason=repr(error))
