"""A table of a million keys: read anew within bounds, and, where the disk has no room for it, not taken for there."""

import asyncio
import logging
import os
import random
import resource
import time
from collections.abc import Iterator

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy import migrate
from deploy.process import rotate
from processors import exits
from schemas import topics
from schemas.settings import Settings
from tests.conftest import PARTITIONS
from tests.crash.world import World
from tests.stack import Stack

KEYS = 1_000_000
REBUILT_WITHIN_S = 35.0
RESTARTED_WITHIN_S = 15.0
FILE_BYTES_MAX = 4 * 1024 * 1024

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


@pytest.fixture
def million(bare_stack: Stack) -> Iterator[World]:
    """A group of its own that is at the end of the log, and whose table has a million keys; no worker has them yet."""
    world = World(bare_stack, seed=1_202, group=f"million-{random.randrange(10**9)}")  # noqa: S311 - a name
    settings = Settings(
        kafka=bare_stack.kafka, database_url=bare_stack.database_url, partitions=PARTITIONS, group=world.group
    )
    migrate.run(settings)
    asyncio.run(_go_to_end(bare_stack.kafka, world.group))
    asyncio.run(_fill(bare_stack.kafka, topics.changelog(world.group)))
    yield world
    bare_stack.stop()


async def _go_to_end(kafka: str, group: str) -> None:
    tps = [TopicPartition(topic, number) for topic in (topics.EVENTS, topics.RETRY) for number in range(PARTITIONS)]
    async with AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False) as consumer:
        consumer.assign(tps)
        await consumer.commit(await consumer.end_offsets(tps))


async def _fill(kafka: str, topic: str) -> None:
    """Entries as a worker writes them: 16 bytes of id; fingerprint and offset, 24 bytes."""
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks=1, max_batch_size=900_000) as producer:
        for number in range(PARTITIONS):
            left = KEYS // PARTITIONS + 1
            while left > 0:
                builder = producer.create_batch()
                while left > 0 and builder.append(timestamp=None, key=os.urandom(16), value=os.urandom(24)) is not None:
                    left -= 1
                builder.close()
                await (await producer.send_batch(builder, topic, partition=number))


@pytest.mark.timeout(180)
def test_full_disk_then_room_again_then_killed_and_back_in_time(million: World) -> None:
    world = million
    world.publish(60)
    rotate(world.stack.folder / "logs" / "worker-0.log", bytes_max=0)  # what earlier tests' workers said
    worker = world.start_worker(wait=False)
    # What this limit refuses, a full disk would: table files cannot grow. It binds the log too, which is shorter.
    psutil.Process(worker.pid).rlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
    assert worker.wait(60)
    assert worker.exit_code() == exits.TABLE, worker.failure()
    lines = worker.spec.log.read_text()
    assert lines.count("worker ends with code 74") == 1
    assert "the table cannot be recovered: table store" in lines
    assert "File too large" in lines
    assert world.done() == 0, "it processed without its table"
    world.stack.kill_worker()

    assert _restarted_s(world) < REBUILT_WITHIN_S, "the whole table, from the changelog"
    world.publish(200)
    world.wait()
    world.stack.kill_worker()

    world.publish(60)
    assert _restarted_s(world) < RESTARTED_WITHIN_S, "what was in memory when it was killed, from the changelog"
    world.check()


def _restarted_s(world: World) -> float:
    """Seconds from the start of a worker until it has processed all that waits."""
    begun = time.monotonic()
    world.start_worker()
    world.wait()
    took_s = time.monotonic() - begun
    log.info("a worker with %d keys processed again %.1f s after its start", KEYS, took_s)
    return took_s
