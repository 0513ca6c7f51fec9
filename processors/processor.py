"""A bundle's way: read, commit, tell. Chunks of many partitions at once, and what is told only after it is committed.

The order is: Postgres commits; statuses and dead letters go to Kafka; the caller writes the dedupe table and then
acknowledges the chunks. Whatever a crash cuts off is done again from the log; what was done already shows by the rows.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from processors import events, failpoints, metrics, outbox, retries
from processors.attempts import Attempts
from processors.database import Database
from processors.handling import load_handlers
from processors.ports import Context, Entry, Part, Record
from processors.runner import Runner
from processors.suspects import Suspects
from processors.upkeep import Upkeep
from processors.written import Written
from schemas import topics
from schemas.reader import EventReader
from schemas.settings import Settings


class Reading(msgspec.Struct, frozen=True):
    """A bundle that was read: transactions to be, in order."""

    parts: Sequence[Part]
    events: Sequence[events.Read]
    retries: retries.Read | None


class Processor:
    """Processes the bundles of one worker; see :class:`processors.ports.StagedProcessor`."""

    def __init__(self, settings: Settings) -> None:
        self._database = Database(settings)
        reader = EventReader(settings.max_event_bytes)
        self._suspects = Suspects(Path(settings.table_dir) / settings.worker_id / "handling")
        self._runner = Runner(load_handlers(settings.handlers), settings.handler_timeout_s, self._suspects)
        attempts = Attempts(self._runner)
        self._events = events.Events(self._database, reader, attempts)
        self._retries = retries.Retries(self._database, reader, attempts)
        self._upkeep = Upkeep(settings, self._database)
        self._context: Context | None = None

    async def start(self, context: Context) -> None:
        """Connect to Postgres, waiting for it if need be, and begin the upkeep."""
        self._context = context
        self._database.alive = self._runner.alive = context.alive
        await self._database.start()
        await self._upkeep.start(context)

    async def stop(self) -> None:
        """End the upkeep and the connections."""
        await self._upkeep.stop()
        await self._database.stop()
        self._suspects.close()

    async def read(self, parts: Sequence[Part]) -> Reading:
        """See :class:`processors.ports.StagedProcessor`."""
        again = [part for part in parts if part.topic == topics.RETRY]
        return Reading(
            parts,
            await self._events.read([part for part in parts if part.topic != topics.RETRY]),
            self._retries.read(again) if again else None,
        )

    async def commit(self, reading: Reading) -> Written:
        """See :class:`processors.ports.StagedProcessor`. Waits for Postgres as long as it takes."""
        written = Written()
        for read in reading.events:
            written.add(await self._events.process(read, self._started.lookup))
        if reading.retries is not None:
            written.add(await self._retries.process(reading.retries))
        self._upkeep.committed(written.entries)
        if failpoints.ON:
            failpoints.hit(failpoints.AFTER_COMMIT)
        metrics.count(reading.parts, written)
        return written

    async def tell(self, written: Written) -> None:
        """See :class:`processors.ports.StagedProcessor`."""
        producer = self._started.producer
        await producer.send_many(topics.STATUS, written.statuses)
        await producer.send_many(topics.DEAD_LETTERS, outbox.dead_letter_records(written.letters))

    async def process_chunk(self, topic: str, partition: int, records: Sequence[Record]) -> Sequence[Entry]:
        """See :class:`processors.ports.Processor`."""
        if not records:
            return []
        written = await self.commit(await self.read([Part(topic, partition, records, records[-1].offset + 1)]))
        await self.tell(written)
        return written.entries.get(partition, [])

    @property
    def _started(self) -> Context:
        assert self._context is not None, "start() comes first"  # noqa: S101
        return self._context
