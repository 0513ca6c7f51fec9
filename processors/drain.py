"""The agent: chunks in, rows and table entries out, then the acknowledgement. One bundle at a time, in order."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from faust.streams import Stream
from faust.types import TP, StreamT

from processors import exits, failpoints
from processors.chunks import Bundle, Chunk
from processors.ports import BundleProcessor, Context, Entry, Part, Processor
from processors.producer import BatchSender, ProduceError
from processors.table import DedupeTable
from processors.table_store import StoreError
from processors.watchdog import Watchdog

CANCEL_S = 1.0
"""Longest wait for chunks that are dropped because the worker stops."""


class Source(Protocol):
    """Where chunks come from."""

    @property
    def flow_active(self) -> bool:
        """False while partitions are being taken away: what is not begun will come again, here or elsewhere."""
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
        self._processor: Processor | None = None
        self._table = table
        self._sender = sender
        self._source = source
        self._watchdog = watchdog
        self._working: asyncio.Task[Any] | None = None
        self._stopped = False

    async def run(self, stream: StreamT[Any]) -> None:
        """Process chunks until the stream ends. Whatever a chunk fails with ends the process."""
        if self._stopped:  # Faust starts agents again that it cancels
            return
        processor = await self._started()
        # Faust's interface of streams does not declare what its streams have.
        manual = cast(Stream[Any], cast(Stream[Any], stream).noack())
        async for event in manual.events():
            self._working = asyncio.current_task()
            await self._process(processor, cast(Bundle, event.message.value))
            self._working = None
            await manual.ack(event)

    async def stop(self) -> None:
        """Drop the chunks in work, if there still are any, and let the processor go."""
        self._stopped = True
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working], timeout=CANCEL_S)
        processor, self._processor = self._processor, None
        if processor is not None:
            await processor.stop()

    async def _started(self) -> Processor:
        if self._processor is None:
            try:
                self._processor = self._new_processor()
                await self._processor.start(Context(self._table.lookup, self._sender, self._watchdog.moved))
            except Exception as error:  # noqa: BLE001 - no processor, no worker: whatever it is
                exits.leave(exits.PROCESSING, f"the processor cannot start: {error!r}", error)
        return self._processor

    async def _process(self, processor: Processor, bundle: Bundle) -> None:
        source = self._source()
        together = hasattr(processor, "process_chunks")
        for chunks in [bundle] if together else [[chunk] for chunk in bundle]:
            if not source.flow_active:
                return
            entries = await self._process_some(processor, chunks, together=together)
            if failpoints.ON:
                failpoints.hit(failpoints.BEFORE_ACK)
            for chunk, kept in zip(chunks, entries, strict=True):
                source.acknowledge(chunk)
                self._count(chunk, kept)
            if failpoints.ON:
                failpoints.hit(failpoints.AFTER_ACK)
            self._watchdog.moved()
        self.counters.bundles += 1

    async def _process_some(
        self, processor: Processor, chunks: Sequence[Chunk], *, together: bool
    ) -> Sequence[Sequence[Entry]]:
        parts = [Part(chunk.tp.topic, chunk.tp.partition, chunk.records) for chunk in chunks]
        try:
            entries = (
                await cast(BundleProcessor, processor).process_chunks(parts)
                if together
                else [await processor.process_chunk(*part) for part in parts]
            )
            await self._table.write(_by_partition(parts, entries), self._sender)
        except ProduceError as error:
            exits.leave(exits.KAFKA, str(error))
        except StoreError as error:
            exits.leave(exits.TABLE, str(error))
        except Exception as error:  # noqa: BLE001 - what nothing handles must not be skipped: Faust would
            exits.leave(exits.PROCESSING, f"processing {_where(chunks)} failed: {error!r}", error)
        return entries

    def _count(self, chunk: Chunk, entries: Sequence[Entry]) -> None:
        self.counters.records += len(chunk.records)
        self.counters.chunks += 1
        self.counters.entries += len(entries)
        self.counters.done[chunk.tp] = chunk.end


def _by_partition(parts: Sequence[Part], entries: Sequence[Sequence[Entry]]) -> dict[int, list[Entry]]:
    # The same partition of two topics is one partition of the table.
    together: dict[int, list[Entry]] = {}
    for part, kept in zip(parts, entries, strict=True):
        if kept:
            together.setdefault(part.partition, []).extend(kept)
    return together


def _where(chunks: Sequence[Chunk]) -> str:
    return ", ".join(f"{chunk.tp.topic}[{chunk.tp.partition}] {chunk.start}-{chunk.end - 1}" for chunk in chunks)
