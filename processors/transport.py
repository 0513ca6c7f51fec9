"""Faust's transport with chunks in place of single messages, under the URL scheme ``headrace``.

Faust spends 65 µs and two tasks on each message it moves; here the message is a chunk of up to thousands of records,
so that cost is shared by all of them. What stays Faust's: group membership, rebalancing, recovery of tables, streams
and agents. What is replaced: how records are taken from the client (:mod:`processors.fetch`), which offset may be
committed (:mod:`processors.commit`), and every unbounded wait or silent failure on the way.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NoReturn, cast

import aiokafka
import uvloop
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError
from faust.transport.consumer import Fetcher
from faust.transport.drivers import TRANSPORTS
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from faust.types.transports import TransportT
from mode import Service
from mode.types import ServiceT

from processors import exits
from processors.chunks import Bundle, Chunk, to_message
from processors.commit import Ledger, PositionJumpError
from processors.fetch import ChunkTaker
from processors.gathering import Gathering

SCHEME = "headrace"

BUNDLES_IN_FLIGHT_MAX = 3
"""Bundles of chunks taken and not yet done with: as many as there are stages. Where the last one was not large, records
gather until it is done with, as in Nagle's algorithm (RFC 896): more of them then share what a bundle itself costs."""
_LARGE = 0.15
"""Of the most records that a bundle takes."""
_ENOUGH = 0.5
"""The same: for more than that no bundle waits."""
POLL_S = 0.2
"""Longest wait for records before the loop looks again at what changed around it."""
GATHER_POLL_S = 0.05
"""Pause between looks at whether enough records have gathered."""
FETCH_WAIT_MS = 100
"""How long a broker holds a fetch with nothing to give. While one is out, newly drained partitions wait for it."""
PARTITION_FETCH_BYTES = 2 * 1024 * 1024
RECOVERY_RECORDS_MAX = 20_000
"""Most changelog records applied to the table at once while it recovers."""
DRAIN_S = 20.0
"""Longest wait, when partitions are taken away, for the chunk in work."""
DRAIN_AT_STOP_S = 5.0
"""The same when the worker is told to stop; with all the rest it must end within 10 s."""
LOOK_EVERY_S = 1.0
"""Pause between looks at whether joining the group has failed."""
COMMIT_S = 60.0
"""Longest wait for the group coordinator to take a commit."""

_log = logging.getLogger(__name__)


class ChunkThread(driver.AIOKafkaConsumerThread):
    """The consumer's thread: aiokafka runs here, so that heartbeats go out however long a chunk computes."""

    _taker: ChunkTaker | None = None

    async def on_start(self) -> None:
        """Connect; see :meth:`IdempotentProducer.on_start`."""
        try:
            await super().on_start()
        except KafkaError as error:
            _leave_unconnected(self.transport, error)

    async def take(self, active: frozenset[TP], records_max: int) -> list[Chunk]:
        """Chunks of `active` partitions; see :meth:`processors.fetch.ChunkTaker.take`."""
        return cast(list[Chunk], await self.call_thread(self._take, active, records_max))

    async def _take(self, active: frozenset[TP], records_max: int) -> list[Chunk]:
        if not self.consumer.flow_active:
            return []
        if self._taker is None:
            self._taker = ChunkTaker(self._ensure_consumer())
        return await self._taker.take(active, POLL_S, records_max)

    async def check(self) -> None:
        """Raise what joining the group has failed with: it is not tried again before somebody has seen that."""
        await self.call_thread(self._check)

    async def _check(self) -> None:
        if self._consumer is not None and self._consumer._coordinator is not None:
            self._consumer._coordinator.check_errors()

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def on_thread_stop(self) -> None:
        """Leave the group on a clean stop, which a static member does not do by itself: others take over at once."""
        if self._consumer is not None and self._consumer._coordinator is not None:
            self._consumer._coordinator._group_instance_id = None
        await super().on_thread_stop()


