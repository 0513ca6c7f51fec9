"""The producer on the real Kafka: where records land, in which order, and what a request learns of them."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from gateway.outgoing import Batch, Headers, settled
from gateway.producer import KafkaUnreachableError, NotAcknowledgedError, Producer, QueueFullError
from schemas import topics
from schemas.kafka import partition_of
from schemas.settings import Settings
from tests.stack import Backend, frozen

pytestmark = pytest.mark.anyio

PARTITIONS = 5
WAIT_S = 15.0

Records = list[tuple[bytes, bytes, Headers]]


@pytest.fixture
async def topic(kafka: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of this test's own in the place of `events`."""
    name = f"t-{uuid.uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs={"max.message.bytes": "2097152"})])
    finally:
        await admin.close()
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        # Asked until a leader of each answers: of a topic just made, a broker may say that it does not lead it.
        await consumer.end_offsets([TopicPartition(name, number) for number in range(PARTITIONS)])
    monkeypatch.setattr(topics, "EVENTS", name)
    return name


@asynccontextmanager
async def producing(kafka: str, max_in_flight_events: int = 20_000) -> AsyncIterator[Producer]:
    producer = Producer(Settings(kafka=kafka, max_in_flight_events=max_in_flight_events))
    await producer.start()
    try:
        await until_connected(producer)
        yield producer
    finally:
        await producer.stop()


async def until_connected(producer: Producer, but_not: object = None) -> None:
    deadline = monotonic() + WAIT_S
    while not producer.has_room(1) or producer._delivery is but_not:  # noqa: SLF001
        assert monotonic() < deadline, producer.unreachable()
        await asyncio.sleep(0.02)


async def acknowledged(batches: Sequence[Batch]) -> None:
    async with asyncio.timeout(WAIT_S):
        for batch in batches:
            await asyncio.shield(batch.acknowledged)


async def read_all(kafka: str, topic: str) -> list[ConsumerRecord[bytes, bytes]]:
    """Every record of the topic, partition by partition."""
    async with AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[ConsumerRecord[bytes, bytes]] = []
        while len(found) < sum(ends.values()):
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                found += records
    return sorted(found, key=lambda record: (record.partition, record.offset))


def records_of(count: int, keys: int = 40, size: int = 0) -> Records:
    programs = [str(uuid.uuid4()).encode() for _ in range(keys)]
    return [
        (programs[number % keys], b"%d" % number + b" " * size, [("id", b"%d" % number), ("fingerprint", b"\0\xff")])
        for number in range(count)
    ]


async def test_records_land_as_they_were_given(kafka: str, topic: str) -> None:
    records = records_of(200)
    async with producing(kafka) as producer:
        assert producer.partitions == PARTITIONS
        assert producer.unreachable() is None
        batches = producer.append(records)
        assert len(batches) == len(records)
        assert producer.in_flight_events == 200
        await acknowledged(batches)
        assert producer.in_flight_events == 0
    found = await read_all(kafka, topic)
    expected = sorted(records, key=lambda record: (partition_of(record[0], PARTITIONS), int(record[1])))
    assert [(each.key, each.value, list(each.headers)) for each in found] == expected
    assert {each.partition for each in found} == {partition_of(key, PARTITIONS) for key, _, _ in records}


async def test_partition_is_the_one_of_any_other_client(kafka: str, topic: str) -> None:
    records = records_of(60, keys=60)
    async with producing(kafka) as producer:
        await acknowledged(producer.append(records))
    async with AIOKafkaProducer(bootstrap_servers=kafka) as other:
        for key, _, _ in records:
            await other.send_and_wait(topic, b"other", key=key)
    places: dict[bytes, set[int]] = {}
    for each in await read_all(kafka, topic):
        places.setdefault(each.key or b"", set()).add(each.partition)
    assert len(places) == 60
    assert all(len(partitions) == 1 for partitions in places.values())


async def test_order_holds_across_requests_and_batches(kafka: str, topic: str) -> None:
    """Large records, so that one append spans several batches; many appends, so that lanes never rest."""
    async with producing(kafka) as producer:
        batches: list[Batch] = []
        for start in range(0, 60, 4):
            batches += producer.append(
                [(b"one program", b"%d" % number + b" " * 300_000, []) for number in range(start, start + 4)]
            )
            await asyncio.sleep(0)
        await acknowledged(batches)
        assert producer.in_flight_events == 0
    numbers = [int((each.value or b"").split()[0]) for each in await read_all(kafka, topic)]
    assert numbers == list(range(60))
    assert len(set(batches)) >= 20  # three to a batch


async def test_requests_share_batches_while_one_is_under_way(kafka: str, topic: str) -> None:
    async with producing(kafka) as producer:
        batches = [producer.append([(b"key", b"%d" % number, [])])[0] for number in range(500)]
        await acknowledged(batches)
    assert len(set(batches)) < 10
    assert [each.value for each in await read_all(kafka, topic)] == [b"%d" % number for number in range(500)]


async def test_queue_is_bounded_and_takes_all_or_nothing(kafka: str, topic: str) -> None:
    async with producing(kafka, max_in_flight_events=10) as producer:
        assert producer.has_room(10)
        assert not producer.has_room(11)
        with pytest.raises(QueueFullError):
            producer.append(records_of(11))
        assert producer.in_flight_events == 0
        batches = producer.append(records_of(8))
        with pytest.raises(QueueFullError):
            producer.append(records_of(3))
        batches += producer.append(records_of(2))
        await acknowledged(batches)
        await acknowledged(producer.append(records_of(10)))
    assert len(await read_all(kafka, topic)) == 20


