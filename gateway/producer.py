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
from collections.abc import Collection, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from schemas import kafka, topics
from schemas.settings import Settings

log = structlog.get_logger(__name__)

_ROUND_S = 0.02
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

    def is_acknowledged(self) -> bool:
        """Whether Kafka is known to have it."""
        return self.acknowledged.done() and self.acknowledged.exception() is None


async def settled(batches: Collection[Batch], timeout_s: float) -> None:
    """Wait until each batch is acknowledged or lost, `timeout_s` at most; `asyncio.wait` does more than that."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    when_settled(batches, over)
    timer = loop.call_later(timeout_s, end, over)
    try:
        await over
    finally:
        timer.cancel()


def end(over: "asyncio.Future[None]") -> None:
    """End `over` if it has not ended before."""
    if not over.done():
        over.set_result(None)


def when_settled(batches: Collection[Batch], over: "asyncio.Future[None]") -> None:
    """Have `over` end when each batch is acknowledged or lost, if it has not ended before."""
    pending = len(batches)

    def count(_: object) -> None:
        nonlocal pending
        pending -= 1
        if not pending:
            end(over)

    for batch in batches:
        batch.acknowledged.add_done_callback(count)


class _Lane:
    """One partition's batches: those `closed` and full, and the `open` one. `sent` is the one under way."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.closed: deque[Batch] = deque()
        self.open: Batch | None = None
        self.sent: Batch | None = None

    def begin(self, builder: BatchBuilder) -> Batch:
        """A new open batch, where there is none or it is full."""
        if self.open is not None:
            self.closed.append(self.open)
        self.open = Batch(builder)
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
        self._kafka: AIOKafkaProducer | None = None
        self._unreachable: str | None = "not connected yet"
        self._lanes: dict[int, _Lane] = {}
        self._sender: asyncio.Task[None] | None = None
        self._failed = asyncio.Event()
        self._connection: asyncio.Task[None] | None = None
        self.in_flight_events = 0
        self.partitions = 0

    async def start(self) -> None:
        """Begin to connect, and stay connected from then on; returns at once."""
        self._connection = asyncio.create_task(self._stay_connected(), name="kafka-connection")

    async def stop(self) -> None:
        """Send what has been appended, then close; at most a few seconds."""
        pending = [batch for lane in self._lanes.values() for batch in lane.pending()]
        if pending:
            await settled(pending, _STOP_S)
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
        client = self._client()
        if self.in_flight_events + len(records) > self._settings.max_in_flight_events:
            raise QueueFullError
        now_ms = time.time_ns() // 1_000_000
        batches = []
        for key, value, headers in records:
            lane = self._lane(kafka.partition_of(key, self.partitions))
            batch = lane.open
            if batch is None or batch.builder.append(timestamp=now_ms, key=key, value=value, headers=headers) is None:
                batch = lane.begin(client.create_batch())
                taken = batch.builder.append(timestamp=now_ms, key=key, value=value, headers=headers)
                assert taken is not None, "max_batch_size holds every record that limits let in"  # noqa: S101
            batches.append(batch)
        self.in_flight_events += len(records)
        self._begin_to_send()
        return batches

    def _client(self) -> AIOKafkaProducer:
        if self._kafka is None:
            raise KafkaUnreachableError(str(self._unreachable))
        return self._kafka

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
            while batches := [(lane, batch) for lane in self._lanes.values() if (batch := lane.next()) is not None]:
                for lane, batch in batches:
                    await self._send(lane, batch)
                await settled([batch for _, batch in batches], _ROUND_S)
        finally:
            self._sender = None

    async def _send(self, lane: _Lane, batch: Batch) -> None:
        lane.sent = batch
        batch.builder.close()
        try:
            delivery = await self._client().send_batch(batch.builder, topics.EVENTS, partition=lane.partition)
        except (KafkaError, KafkaUnreachableError) as error:
            self._settle(lane, batch, error)
        else:
            delivery.add_done_callback(lambda future: self._settle(lane, batch, _error(future)))

    def _settle(self, lane: _Lane, batch: Batch, error: BaseException | None) -> None:
        """The batch is in the log, or it is not known to be."""
        if lane.sent is not batch:  # given up with its client; whatever became of it, its requests have been answered
            return
        lane.sent = None
        records = batch.builder.record_count()
        self.in_flight_events -= records
        if error is None:
            batch.acknowledged.set_result(None)
        else:
            log.warning("batch not acknowledged", partition=lane.partition, events=records, reason=repr(error))
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
                if not await _close(client):
                    self._give_up_sent()
            await asyncio.sleep(_RESTART_PAUSE_S)

    def _give_up_sent(self) -> None:
        """Settle what a client was at that is no more: nothing else ever would, and its lanes would stand still."""
        for lane in self._lanes.values():
            if lane.sent is not None:
                self._settle(lane, lane.sent, KafkaUnreachableError("its client was given up"))

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


def _error(delivery: "asyncio.Future[Any]") -> BaseException | None:
    return asyncio.CancelledError() if delivery.cancelled() else delivery.exception()


async def _close(client: AIOKafkaProducer) -> bool:
    """Close `client`, in order if Kafka lets it; False where its batches were left behind."""
    try:
        await asyncio.wait_for(client.stop(), _STOP_S)
    except (TimeoutError, KafkaError) as error:
        log.warning("kafka producer did not close cleanly", reason=repr(error))
        # It waits for its batches before it ends anything: what sends them must end all the same.
        await client.client.close()
        with contextlib.suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(client._sender.close(), _STOP_S)  # noqa: SLF001 - there is no other way to it
        return False
    return True
