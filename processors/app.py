"""The worker process: a Faust app with the chunked transport, one agent and the dedupe table.

``headrace worker`` runs :func:`main`; ``faust -A processors.app worker`` runs the same app. Nothing connects to
anything until the worker starts.
"""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import faust
import uvloop
from faust.app.base import BootStrategy
from mode.utils.logging import level_number

from processors import connection, exits, metrics, transport
from processors.chunks import ChunkSchema
from processors.drain import Drain
from processors.logs import configure
from processors.ports import Processor
from processors.producer import BatchSender
from processors.recovery import ChunkTableManager
from processors.table import DedupeTable
from processors.transport import ChunkConsumer, IdempotentProducer
from processors.watchdog import Watchdog, limit_shutdown
from schemas import topics
from schemas.settings import Settings, load

COMMIT_EVERY_S = 0.5
"""Pause between commits of offsets: what a crash makes the next worker read again."""
REBALANCE_S = 30.0
"""How long the group waits for a member to join again before it goes on without it."""
REQUEST_S = 30.0
SAMPLE_EVERY_S = 1.0
GARBAGE_THRESHOLDS = (50_000, 20, 100)
"""Objects made between two searches for cycles, by generation. A bundle makes tens of thousands, in no cycles: Python's
own 700 has it searched again and again, at a third of what an event costs."""
BATCH_BYTES = 900_000
"""Largest batch: below Kafka's default limit for a message (1,048,588), which holds for the whole batch."""
REQUEST_BYTES = 2 * 1024 * 1024

_log = logging.getLogger("headrace.worker")


class _NoWeb(BootStrategy):
    enable_web = False


class WorkerApp(faust.App):
    """A Faust app that ends its process rather than living on without one of its parts."""

    BootStrategy = _NoWeb
    settings: Settings
    sources: Sequence[str]
    table: DedupeTable
    drain: Drain
    watchdog: Watchdog
    _watching: Sequence[asyncio.Task[None]] = ()
    _assigned_at = 0.0

    async def on_first_start(self) -> None:
        """Make the folders, and begin to watch."""
        self.conf.datadir.mkdir(parents=True, exist_ok=True)
        self._ready_file(exists=False)
        await super().on_first_start()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
        cast(ChunkConsumer, self.consumer).chunk_records_max = self.settings.chunk_events_max
        self.watchdog.start()
        looks = [self.watchdog.run(), cast(ChunkConsumer, self.consumer).watch_group()]
        if self.settings.worker_metrics_port:
            metrics.serve(self.settings.host, self.settings.worker_metrics_port)
            looks.append(self._sample())
        self._watching = [asyncio.create_task(look) for look in looks]

    async def _sample(self) -> None:
        """Keep up the metrics that nobody counts."""
        consumer = cast(ChunkConsumer, self.consumer)
        while not self.should_stop:
            metrics.LAG.set(consumer.lag())
            metrics.IN_FLIGHT.set(consumer.ledger.in_flight)
            metrics.STILL.set(self.watchdog.still_s)
            if self.tables.actives_ready:
                metrics.TABLE_ENTRIES.set(self.table.entries())
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def on_stop(self) -> None:
        """Finish the chunk in work, commit, then let the processor go."""
        await super().on_stop()
        await self.drain.stop()
        self.watchdog.stop()
        for look in self._watching:
            look.cancel()  # else mode waits a second for them

    def on_rebalance_start(self) -> None:
        """Partitions are being assigned anew."""
        super().on_rebalance_start()
        self._assigned_at = time.monotonic()

    def on_rebalance_end(self) -> None:
        """Tell whoever waits for it that partitions are assigned and the table is complete."""
        super().on_rebalance_end()
        metrics.RECOVERY.set(time.monotonic() - self._assigned_at)
        self.watchdog.moved()
        self._check_topics()
        held = sorted(tp.partition for tp in self.consumer.assignment() if tp.topic == self.table.changelog_topic_name)
        _log.info("ready: generation %s, partitions %s", self.consumer_generation_id, held)
        self._ready_file(exists=True)

    def _ready_file(self, *, exists: bool) -> None:
        if not self.settings.ready_file:
            return
        path = Path(self.settings.ready_file)
        if exists:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def _check_topics(self) -> None:
        consumer = cast(ChunkConsumer, self.consumer)
        counts = {topic: consumer.partitions_of(topic) for topic in (*self.sources, self.table.changelog_topic_name)}
        if 0 in counts.values() or len(set(counts.values())) > 1:
            exits.leave(exits.CONFIGURATION, f"topics must exist with equal partitions (headrace migrate): {counts}")

    def has_work(self) -> bool:
        """Whether there is anything that must move: chunks in work, records not taken, an assignment not yet usable."""
        if self.should_stop:
            return False
        consumer = cast(ChunkConsumer, self.consumer)
        return not self.tables.actives_ready or consumer.ledger.in_flight > 0 or consumer.lag() > 0

    def _crash(self, reason: BaseException) -> None:
        if not self.should_stop:
            exits.leave(exits.CRASHED, f"a part of the worker died: {reason!r}", reason)
        super()._crash(reason)


