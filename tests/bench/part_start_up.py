"""Start-up: a worker whose dedupe table has many keys, from its start until its first event is processed.

The keys are written to the table's changelog as workers write them. Then the worker starts three times: with no
folder, with the folder that a killed worker leaves, and with the one that a stopped worker leaves.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator

from aiokafka import AIOKafkaProducer

from processors.pipeline import table_value
from schemas import kafka, topics
from schemas.settings import Settings
from tests.bench import backlog
from tests.bench.bed import PARTITIONS, Bed, row
from tests.bench.cpu import memory_mb
from tests.bench.payloads import SEED
from tests.bench.report import Goal, Row
from tests.bench.sizes import Sizes
from tests.stack import Backend, Stack

PART = "start-up"
_GOAL_KEYS = 5_000_000
_POLL_S = 0.02
_TIMEOUT_S = 300.0
_ID_BYTES = 16


def measure(bed: Bed, sizes: Sizes) -> Iterator[Row]:
    """The rows of this part."""
    for keys in sizes.start_up_keys:
        yield from _starts(bed, keys)


def _starts(bed: Bed, keys: int) -> Iterator[Row]:
    bed.new_topics()
    database = bed.new_database()
    asyncio.run(_fill_changelog(bed.kafka, keys))
    stack = bed.stack(database, f"start-up-{keys}")
    try:
        for number, (said, goal_s, end) in enumerate(_STARTS):
            seconds, now_mb, peak_mb = _first_event(bed, stack, database, number)
            end(stack)
            result = Row(
                f"worker start, {keys / 1e6:g} million keys, {said}", PART, settings={"keys": keys, "seed": SEED}
            )
            result.details = {"seconds": seconds, "rss_mb": now_mb, "peak_mb": peak_mb}
            if keys >= _GOAL_KEYS:
                result.goals = [Goal("start", seconds, goal_s, "s"), Goal("peak RSS", peak_mb, 400, "MB")]
            else:
                result.said = f"start {seconds:.1f} s; peak RSS {peak_mb:.0f} MB (goals are for 5 million)"
            yield result
    finally:
        stack.stop()


_STARTS: list[tuple[str, float, Callable[[Stack], None]]] = [
    ("folder gone", 45.0, Stack.kill_worker),
    ("folder kept, killed before", 10.0, Stack.stop_worker),
    ("folder kept, stopped before", 10.0, Stack.stop_worker),
]


def _first_event(bed: Bed, stack: Stack, database: Backend, number: int) -> tuple[float, float, float]:
    """Start a worker with an event waiting for it: seconds until that is processed, memory then, and at its peak."""
    backlog.fill(bed.kafka, topics.EVENTS, 1, first=number)
    start = time.monotonic()
    worker = stack.start_worker(wait=False)
    while row(database, "select count(*) from headrace.events") != (number + 1,):
        assert worker.exit_code() is None, worker.failure()
        assert time.monotonic() - start < _TIMEOUT_S, f"no event processed within {_TIMEOUT_S} s"
        time.sleep(_POLL_S)
    return time.monotonic() - start, *memory_mb(worker.pid)


async def _fill_changelog(bootstrap: str, keys: int) -> None:
    rng = random.Random(SEED)  # noqa: S311 - repeatable, not secret
    async with AIOKafkaProducer(**kafka.producing(Settings(kafka=bootstrap))) as producer:
        writer = backlog.Writer(producer, topics.changelog(Settings().group))
        for number in range(keys):
            drawn = rng.randbytes(2 * _ID_BYTES)
            value = table_value(drawn[_ID_BYTES:], number)
            await writer.add(number % PARTITIONS, drawn[:_ID_BYTES], value, [])
        await writer.finish()
