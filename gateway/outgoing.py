"""Records on their way out: batches of one partition each, and waiting for what becomes of them."""

import asyncio
from collections.abc import Collection

from aiokafka.record.default_records import DefaultRecordBatchBuilder

Headers = list[tuple[str, bytes | None]]


class Batch:
    """Records of one partition that are sent together; `acknowledged` ends with them."""

    def __init__(self, bytes_max: int) -> None:
        """A batch of `bytes_max` at the most, but always of one record."""
        self._builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=0,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=0,
            batch_size=bytes_max,
        )
        self.records = 0
        self.is_acknowledged = False  # whether Kafka is known to have it
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A request that gave up no longer asks; its batch's failure is counted here all the same.
        self.acknowledged.add_done_callback(lambda future: future.cancelled() or future.exception())

    def append(self, now_ms: int, key: bytes, value: bytes, headers: Headers) -> bool:
        """Append a record, unless the batch is full; whether it was appended."""
        if self._builder.append(self.records, now_ms, key, value, headers) is None:
            return False
        self.records += 1
        return True

    def build(self, producer_id: int, epoch: int, number: int) -> bytes:
        """The batch as Kafka takes it, with its place in the producer's numbering; no more can be appended."""
        self._builder.set_producer_state(producer_id, epoch, number)
        return bytes(self._builder.build())


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
