"""Real topics on the tests' Kafka, and worker processes that record what they process."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete

from schemas.topics import changelog

T = TypeVar("T")

WAIT_S = 40.0


class Row(NamedTuple):
    """A record as a worker processed it."""

    worker: str
    topic: str
    partition: int
    offset: int
    value: str
    known: str
    time_us: int


class Rig:
    """One consumer group with topics of its own, and the workers in it."""

    def __init__(self, kafka: str, folder: Path, partitions: int = 4) -> None:
        self.kafka = kafka
        self.folder = folder
        self.partitions = partitions
        self.group = f"g-{uuid.uuid4().hex[:12]}"
        self.sources = (f"{self.group}-events", f"{self.group}-retry")
        self.changelog = changelog(self.group)
        self.record = folder / "record"
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        _run(self._create((*self.sources, self.changelog)))

    # -- topics

    async def _create(self, names: Iterable[str]) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        try:
            configs = {self.changelog: {"cleanup.policy": "compact,delete"}}
            wanted = [NewTopic(name, self.partitions, 1, topic_configs=configs.get(name, {})) for name in names]
            response: Any = await admin.create_topics(wanted)
            assert [code for _, code, *_ in response.topic_errors] == [0] * len(wanted), response
        finally:
            await admin.close()

    def recreate_changelog(self) -> None:
        """Delete the changelog, and make a new, empty one."""

        async def recreate() -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
            await admin.start()
            try:
                await admin.delete_topics([self.changelog])
                while self.changelog in await admin.list_topics():  # noqa: ASYNC110 - the broker tells nobody
                    await asyncio.sleep(0.1)
            finally:
                await admin.close()
            await self._create([self.changelog])

        _run(asyncio.wait_for(recreate(), WAIT_S))

    def cut_changelog(self, kept: int) -> None:
        """Delete all but the last `kept` records of each partition of the changelog, as its retention would."""

        async def cut(ends: dict[int, int]) -> None:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
            await admin.start()
            try:
                befores = {TopicPartition(self.changelog, at): RecordsToDelete(end - kept) for at, end in ends.items()}
                await admin.delete_records(befores)
            finally:
                await admin.close()

        _run(cut(self.ends(self.changelog)))

    def fill(self, start: int, count: int, *, source: int = 0, size: int = 100) -> None:
        """Produce values `start` … `start + count - 1`, spread over the partitions, in order within each."""

        async def fill() -> None:
            async with _producer(self.kafka) as producer:
                for number in range(start, start + count):
                    value = b"%d" % number
                    await producer.send(
                        self.sources[source],
                        value,
                        key=b"x" * size,
                        partition=number % self.partitions,
                    )

        _run(fill())

    def fill_one_by_one(self, count: int) -> dict[int, int]:
        """Produce values 0 … `count - 1`, each when the one before is processed; when each was sent, in µs."""

        async def fill() -> dict[int, int]:
            sent_us: dict[int, int] = {}
            async with _producer(self.kafka) as producer:
                await producer.partitions_for(self.sources[0])
                for number in range(count):
                    sent_us[number] = time.time_ns() // 1000
                    await producer.send_and_wait(self.sources[0], b"%d" % number, partition=number % self.partitions)
                    await asyncio.to_thread(self.wait_for_values, number + 1)
            return sent_us

        return _run(fill())

    def ends(self, topic: str) -> dict[int, int]:
        """End offset of each partition."""

        async def ends() -> dict[int, int]:
            async with AIOKafkaConsumer(bootstrap_servers=self.kafka) as consumer:
                tps = [TopicPartition(topic, number) for number in range(self.partitions)]
                return {tp.partition: end for tp, end in (await consumer.end_offsets(tps)).items()}

        return _run(ends())

    def committed(self, topic: str) -> dict[int, int]:
        """Committed offset of each partition, 0 where there is none."""

        async def committed() -> dict[int, int]:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
            await admin.start()
            try:
                offsets = await admin.list_consumer_group_offsets(self.group)
            finally:
                await admin.close()
            found = {tp.partition: kept.offset for tp, kept in offsets.items() if tp.topic == topic}
            return {number: max(found.get(number, 0), 0) for number in range(self.partitions)}

        return _run(committed())

    # -- workers

    def start(self, worker_id: str = "w0", *, wait: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker, and wait until it is ready. Keywords go to its environment."""
        ready = self.folder / f"{worker_id}.ready"
        ready.unlink(missing_ok=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")} | {
            "HEADRACE_KAFKA": self.kafka,
            "HEADRACE_GROUP": self.group,
            "HEADRACE_WORKER_ID": worker_id,
            "HEADRACE_PARTITIONS": str(self.partitions),
            "HEADRACE_TABLE_DIR": str(self.folder / "tables"),
            "HEADRACE_READY_FILE": str(ready),
            "HEADRACE_SESSION_TIMEOUT_MS": "6000",
            "HEADRACE_CHUNK_EVENTS_MAX": "200",
            **environment,
        }
        command = [sys.executable, "-m", "tests.processors.recording_worker", str(self.record), *self.sources]
        with (self.folder / f"{worker_id}.log").open("ab") as log:
            worker = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        self.workers[worker_id] = worker
        if wait:
            self.wait(lambda: ready.exists() or worker.poll() is not None, f"{worker_id} ready")
            assert worker.poll() is None, self.log(worker_id)
        return worker

    def stop(self, worker_id: str = "w0", number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, return the exit code."""
        worker = self.workers.pop(worker_id)
        worker.send_signal(number)
        return worker.wait(15)

    def kill(self, worker_id: str = "w0") -> None:
        """SIGKILL."""
        self.stop(worker_id, signal.SIGKILL)

    def close(self) -> None:
        """Kill what is left."""
        for worker_id in list(self.workers):
            self.kill(worker_id)

    def log(self, worker_id: str = "w0") -> str:
        """What a worker has logged."""
        return (self.folder / f"{worker_id}.log").read_text()

    # -- what was processed

    def rows(self) -> list[Row]:
        """Everything processed so far, in order."""
        if not self.record.exists():
            return []
        whole, _, _ = self.record.read_text().rpartition("\n")  # without a line that is just being written
        split = (line.split() for line in whole.splitlines())
        return [Row(w, t, int(p), int(o), v, k, int(us)) for w, t, p, o, v, k, us in split]

    def values(self) -> set[int]:
        """The distinct values processed so far."""
        return {int(row.value) for row in self.rows()}

    def wait_for_rows(self, count: int) -> None:
        """Wait until `count` records were processed, the same ones again included."""
        self.wait(lambda: len(self.rows()) >= count, f"{count} rows")

    def wait_for_commit(self) -> None:
        """Wait until all that is in the first source is committed."""
        topic = self.sources[0]
        self.wait(lambda: self.committed(topic) == self.ends(topic), "all committed")

    def wait_for_values(self, count: int) -> None:
        """Wait until values 0 … `count - 1` are processed."""
        self.wait(lambda: len(self.values()) >= count, f"{count} values processed")
        assert self.values() == set(range(count))

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Poll until `condition`; fails the test with `what`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            logs = "\n".join(self.log(worker_id)[-3000:] for worker_id in self.workers)
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}\n{logs}"
            time.sleep(0.05)


def assert_in_order(rows: Iterable[Row], *, restarts: int) -> None:
    """Per partition and worker run: no offset skipped; going back only at a restart, and only to what came before."""
    expected: dict[tuple[str, int], int] = {}
    back: dict[tuple[str, int], int] = {}
    for row in rows:
        place = (row.topic, row.partition)
        following = expected.get(place, 0)
        assert row.offset <= following, f"{place}: offset {row.offset} although {following} was not processed"
        if row.offset < following:
            back[place] = back.get(place, 0) + 1
        expected[place] = row.offset + 1
    assert all(times <= restarts for times in back.values()), back


def _producer(kafka: str) -> AIOKafkaProducer:
    return AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True, linger_ms=5)


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)
