"""A worker process for tests: appends what it processes to a file, one line per record, before it returns.

Run as ``python -m tests.processors.recording_worker FILE SOURCE [SOURCE]``, with ``HEADRACE_*`` set. Environment:
``TEST_CHUNK_DELAY_S`` makes each chunk slow; ``TEST_FAIL_AT`` raises at the record with that value;
``TEST_FAIL_SYNC`` has the broker refuse that one, counted from 1, of the requests that end a rebalance.
"""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Sequence

from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance
from aiokafka.errors import KafkaError

from processors.app import create_app, run
from processors.ports import Context, Entry, Record
from schemas.settings import Settings, load


class Recorder:
    """Writes ``worker topic partition offset value known time_us``; `known`: what the table had for the value."""

    def __init__(self, settings: Settings, path: str) -> None:
        self._worker = settings.worker_id.encode()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._delay_s = float(os.environ.get("TEST_CHUNK_DELAY_S", "0"))
        self._fail_at = os.environ.get("TEST_FAIL_AT", "").encode()

    async def start(self, context: Context) -> None:
        self._context = context

    async def process_chunk(self, topic: str, partition: int, records: Sequence[Record]) -> Sequence[Entry]:
        values = [record.value or b"-" for record in records]
        ids = [value.rjust(16, b"0")[:16] for value in values]
        known = self._context.lookup(partition, ids)
        if self._fail_at and self._fail_at in values:
            raise ValueError("told to fail")
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        now_us = time.time_ns() // 1000
        lines = [
            b"%s %s %d %d %s %s %d\n"
            % (self._worker, topic.encode(), partition, record.offset, value, seen or b"-", now_us)
            for record, value, seen in zip(records, values, known, strict=True)
        ]
        # One write: a killed worker leaves a chunk's lines whole or not at all.
        os.write(self._descriptor, b"".join(lines))
        return [
            (id_, b"%d:%d" % (partition, record.offset))
            for id_, record, seen in zip(ids, records, known, strict=True)
            if seen is None
        ]

    async def stop(self) -> None:
        os.close(self._descriptor)


def _refuse_sync(number: int) -> None:
    """As a coordinator does that has lost its followers: late, and with an error that aiokafka leaves to its user."""
    send = CoordinatorGroupRebalance._send_sync_group_request  # noqa: SLF001 - where the answer comes in
    calls = itertools.count(1)

    async def refused(rebalance: CoordinatorGroupRebalance, request: object) -> object:
        if next(calls) == number:
            await asyncio.sleep(1.0)
            raise KafkaError("told to fail")
        return await send(rebalance, request)  # type: ignore[no-untyped-call]

    CoordinatorGroupRebalance._send_sync_group_request = refused  # type: ignore[method-assign]  # noqa: SLF001


if __name__ == "__main__":
    if "TEST_FAIL_SYNC" in os.environ:
        _refuse_sync(int(os.environ["TEST_FAIL_SYNC"]))
    run(create_app(load(), lambda settings: Recorder(settings, sys.argv[1]), sys.argv[2:]))