class ChunkConsumer(driver.Consumer):
    """Delivers chunks to the agent, a bounded number at a time, and commits the end of the last one done in order."""

    _thread: ChunkThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ledger = Ledger()
        self.chunk_records_max = 4_000
        self._in_flight = 0
        self._last_was_large = False
        self._gathering = Gathering()
        self._ack_event = asyncio.Event()
        super().__init__(*args, **kwargs)

    def _new_consumer_thread(self) -> ChunkThread:
        return ChunkThread(self, loop=self.loop, beacon=self.beacon, thread_loop=uvloop.new_event_loop())

    async def watch_group(self) -> None:
        """End the process when it cannot join its group; while there is no assignment nothing else would notice."""
        while not self.app.should_stop:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._thread.check()
            except KafkaError as error:
                if not self.app.should_stop:
                    exits.leave(exits.KAFKA, f"cannot join the consumer group: {error!r}")

    # -- from the client to the agent

    async def _drain_messages(self, fetcher: ServiceT) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                for bundle in self._bundles(await self._next_chunks()):
                    await self.wait_first(self.callback(to_message(bundle)), self.suspend_flow.wait())
        except ConsumerStoppedError as error:
            if not self.app.should_stop:
                exits.leave(exits.KAFKA, "the Kafka consumer has stopped", error)
        except PositionJumpError as error:
            exits.leave(exits.KAFKA, str(error))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a worker that consumes nothing must not live on, whatever it was
            exits.leave(exits.KAFKA, f"consuming failed: {error!r}", error)

    async def _next_chunks(self) -> list[Chunk]:
        if not self.flow_active:
            await self._wait_for(self.can_resume_flow)
            return []
        if self._in_flight >= (BUNDLES_IN_FLIGHT_MAX if self._last_was_large else 1):
            self._ack_event.clear()
            await self._wait_for(self._ack_event)
            return []
        wait_s = self._gathering.wait_s(self.loop.time())
        if wait_s and self.lag() < _ENOUGH * self.chunk_records_max:
            await asyncio.sleep(min(wait_s, GATHER_POLL_S))
            return []
        active = self._takeable()
        if not active:
            await asyncio.sleep(0.01)
            return []
        records_max = RECOVERY_RECORDS_MAX if self.app.rebalancing else self.chunk_records_max
        return await self._thread.take(active, records_max)

    async def _wait_for(self, event: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(event.wait(), POLL_S)
        except TimeoutError:
            return

    def _takeable(self) -> frozenset[TP]:
        active = frozenset(self._get_active_partitions())
        if self.app.rebalancing:
            # What goes into the streams' queues before recovery ends is thrown away when flow resumes.
            return frozenset(tp for tp in active if self._is_changelog_tp(tp))
        return active

    def _bundles(self, chunks: list[Chunk]) -> list[Bundle]:
        """What to deliver: changelogs by the chunk, since Faust's recovery counts by partition; the rest together."""
        changelogs = [[chunk] for chunk in chunks if self._is_changelog_tp(chunk.tp)]
        noted = [self._note(chunk) for chunk in chunks if not self._is_changelog_tp(chunk.tp)]
        bundle = [chunk for chunk in noted if chunk is not None]
        if not bundle:
            return changelogs
        self._in_flight += 1
        records = sum(len(chunk.records) for chunk in bundle)
        self._gathering.took(self.loop.time(), records)
        self._last_was_large = records >= _LARGE * self.chunk_records_max
        return [*changelogs, bundle]

    def _note(self, chunk: Chunk) -> Chunk | None:
        ticket = self.ledger.deliver(chunk.tp, chunk.start, chunk.end, first=chunk.first, generation=chunk.generation)
        return None if ticket is None else chunk._replace(ticket=ticket)

    def on_buffer_full(self, tp: TP) -> None:
        """Nothing: the number of chunks in flight is the bound, and Faust's own makes the fetcher sleep a second."""

    def on_buffer_drop(self, tp: TP) -> None:
        """Nothing; see :meth:`on_buffer_full`."""

    # -- acknowledging and committing

    def holds(self, chunk: Chunk) -> bool:
        """Whether `chunk`'s partition is still this worker's, and not being taken away."""
        return bool(self.flow_active) and chunk.generation == self.ledger.generation

    def acknowledge(self, chunk: Chunk) -> bool:
        """Note that `chunk` is processed. False when its assignment has ended: it will come again."""
        return chunk.ticket is not None and self.ledger.acknowledge(chunk.tp, chunk.ticket)

    def ack(self, message: Message) -> bool:
        """Note that the agent is done with a bundle. What it left unacknowledged of it will come again."""
        message.acked = True
        self._unacked_messages.discard(message)
        if message.generation_id == self.ledger.generation:
            self._in_flight -= 1
        self._ack_event.set()
        return True

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what is done in order, in partitions still assigned. Ends the process when it takes too long."""
        assigned = self.assignment()
        offsets = {tp: offset for tp, offset in self.ledger.committable().items() if tp in assigned}
        if not offsets:
            return False
        try:
            taken = await asyncio.wait_for(self._commit(offsets), COMMIT_S)
        except TimeoutError:
            exits.leave(exits.KAFKA, f"no commit taken by the group coordinator for {COMMIT_S:.0f} s")
        if taken:
            self.ledger.committed(offsets)
        return taken

    async def perform_seek(self) -> None:
        """Nothing: after each assignment the client starts at the committed offsets by itself."""

    async def wait_empty(self) -> None:
        """Wait for the chunk in work, for a bounded time, then commit all that is done."""
        limit_s = DRAIN_AT_STOP_S if self.app.should_stop else DRAIN_S
        deadline = self.loop.time() + limit_s
        while self._unacked_messages and self.loop.time() < deadline:
            self._ack_event.clear()
            await self._wait_for(self._ack_event)
        if self._unacked_messages:
            _log.warning("a chunk is still in work after %.0f s; it will be processed again", limit_s)
        # A commit that was already under way is waited for but may not hold the last chunk: so twice.
        await self.commit()
        if self.ledger.committable():
            await self.commit()

    def partitions_of(self, topic: str) -> int:
        """How many partitions `topic` has, as far as the client knows; 0: there is no such topic."""
        consumer = self._thread._ensure_consumer()
        return len(consumer._client.cluster.partitions_for_topic(topic) or ())

    def lag(self) -> int:
        """Records known to be in the partitions behind what was delivered to the agent."""
        behind = 0
        for tp, position in self.ledger.positions().items():
            try:
                behind += max((self.highwater(tp) or 0) - position, 0)
            except (IllegalStateError, AssertionError):  # taken away meanwhile
                continue
        return behind

    # -- assignment

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Start a new page in the ledger, then let Faust do its part."""
        self.ledger.begin(generation_id)
        self._in_flight = 0
        await super().on_partitions_assigned(assigned, generation_id)

    async def verify_all_partitions_active(self) -> None:
        """Nothing: the watchdog watches progress, and acts on it."""


class ChunkFetcher(Fetcher):
    """Runs the consumer's loop, and just ends when it is cancelled.

    Faust's own takes a cancellation during a rebalance for a crash of the whole worker: its threads stop serving calls,
    and whoever waits for one, the last commit of a worker told to stop, waits for ever.
    """

    @Service.task
    async def _fetcher(self) -> None:
        try:
            await cast(ChunkConsumer, self.app.consumer)._drain_messages(self)
        finally:
            self.set_shutdown()


class IdempotentProducer(driver.Producer):
    """Faust's producer with what aiokafka leaves off by default."""

    async def on_start(self) -> None:
        """Connect. Where that fails, the process ends: starting it again, with pauses, is its supervisor's part."""
        try:
            await super().on_start()
        except KafkaError as error:
            _leave_unconnected(self.transport, error)

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    @property
    def client(self) -> aiokafka.AIOKafkaProducer:
        """The running aiokafka producer. Raises faust's NotReady before it is started."""
        return self._ensure_producer()


class ChunkTransport(driver.Transport):
    """Registered under ``headrace://``."""

    Consumer = ChunkConsumer
    Producer = IdempotentProducer
    Fetcher = ChunkFetcher


def _leave_unconnected(transport: TransportT, error: KafkaError) -> NoReturn:
    servers = ", ".join(driver.server_list(transport.url, driver.Transport.default_port))
    exits.leave(exits.KAFKA, f"cannot connect to Kafka at {servers}: {error}")


def register() -> None:
    """Make ``headrace://`` known to Faust."""
    TRANSPORTS.aliases[SCHEME] = f"{__name__}:{ChunkTransport.__name__}"
