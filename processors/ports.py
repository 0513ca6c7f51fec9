"""What the Faust side of a worker and the processing of its chunks ask of each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

Entry = tuple[bytes, bytes]
"""A key of the dedupe table and its value."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record as it was consumed. `timestamp` in milliseconds since 1970, its producer's or the broker's."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A record to produce. `partition` None: that of the key, by Java's murmur2; of no key: any."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None


class Producer(Protocol):
    """Writes records to Kafka."""

    async def send_many(self, topic: str, records: Sequence[Outgoing]) -> None:
        """Return when the brokers have acknowledged all of `records` with ``acks=all``; order holds per partition.

        Raises :class:`processors.producer.ProduceError` when they do not in time: some may have been written.
        """
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a processor is given when it starts."""

    lookup: Callable[[int, Sequence[bytes]], list[bytes | None]]
    """``lookup(partition, ids)``: the dedupe table's value for each id, None where there is none. Fast, never waits."""
    producer: Producer
    alive: Callable[[], None]
    """Tells the watchdog that the processor is waiting on purpose (for Postgres, say); call it every few seconds."""


class Part(NamedTuple):
    """A chunk: records of one partition, in order. There may be none: only markers of transactions lay there."""

    topic: str
    partition: int
    records: Sequence[Record]
    end: int
    """The offset after what the chunk covers."""


class Processor(Protocol):
    """Turns chunks of records into rows; the one part of a worker that knows what a record means."""

    async def start(self, context: Context) -> None:
        """Get ready. Called once, before the first chunk; an exception ends the process."""
        ...

    async def process_chunk(self, topic: str, partition: int, records: Sequence[Record]) -> Sequence[Entry]:
        """Process `records`, in order, and return what to put in the dedupe table for `partition`.

        When it returns, everything that must outlive a crash is safe: the chunk is acknowledged next. Called for one
        chunk at a time. A chunk can come again, whole or cut differently. An exception ends the process.
        """
        ...

    async def stop(self) -> None:
        """Let go of everything. Called once, after the last chunk."""
        ...


Entries = Mapping[int, Sequence[Entry]]
"""Entries for the dedupe table, by partition."""


class Committed(Protocol):
    """What a committed bundle leaves to be done."""

    @property
    def entries(self) -> Entries:
        """What to put in the dedupe table."""
        ...


class StagedProcessor(Processor, Protocol):
    """A processor that takes the chunks of several partitions together, and in three steps that can overlap.

    While one bundle is being told, the next one is committed, and the one after that is read. Each step sees the
    bundles in order, one at a time.
    """

    async def read(self, parts: Sequence[Part]) -> Any:
        """Read the records of `parts`, each of another partition. Changes nothing; lets other steps go on between."""
        ...

    async def commit(self, reading: Any) -> Committed:
        """Do in Postgres what :meth:`read` found. From then on its entries are true, and lookups must find them."""
        ...

    async def tell(self, committed: Any) -> None:
        """Tell Kafka of it. After that the table is written, and the bundle acknowledged."""
        ...