async def test_nothing_is_taken_before_there_is_a_connection() -> None:
    producer = Producer(Settings(kafka="127.0.0.1:1"))
    assert not producer.has_room(1)
    with pytest.raises(KafkaUnreachableError, match="not connected yet"):
        producer.append(records_of(1))
    await producer.start()
    deadline = monotonic() + WAIT_S
    while producer.unreachable() == "not connected yet":
        assert monotonic() < deadline
        await asyncio.sleep(0.05)
    with pytest.raises(KafkaUnreachableError, match=r"127\.0\.0\.1"):
        producer.append(records_of(1))
    begun_at = monotonic()
    await producer.stop()
    assert monotonic() - begun_at < 6


async def test_a_lost_batch_fails_its_requests_and_a_new_client_goes_on(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with producing(kafka) as producer:
        first = producer._delivery  # noqa: SLF001 - to break it
        assert first is not None

        async def refuse(*_: object) -> None:
            raise KafkaError("made up")

        monkeypatch.setattr(first._client, "send", refuse)  # noqa: SLF001
        batches = producer.append(records_of(3, keys=1))
        with pytest.raises(NotAcknowledgedError, match="made up"):
            await asyncio.wait_for(asyncio.shield(batches[0].acknowledged), WAIT_S)
        assert producer.in_flight_events == 0
        await until_connected(producer, but_not=first)
        await acknowledged(producer.append(records_of(2)))
    assert len(await read_all(kafka, topic)) == 2


async def test_a_request_that_gives_up_takes_nobodys_acknowledgement_along(kafka: str, topic: str) -> None:
    async with producing(kafka) as producer:
        batch, same = producer.append(records_of(2, keys=1))
        assert batch is same
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(batch.acknowledged), 0)
        await acknowledged([same])
    assert len(await read_all(kafka, topic)) == 2


async def test_a_partition_that_does_not_answer_holds_up_no_other(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with producing(kafka) as producer:
        delivery = producer._delivery  # noqa: SLF001 - to have one partition never answer
        assert delivery is not None
        silent = partition_of(b"silent", PARTITIONS)
        send = delivery.send

        def send_some(batches: Mapping[int, Batch]) -> None:
            send({partition: batch for partition, batch in batches.items() if partition != silent})

        monkeypatch.setattr(delivery, "send", send_some)
        (stuck,) = producer.append([(b"silent", b"1", [])])
        others = [record for record in records_of(40) if partition_of(record[0], PARTITIONS) != silent]
        for record in others:
            await acknowledged(producer.append([record]))
        (behind,) = producer.append([(b"silent", b"2", [])])
        await acknowledged(producer.append(others))
        assert not stuck.is_acknowledged
        assert not behind.acknowledged.done(), "order: it must wait for the one before it"
        monkeypatch.undo()
        send({silent: stuck})
        await acknowledged([stuck])
        monkeypatch.setattr(topics, "EVENTS", topic)
        await acknowledged([behind])
        assert producer.in_flight_events == 0


async def test_waiting_for_batches_is_bounded(kafka: str, topic: str) -> None:
    del topic
    async with producing(kafka) as producer:
        batches = producer.append(records_of(100))
        begun_at = monotonic()
        await settled(set(batches), 0)
        assert monotonic() - begun_at < 1
        await settled(set(batches), WAIT_S)
        assert all(batch.is_acknowledged for batch in batches)
        await settled(set(batches), WAIT_S)  # all are already
        assert monotonic() - begun_at < WAIT_S


async def test_stop_sends_what_was_appended(kafka: str, topic: str) -> None:
    async with producing(kafka) as producer:
        producer.append(records_of(100))
    assert len(await read_all(kafka, topic)) == 100


@pytest.mark.chaos
async def test_a_frozen_broker_is_waited_out_and_has_each_record_once(
    running_backend: Backend, kafka: str, topic: str
) -> None:
    if "kafka" not in running_backend.processes:
        return  # in a container: not ours to freeze
    pid = running_backend.processes["kafka"].pid
    async with producing(kafka) as producer:
        await acknowledged(producer.append(records_of(10)))
        with frozen(pid):
            batches = producer.append(records_of(10))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(batches[0].acknowledged), 2)
            assert producer.in_flight_events == 10
        await acknowledged(batches)
        assert producer.in_flight_events == 0
    assert len(await read_all(kafka, topic)) == 20


@pytest.mark.chaos
async def test_what_a_client_leaves_behind_is_given_up_and_its_partition_goes_on(
    running_backend: Backend, kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "kafka" not in running_backend.processes:
        return  # in a container: not ours to freeze
    monkeypatch.setattr("gateway.producer._STOP_S", 0.5)
    pid = running_backend.processes["kafka"].pid
    async with producing(kafka) as producer:
        await acknowledged(producer.append(records_of(10)))
        with frozen(pid):
            batches = producer.append(records_of(1))
            await asyncio.sleep(0.1)
            producer._failed.set()  # noqa: SLF001 - as another partition's lost batch does
            with pytest.raises(NotAcknowledgedError):
                await asyncio.wait_for(asyncio.shield(batches[0].acknowledged), WAIT_S)
            assert producer.in_flight_events == 0
        await until_connected(producer)
        await acknowledged(producer.append(records_of(10)))
        assert producer.in_flight_events == 0
    assert len(await read_all(kafka, topic)) in (20, 21), "nobody knows of the one that was given up"
