"""Takes whole chunks out of aiokafka's fetcher. Runs in the consumer's thread, on its event loop, and nowhere else.

It reads private parts of aiokafka (the version is pinned): only there can the position before and after a take be read
in one step with the records, which is what lets a chunk state exactly the offsets it covers.
"""

import asyncio
from itertools import islice
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import ConsumerStoppedError
from aiokafka.structs import TopicPartition
from faust.types import TP

from processors.chunks import Chunk, Records
from processors.ports import Record


class ChunkTaker:
    """One consumer's taker: knows from which partitions of the present assignment something was taken already."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer: Any = consumer  # its parts are declared as missing until it starts; here it has
        self._assignment: Any = None
        self._begun: set[TP] = set()

    async def take(self, active: frozenset[TP], timeout_s: float, records_max: int) -> list[Chunk]:
        """What lies ready in `active` partitions: a chunk of each, at most `records_max` records in all.

        Waits at most `timeout_s` seconds for the first one; returns none at all while partitions are being
        reassigned. Raises what aiokafka's background tasks have failed with, which nobody would see otherwise.
        """
        consumer, fetcher = self._consumer, self._consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        consumer._coordinator.check_errors()
        subscriptions = fetcher._subscriptions
        if subscriptions.reassignment_in_progress or subscriptions.subscription.assignment is None:
            await asyncio.sleep(min(timeout_s, 0.02))
            return []
        self._note_assignment(subscriptions.subscription.assignment, active)
        with subscriptions.fetch_context():
            chunks = self._drain(active, records_max)
            if not chunks and await self._wait(timeout_s):
                chunks = self._drain(active, records_max)
        return chunks

    async def _wait(self, timeout_s: float) -> bool:
        waiter = self._consumer._fetcher._create_fetch_waiter()
        done, _ = await asyncio.wait([waiter], timeout=timeout_s)
        if not done:
            waiter.cancel()
            return False
        waiter.result()
        return not self._consumer._fetcher._subscriptions.reassignment_in_progress

    def _note_assignment(self, assignment: Any, active: frozenset[TP]) -> None:
        if assignment is not self._assignment:
            self._assignment = assignment
            self._begun.clear()
        # Faust pauses by not taking; the fetcher would go on fetching, and hold back its next request for what lies.
        for tp in assignment.tps:
            state = assignment.state_value(tp)
            if tp in active:
                state.resume()
            elif not state.paused:
                state.pause()
                self._discard(tp)

    def _discard(self, tp: TopicPartition) -> None:
        fetcher = self._consumer._fetcher
        if fetcher._records.pop(tp, None) is not None:
            fetcher._notify(fetcher._wait_consume_future)

    def _drain(self, active: frozenset[TP], records_max: int) -> list[Chunk]:
        assignment, buffered = self._assignment, self._consumer._fetcher._records
        chunks: list[Chunk] = []
        if not assignment.active or self._consumer._subscription.subscription.assignment is not assignment:
            return chunks
        for tp in list(buffered):
            if records_max <= 0:
                break
            result = buffered[tp]
            if TP(*tp) not in active:
                self._discard(tp)
            elif isinstance(result, FetchResult):
                chunk = self._take_from(result, assignment.state_value(tp), records_max)
                if not result.has_more():
                    self._discard(tp)
                if chunk is not None:
                    chunks.append(chunk)
                    records_max -= len(chunk.records)
            elif not chunks:
                self._discard(tp)
                result.check_raise()
        return chunks

    def _take_from(self, result: FetchResult, state: Any, records_max: int) -> Chunk | None:
        tp = TP(*result._topic_partition)
        start = state._position
        records = _records(result, records_max)
        end = state._position
        if start is None or end == start:
            return None
        first = tp not in self._begun
        self._begun.add(tp)
        return Chunk(tp, start, end, records, self._consumer._coordinator.generation, first)


def _records(result: Any, records_max: int) -> Records:
    """What ``FetchResult.getall`` does, but with records of our own and one step each: at half the cost."""
    if not result.check_assignment(result._topic_partition) or not result.has_more():
        return []
    unread = result._partition_records
    unread._consumer_record = _record
    records = list(islice(unread._records_iterator, records_max))
    result._update_position()
    if len(records) < records_max:
        result._partition_records = None
    return records


def _record(tp: TopicPartition, read: Any) -> Record:
    return Record(tp.topic, tp.partition, read.offset, read.timestamp, read.key, read.value, read.headers)