class HeadraceWorker(faust.Worker):
    """Faust's worker with an end to its shutdown, without its spinner and its sleep at the end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.spinner = None

    def _schedule_shutdown(self, signal: signal.Signals) -> None:
        limit_shutdown()
        super()._schedule_shutdown(signal)

    async def _sentinel_task(self) -> None:
        """Nothing is left to be waited for: mode sleeps a second here."""


def create_app(
    settings: Settings,
    processor: Callable[[Settings], Processor],
    sources: Sequence[str] = (topics.EVENTS, topics.RETRY),
) -> WorkerApp:
    """A worker that drains `sources`; `processor` is called once, when it starts. Connects to nothing yet."""
    transport.register()
    app = WorkerApp(settings.group, **_options(settings))
    app.settings = settings
    app.sources = sources
    app.watchdog = Watchdog(app.has_work, settings.stall_timeout_s)
    app.table = DedupeTable(
        app,
        store=f"{settings.table_store}://{topics.DEDUPE_TABLE}",
        partitions=settings.partitions,
        on_progress=app.watchdog.moved,
    )
    app.tables.add(app.table)
    sender = BatchSender(lambda: cast(IdempotentProducer, app.producer).client)
    app.drain = Drain(
        lambda: processor(settings), app.table, sender, lambda: cast(ChunkConsumer, app.consumer), app.watchdog
    )
    source = app.topic(*sources, schema=ChunkSchema(), partitions=settings.partitions)
    app.agent(source, name="drain", concurrency=1)(app.drain.run)
    return app


def _options(settings: Settings) -> dict[str, Any]:
    session_s = settings.session_timeout_ms / 1000
    return {
        "broker": connection.broker_urls(settings),
        "broker_credentials": connection.credentials(settings),
        "broker_client_id": settings.worker_id,
        "broker_commit_interval": COMMIT_EVERY_S,
        "broker_heartbeat_interval": session_s / 4,
        "broker_session_timeout": session_s,
        "broker_rebalance_timeout": REBALANCE_S,
        "broker_request_timeout": max(REQUEST_S, session_s),
        # A processor may wait for Postgres for long and must keep its partitions: the watchdog bounds that, not Kafka.
        "broker_max_poll_interval": 24 * 3600.0,
        "broker_max_poll_records": settings.chunk_events_max,
        "consumer_group_instance_id": settings.worker_id,
        "consumer_max_fetch_size": transport.PARTITION_FETCH_BYTES,
        "consumer_auto_offset_reset": "earliest",
        "producer_acks": -1,
        "producer_max_batch_size": BATCH_BYTES,
        "producer_max_request_size": REQUEST_BYTES,
        "producer_request_timeout": REQUEST_S,
        # Must differ between workers and stay the same for one: Faust checks it against the assignment it gets back.
        "canonical_url": f"http://{settings.worker_id}",
        "datadir": Path(settings.table_dir) / settings.worker_id,
        "stream_buffer_maxsize": 8,
        "stream_recovery_delay": 0.0,
        "stream_wait_empty": True,
        "table_standby_replicas": 0,
        "topic_allow_declare": False,
        "topic_disable_leader": True,
        "topic_partitions": settings.partitions,
        "web_enabled": False,
        "worker_redirect_stdouts": False,
        "TableManager": ChunkTableManager,
        "Worker": HeadraceWorker,
    }


def _default_processor(settings: Settings) -> Processor:
    from processors.processor import Processor as Default  # noqa: PLC0415 - only a worker that runs needs all of that

    return Default(settings)


def run(worker_app: WorkerApp) -> None:
    """Run `worker_app` until it is told to stop; exits the process, with 0 after a clean stop."""
    configure(worker_app.settings)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    worker = worker_app.Worker(
        loop=loop,
        loglevel=level_number(worker_app.settings.log_level),
        override_logging=False,
        redirect_stdouts=False,
        quiet=True,
    )
    worker.execute_from_commandline()


def main() -> None:
    """The ``headrace worker`` process."""
    run(app)


app = create_app(load(), _default_processor)
