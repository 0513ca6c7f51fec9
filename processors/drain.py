"""The agent: chunks in, rows and table entries out, then the acknowledgement.

Bundles overlap by stages: while one is told to Kafka and written to the table, the next is committed in Postgres, and
the one after that is read. Each stage takes one bundle at a time, in order; each bundle passes them in order.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from faust.streams import Stream
from faust.types import TP, EventT, StreamT

from processors import exits, failpoints
from processors.chunks import Bundle, Chunk
from processors.ports import Context, Entries, Part, Processor, StagedProcessor
from processors.producer import BatchSender, ProduceError
from processors.stages import staged
from processors.table import DedupeTable
from processors.table_store import StoreError
from processors.watchdog import Watchdog

CANCEL_S = 1.0
"""Longest wait for chunks that are dropped because the worker stops."""


class Source(Protocol):
    """Where chunks come from."""

    def holds(self, chunk: Chunk) -> bool:
        """False once `chunk`'s partition is being taken away: what is not begun will come again, here or elsewhere."""
        ...

    def acknowledge(self, chunk: Chunk) -> bool:
        """Note that `chunk` is processed, and may be committed when those before it are."""
        ...


@dataclass(slots=True)
class Counters:
    """What one worker has done since it started."""

    records: int = 0
    chunks: int = 0
    bundles: int = 0
    entries: int = 0
    done: dict[TP, int] = field(default_factory=dict)
    """The offset after the last record processed, by partition."""


class Drain:
    """Ties processor, table and acknowledgement together: the order of the steps is the guarantee."""

    def __init__(
        self,
        processor: Callable[[], Processor],
        table: DedupeTable,
        sender: BatchSender,
        source: Callable[[], Source],
        watchdog: Watchdog,
    ) -> None:
        """`processor` and `source` are called when the agent starts."""
        self.counters = Counters()
        self._new_processor = processor
        self._processor: StagedProcessor | None = None
        self._table = table
        self._sender = sender
        self._source = source
        self._watchdog = watchdog
        self._reading = asyncio.Lock()
        self._committing = asyncio.Lock()
        self._telling = asyncio.Lock()
        self._working: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def run(self, stream: StreamT[Any]) -> None:
        """Process bundles until the stream ends. Whatever one fails with ends the process."""
        if self._stopped:  # Faust starts agents again that it cancels
            return
        processor = await self._started()
        # Faust's interface of streams does not declare what its streams have.
        manual = cast(Stream[Any], cast(Stream[Any], stream).noack())
        async for event in manual.events():
            # As many at once as the consumer gives before the first of them is acknowledged.
            work = asyncio.create_task(self._process(processor, manual, event))
            self._working.add(work)
            work.add_done_callback(self._working.discard)

    async def stop(self) -> None:
        """Drop the bundles in work, if there still are any, and let the processor go."""
        self._stopped = True
        for work in self._working:
            work.cancel()
        if self._working:
            await asyncio.wait(self._working, timeout=CANCEL_S)
        processor, self._processor = self._processor, None
        if processor is not None:
            await processor.stop()

    async def _started(self) -> StagedProcessor:
        if self._processor is None:
            try:
                self._processor = staged(self._new_processor())
                await self._processor.start(Context(self._table.lookup, self._sender, self._watchdog.moved))
            except Exception as error:  # noqa: BLE001 - no processor, no worker: whatever it is
                exits.leave(exits.PROCESSING, f"the processor cannot start: {error!r}", error)
        return self._processor

    async def _process(self, processor: StagedProcessor, stream: Stream[Any], event: EventT[Any]) -> None:
        bundle = cast(Bundle, event.message.value)
        try:
            await self._process_bundle(processor, bundle)
            await stream.ack(event)
        except ProduceError as error:
            exits.leave(exits.KAFKA, str(error))
        except StoreError as error:
            exits.leave(exits.TABLE, str(error))
        except Exception as error:  # noqa: BLE001 - what nothing handles must not be skipped: Faust would
            exits.leave(exits.PROCESSING, f"processing {_where(bundle)} failed: {error!r}", error)

    async def _process_bundle(self, processor: StagedProcessor, bundle: Bundle) -> None:
        source = self._source()
        # Locks are fair: bundles pass each stage in the order in which they came.
        async with self._reading:
            reading = await processor.read(
                [Part(chunk.tp.topic, chunk.tp.partition, chunk.records, chunk.end) for chunk in bundle]
            )
        async with self._committing:
            if not all(map(source.holds, bundle)):
                return
            committed = await processor.commit(reading)
            self._table.expect(committed.entries)
        self._watchdog.moved()
        async with self._telling:
            await processor.tell(committed)
            await self._table.write(committed.entries, self._sender)
            if failpoints.ON:
                failpoints.hit(failpoints.BEFORE_ACK)
            for chunk in bundle:
                source.acknowledge(chunk)
            self._count(bundle, committed.entries)
            if failpoints.ON:
                failpoints.hit(failpoints.AFTER_ACK)
        self._watchdog.moved()

    def _count(self, bundle: Bundle, entries: Entries) -> None:
        self.counters.bundles += 1
        self.counters.chunks += len(bundle)
        self.counters.entries += sum(map(len, entries.values()))
        for chunk in bundle:
            self.counters.records += len(chunk.records)
            self.counters.done[chunk.tp] = chunk.end


def _where(chunks: Bundle) -> str:
    return ", ".join(f"{chunk.tp.topic}[{chunk.tp.partition}] {chunk.start}-{chunk.end - 1}" for chunk in chunks)
