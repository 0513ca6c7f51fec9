"""Publishes straight to Kafka as any service would, what is no event at all included, and writes every answer down."""

import asyncio
import random
import threading
import time
import uuid
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from schemas import topics
from tests.chaos.journal import Journal
from tests.chaos.money import Money
from tests.model import Sent

_ANSWER_S = 30.0
_START_S = 20.0
_STOP_S = 5.0


class _Record(NamedTuple):
    key: bytes | None
    value: bytes | None
    sent: Sent | None


class Publisher(threading.Thread):
    """One service with an idempotent producer and ``acks=all``."""

    def __init__(self, number: int, kafka: str, journal: Journal, traffic: Money) -> None:
        super().__init__(name=f"publisher-{number}", daemon=True)
        self.stopping = threading.Event()
        self.pause_s = 0.3
        self._random = random.Random(number)  # noqa: S311 - repeatable, not secret
        self._kafka = kafka
        self._journal = journal
        self._traffic = traffic

    def run(self) -> None:
        """Publish until told to stop, with a new producer after each failure."""
        while not self.stopping.is_set():
            try:
                asyncio.run(self._publish_all())
            except (KafkaError, TimeoutError):
                self.stopping.wait(0.5)

    async def _publish_all(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._kafka, acks="all", enable_idempotence=True, request_timeout_ms=10_000
        )
        try:
            await asyncio.wait_for(producer.start(), _START_S)
            while not self.stopping.is_set():
                await self._publish(producer, self._records())
                await asyncio.sleep(self._random.uniform(0.5, 1.5) * self.pause_s)
        finally:
            await asyncio.wait_for(producer.stop(), _STOP_S)

    def _records(self) -> list[_Record]:
        rng, records = self._random, []
        count = rng.choice([1, 5, 20, 50])
        # What HTTP has answered is in the log already: so which of the two payloads came first is certain.
        earlier = self._journal.pick(acknowledged=True) if rng.random() < 0.5 else ()
        for sent in self._traffic.make(count, duplicates=0.1, conflicts=0.03, earlier=earlier):
            self._journal.sending(sent)
            key = str(sent.payload["program_id"]).encode()
            records.append(_Record(key, self._traffic.spell(sent.payload).encode(), sent))
        if rng.random() < 0.2 and not self._traffic.only_new:
            records.append(self._garbage())
        return records

    def _garbage(self) -> _Record:
        rng = self._random
        word = str(uuid.UUID(int=rng.getrandbits(128))).encode()
        kind = rng.randrange(3)
        if kind == 0:
            garbage = _Record(word, b"not json " + word, None)
        elif kind == 1:
            garbage = _Record(None, b'{"undecodable":"\xff","word":"' + word + b'"}', None)
        else:  # a good event under another program's key
            (sent,) = self._traffic.make(1, 0.0, 0.0)
            garbage = _Record(word, self._traffic.spell(sent.payload).encode(), None)
        assert garbage.value is not None
        self._journal.garbage[garbage.value] = False
        return garbage

    async def _publish(self, producer: AIOKafkaProducer, records: list[_Record]) -> None:
        sent_at = time.time()
        futures: list[asyncio.Future[RecordMetadata]] = []
        try:
            async with asyncio.timeout(_ANSWER_S):
                for record in records:
                    futures.append(await producer.send(topics.EVENTS, record.value, record.key))  # noqa: PERF401 - those sent before a failure count
                await asyncio.wait(futures)
        finally:
            for record, future in zip(records, [*futures, *[None] * (len(records) - len(futures))], strict=True):
                self._note(record, future, sent_at)
        if any(future.exception() for future in futures):
            raise KafkaError("not acknowledged")

    def _note(self, record: _Record, future: "asyncio.Future[RecordMetadata] | None", sent_at: float) -> None:
        taken = future is not None and future.done() and not future.cancelled() and future.exception() is None
        if record.sent is not None:
            self._journal.answered(record.sent, "accepted" if taken else "unanswered", sent_at)
        elif record.value is not None:
            self._journal.garbage[record.value] = taken
