"""What the Faust side of a worker and the processing of its chunks ask of each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from aiokafka import ConsumerRecord

Entry = tuple[bytes, bytes]
"""A key of the dedupe table and its value."""


class Outgoing(NamedTuple):
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
    """A chunk: records of one partition, in order."""

    topic: str
    partition: int
    records: Sequence[ConsumerRecord[bytes | None, bytes | None]]


class Processor(Protocol):
    """Turns chunks of records into rows; the one part of a worker that knows what a record means."""

    async def start(self, context: Context) -> None:
        """Get ready. Called once, before the first chunk; an exception ends the process."""
        ...

    async def process_chunk(
        self, topic: str, partition: int, records: Sequence[ConsumerRecord[bytes | None, bytes | None]]
    ) -> Sequence[Entry]:
        """Process `records`, in order, and return what to put in the dedupe table for `partition`.

        When it returns, everything that must outlive a crash is safe: the chunk is acknowledged next. Called for one
        chunk at a time. A chunk can come again, whole or cut differently. An exception ends the process.
        """
        ...

    async def stop(self) -> None:
        """Let go of everything. Called once, after the last chunk."""
        ...


class BundleProcessor(Processor, Protocol):
    """A processor that takes the chunks of several partitions together, in one transaction.

    At a modest rate there is a record or two in each of many partitions: one by one, each costs a transaction.
    """

    async def process_chunks(self, parts: Sequence[Part]) -> Sequence[Sequence[Entry]]:
        """Process `parts`, each of another partition, as :meth:`process_chunk` would; the entries of each, in order."""
        ...
