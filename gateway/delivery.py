"""Batches on their way to the brokers: numbered once, and sent until a broker has answered for each.

This does what the sender within aiokafka's producer does for batches that are made by hand, without its queues and its
futures, four a batch. The numbers are the idempotent producer's: a broker that has a batch already says so, and
takes none out of order. So a batch goes out again with the number it had, and of each partition one is under way at a
time.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import DuplicateSequenceNumber, KafkaError, LeaderNotAvailableError, NoError, for_code
from aiokafka.structs import TopicPartition

from gateway.outgoing import Batch
from gateway.produce_request import ProduceRequest

log = structlog.get_logger(__name__)

_BACKOFF_S = 0.1
_REQUEST_TIMEOUT_MS = 30_000
_NUMBER_MASK = 0x7FFF_FFFF  # after the highest number comes 0

Settle = Callable[[int, BaseException | None], None]


class Delivery:
    """Delivers to one `topic` by means of a started, idempotent producer, which nobody else sends with.

    `settle(partition, error)` is called once for each batch: no error means that Kafka has it.
    """

    def __init__(self, producer: AIOKafkaProducer, topic: str, settle: Settle) -> None:
        self._client = producer.client
        self._identity = producer._txn_manager  # noqa: SLF001 - there is no other way to the producer's id
        self._topic = topic
        self._settle = settle
        self._numbers: defaultdict[int, int] = defaultdict(int)
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, batches: Mapping[int, Batch]) -> None:
        """Begin to deliver batches, by partition; none of these may have one under way."""
        built = {}
        identity = self._identity
        for partition, batch in batches.items():
            number = self._numbers[partition]
            self._numbers[partition] = (number + batch.records) & _NUMBER_MASK
            built[partition] = batch.build(identity.producer_id, identity.producer_epoch, number)
        self._send_built(built)

    async def stop(self) -> None:
        """End what is under way without an outcome."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _send_built(self, batches: dict[int, bytes]) -> None:
        by_leader: defaultdict[int | None, dict[int, bytes]] = defaultdict(dict)
        for partition, batch in batches.items():
            by_leader[self._leader(partition)][partition] = batch
        for leader, some in by_leader.items():
            task = asyncio.create_task(self._deliver(leader, some), name="kafka-delivery")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _leader(self, partition: int) -> int | None:
        node: int | None = self._client.cluster.leader_for_partition(TopicPartition(self._topic, partition))
        return None if node == -1 else node

    async def _deliver(self, leader: int | None, batches: dict[int, bytes]) -> None:
        """Send batches to their leader, and what it has not answered for once more. `batches` loses what is settled."""
        try:
            await self._ask(leader, batches)
            if batches:
                await asyncio.sleep(_BACKOFF_S)
                await self._client.force_metadata_update()
                self._send_built(batches)
        except Exception as error:  # whatever it was: nobody else settles these batches, and their requests would hang
            log.exception("batches could not be delivered")
            for partition in batches:
                self._settle(partition, error)

    async def _ask(self, leader: int | None, batches: dict[int, bytes]) -> None:
        errors: dict[int, KafkaError | None]
        try:
            if leader is None:
                raise LeaderNotAvailableError
            codes = await self._client.send(leader, ProduceRequest(self._topic, _REQUEST_TIMEOUT_MS, batches))
        except KafkaError as error:
            errors = dict.fromkeys(batches, error)
        else:
            errors = {partition: _error(codes.get(partition)) for partition in batches}
        for partition, fault in errors.items():
            if fault is None or not fault.retriable:
                del batches[partition]
                self._settle(partition, fault)
        if batches:
            reasons = sorted({repr(errors[partition]) for partition in batches})
            log.warning("batches are sent again", partitions=sorted(batches), reasons=reasons)


def _error(code: int | None) -> KafkaError | None:
    """The error that a partition's code means; None where the batch is in the log, now or since an earlier attempt."""
    if code is None:
        return KafkaError("the broker's answer says nothing of the partition")
    kind: type[KafkaError] = for_code(code)
    return None if kind in {NoError, DuplicateSequenceNumber} else kind()
