"""The agent: chunk in, rows and table entries out, then the acknowledgement. One at a time, in order."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from faust.streams import Stream
from faust.types import TP, EventT, StreamT

from processors import exits
from processors.chunks import Records
from processors.ports import Context, Processor
from processors.producer import BatchSender, ProduceError
from processors.table import DedupeTable
from processors.table_store import StoreError
from processors.watchdog import Watchdog

CANCEL_S = 1.0
"""Longest wait for a chunk that is dropped because the worker stops."""


@dataclass(slots=True)
class Counters:
    """What one worker has done since it started."""

    records: int = 0
    chunks: int = 0
    entries: int = 0
    done: dict[TP, int] = field(default_factory=dict)
    """The offset after the last record processed, by partition."""


class Drain:
    """Ties processor, table and acknowledgement together: the order of the steps is the guarantee."""

    def __init__(
        self, processor: Callable[[], Processor], table: DedupeTable, sender: BatchSender, watchdog: Watchdog
    ) -> None:
        self.counters = Counters()
        self._new_processor = processor
        self._processor: Processor | None = None
        self._table = table
        self._sender = sender
        self._watchdog = watchdog
        self._working: asyncio.Task[Any] | None = None
        self._stopped = False

    async def run(self, stream: StreamT[Any]) -> None:
        """Process chunks until the stream ends. Whatever a chunk fails with ends the process."""
        if self._stopped:  # Faust starts agents again that it cancels
            return
        processor = await self._started()
        # Faust's interface of streams does not declare what its streams have.
        manual = cast(Stream[Any], stream).noack()
        async for event in cast(Stream[Any], manual).events():
            self._working = asyncio.current_task()
            await self._process(processor, event)
            self._working = None
            await manual.ack(event)
            self._watchdog.moved()

    async def stop(self) -> None:
        """Drop the chunk in work, if there still is one, and let the processor go."""
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
            except Exception as error:
                exits.leave(exits.PROCESSING, f"the processor cannot start: {error!r}", error)
        return self._processor

    async def _process(self, processor: Processor, event: EventT[Any]) -> None:
        message = event.message
        records = cast(Records, message.value)
        try:
            entries = await processor.process_chunk(message.topic, message.partition, records)
            await self._table.write(message.partition, entries, self._sender)
        except ProduceError as error:
            exits.leave(exits.KAFKA, str(error))
        except StoreError as error:
            exits.leave(exits.TABLE, str(error))
        except Exception as error:
            _leave(message.tp, records, error)
        self.counters.records += len(records)
        self.counters.chunks += 1
        self.counters.entries += len(entries)
        self.counters.done[message.tp] = message.offset + 1


def _leave(tp: TP, records: Records, error: Exception) -> NoReturn:
    where = f"{tp.topic}[{tp.partition}] offsets {records[0].offset}-{records[-1].offset}"
    exits.leave(exits.PROCESSING, f"processing {where} failed: {error!r}", error)
