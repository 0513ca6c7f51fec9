"""Events to Kafka, in batches that many requests share.

Each partition is a lane, and what has gathered in all lanes is sent in one round: while that is under way, what arrives
gathers for the next. So an idle gateway adds no delay and a busy one builds big batches and few requests; a fixed timer
was slower at both ends. A partition that is slow to acknowledge holds the round up for `_ROUND_S` at most: the others
then go on without it.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from gateway.delivery import Delivery
from gateway.outgoing import Batch, Headers, settled
from schemas import kafka, topics
from schemas.settings import Settings

log = structlog.get_logger(__name__)

_ROUND_S = 0.02
_RESTART_PAUSE_S = 0.5
_STOP_S = 5.0
_SEND_LAST_S = 2.0
_LOOK_EVERY_S = 2.0
_LOOK_TIMEOUT_S = 5.0


class QueueFullError(Exception):
    """The process already holds as many unacknowledged events as it may."""


class NotAcknowledgedError(Exception):
    """Kafka did not take the batch; whether its records are in the log is unknown."""


class KafkaUnreachableError(Exception):
    """There is no connection to Kafka yet; the message says why."""


class _Lane:
    """One partition's batches: those `closed` and full, and the `open` one. `sent` is the one under way."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.closed: deque[Batch] = deque()
        self.open: Batch | None = None
        self.sent: Batch | None = None

    def begin(self, bytes_max: int) -> Batch:
        """A new open batch, where there is none or it is full."""
        if self.open is not None:
            self.closed.append(self.open)
        self.open = Batch(bytes_max)
        return self.open

    def pending(self) -> list[Batch]:
        """What is not settled yet."""
        return [batch for batch in (self.sent, *self.closed, self.open) if batch is not None]

    def next(self) -> Batch | None:
        """The batch to send now, if any: one at a time, so that the order holds."""
        if self.sent is not None:
            return None
        if self.closed:
            return self.closed.popleft()
        batch, self.open = self.open, None
        return batch


class Producer:
    """The gateway's way into the topic `events`. At most `max_in_flight_events` are unacknowledged at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._delivery: Delivery | None = None
        self._batch_bytes_max: int = kafka.producing(settings)["max_batch_size"]
        self._unreachable: str | None = "not connected yet"
        self._lanes: dict[int, _Lane] = {}
        self._sender: asyncio.Task[None] | None = None
        self._failed = asyncio.Event()
        self._stopping = False
        self._connection: asyncio.Task[None] | None = None
        self.in_flight_events = 0
        self.partitions = 0

    async def start(self) -> None:
        """Begin to connect, and stay connected from then on; returns at once."""
        self._connection = asyncio.create_task(self._stay_connected(), name="kafka-connection")

    async def stop(self) -> None:
        """Send what has been appended, then close; at most a few seconds, as nobody waits for an answer any more."""
        pending = [batch for lane in self._lanes.values() for batch in lane.pending()]
        if pending:
            await settled(pending, _SEND_LAST_S)
        self._stopping = True
        if self._connection is not None:
            self._connection.cancel()
            await asyncio.wait([self._connection], timeout=_STOP_S)

    def unreachable(self) -> str | None:
        """Why Kafka cannot be reached, as of the last look a few seconds ago, or None where it can."""
        return self._unreachable

    def has_room(self, records: int) -> bool:
        """Whether so many records could be appended now."""
        return self._delivery is not None and self.in_flight_events + records <= self._settings.max_in_flight_events

    def append(self, records: Sequence[tuple[bytes, bytes, Headers]]) -> list[Batch]:
        """Append (key, value, headers) in order; the batch of each record, in order.

        Raises :class:`QueueFullError` or :class:`KafkaUnreachableError`, and then none has been appended.
        """
        if self._delivery is None:
            raise KafkaUnreachableError(str(self._unreachable))
        if self.in_flight_events + len(records) > self._settings.max_in_flight_events:
            raise QueueFullError
        now_ms = time.time_ns() // 1_000_000
        batches = []
        for key, value, headers in records:
            lane = self._lane(kafka.partition_of(key, self.partitions))
            batch = lane.open
            if batch is None or not batch.append(now_ms, key, value, headers):
                batch = lane.begin(self._batch_bytes_max)
                batch.append(now_ms, key, value, headers)
            batches.append(batch)
        self.in_flight_events += len(records)
        self._begin_to_send()
        return batches

    def _lane(self, partition: int) -> _Lane:
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = _Lane(partition)
        return lane

    def _begin_to_send(self) -> None:
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_rounds(), name="kafka-rounds")

    async def _send_rounds(self) -> None:
        """Send what has gathered in all lanes whose last batch has returned, until there is none."""
        try:
            while batches := {lane: batch for lane in self._lanes.values() if (batch := lane.next()) is not None}:
                self._send(batches)
                await settled(batches.values(), _ROUND_S)
        finally:
            self._sender = None

    def _send(self, batches: dict[_Lane, Batch]) -> None:
        for lane, batch in batches.items():
            lane.sent = batch
        if self._delivery is None:
            for lane in batches:
                self._settle(lane.partition, KafkaUnreachableError(str(self._unreachable)))
        else:
            self._delivery.send({lane.partition: batch for lane, batch in batches.items()})

    def _settle(self, partition: int, error: BaseException | None) -> None:
        """The batch that was sent is in the log, or it is not known to be."""
        lane = self._lanes[partition]
        batch, lane.sent = lane.sent, None
        assert batch is not None, "a delivery settles what it was given, once"  # noqa: S101
        self.in_flight_events -= batch.records
        if error is None:
            batch.is_acknowledged = True
            batch.acknowledged.set_result(None)
        else:
            log.warning("batch not acknowledged", partition=partition, events=batch.records, reason=repr(error))
            batch.acknowledged.set_exception(NotAcknowledgedError(repr(error)))
            # After a lost batch an idempotent producer's sequence may have a hole: only a new one is sure to go on.
            self._failed.set()
        if lane.open is not None or lane.closed:
            self._begin_to_send()

    async def _stay_connected(self) -> None:
        while True:
            self._failed.clear()
            client = AIOKafkaProducer(**kafka.producing(self._settings))
            try:
                await client.start()
                await self._look(client)
                self._delivery = Delivery(client, topics.EVENTS, self._settle)
                log.info("kafka connected", kafka=self._settings.kafka, partitions=self.partitions)
                while not self._failed.is_set():
                    await self._pause_or_failure()
                    await self._look(client)
            except (KafkaError, OSError) as error:
                self._unreachable = f"no answer from {self._settings.kafka} ({type(error).__name__})"
                log.warning("kafka cannot be reached", kafka=self._settings.kafka, reason=self._unreachable)
            finally:
                await self._retire(client)
            await asyncio.sleep(_RESTART_PAUSE_S)

    async def _retire(self, client: AIOKafkaProducer) -> None:
        """Let a client end what it is at, `_STOP_S` at most, and close it; what is left is given up."""
        delivery, self._delivery = self._delivery, None
        sent = [lane.sent for lane in self._lanes.values() if lane.sent is not None]
        if sent and not self._stopping:  # else they have had their time
            await settled(sent, _STOP_S)
        if delivery is not None:
            await delivery.stop()
        for lane in self._lanes.values():
            if lane.sent is not None:  # else its lane would stand still
                self._settle(lane.partition, KafkaUnreachableError("its client was given up"))
        await _close(client)

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
        await client.client.close()
        with contextlib.suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(client._sender.close(), _STOP_S)  # noqa: SLF001 - there is no other way to it
