"""Delivery on the real Kafka: what is lost on the way goes out again with its number, and lands once."""

import asyncio
from collections.abc import Awaitable, Callable
from io import BytesIO

import pytest
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError, KafkaError
from aiokafka.protocol.produce import ProduceRequest as TheirRequest
from aiokafka.protocol.produce import ProduceResponse_v7
from hypothesis import given
from hypothesis import strategies as st

from gateway import delivery as module
from gateway.delivery import Delivery
from gateway.produce_request import ErrorCodes, ProduceRequest
from gateway.producer import NotAcknowledgedError, Producer
from tests.gateway.test_producer import (
    PARTITIONS,
    acknowledged,
    producing,
    read_all,
    records_of,
    topic,
    until_connected,
)

__all__ = ["topic"]  # the fixture

pytestmark = pytest.mark.anyio

NOT_LEADER = 6
OUT_OF_ORDER = 45
DUPLICATE = 46
VERSIONS = {0: (3, 11)}

Send = Callable[[int, ProduceRequest], Awaitable[ErrorCodes]]

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
batches = st.dictionaries(st.integers(0, 2**31 - 1), st.binary(max_size=200), max_size=20)


@given(names, st.integers(0, 2**31 - 1), batches, st.integers(0, 2**31 - 1), names)
def test_a_request_is_the_one_that_aiokafka_writes(
    name: str, timeout_ms: int, some: dict[int, bytes], correlation_id: int, client_id: str
) -> None:
    ours = ProduceRequest(name, timeout_ms, some).prepare(VERSIONS)
    theirs = TheirRequest(None, -1, timeout_ms, [(name, list(some.items()))]).prepare({0: (7, 7)})
    assert ours.encode() == theirs.encode()
    assert (
        ours.build_request_header(correlation_id, client_id).encode()
        == theirs.build_request_header(correlation_id, client_id).encode()
    )


@given(names, st.dictionaries(st.integers(0, 2**31 - 1), st.integers(-1, 100), max_size=20), st.integers(0, 2**31 - 1))
def test_a_response_is_read_as_aiokafka_writes_it(name: str, codes: dict[int, int], correlation_id: int) -> None:
    partitions = [(partition, code, 12, -1, 3) for partition, code in codes.items()]
    content = BytesIO(correlation_id.to_bytes(4, "big") + ProduceResponse_v7([(name, partitions)], 0).encode())
    assert ProduceRequest(name, 1, {}).parse_response_header(content).correlation_id == correlation_id
    assert ErrorCodes.decode(content) == codes


@pytest.mark.parametrize("versions", [{}, {0: (0, 6)}, {0: (8, 12)}])
def test_a_broker_of_another_age_is_told_apart(versions: dict[int, tuple[int, int]]) -> None:
    with pytest.raises(IncompatibleBrokerVersion):
        ProduceRequest("t", 1, {}).prepare(versions)


def the_delivery(producer: Producer) -> Delivery:
    delivery = producer._delivery  # noqa: SLF001 - to break it
    assert delivery is not None
    return delivery


async def test_an_answer_that_is_lost_costs_no_record_and_doubles_none(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with producing(kafka) as producer:
        client = the_delivery(producer)._client  # noqa: SLF001
        send: Send = client.send
        lost: list[ErrorCodes] = []

        async def lose_every_other(node: int, request: ProduceRequest) -> ErrorCodes:
            answer = await send(node, request)
            if len(lost) % 2 == 0:
                lost.append(answer)
                raise KafkaConnectionError("made up")
            lost.append(answer)
            return answer

        monkeypatch.setattr(client, "send", lose_every_other)
        for _ in range(3):
            await acknowledged(producer.append(records_of(40)))
        assert producer._delivery is not None  # noqa: SLF001
    assert len(lost) >= 6
    assert {code for answer in lost for code in answer.values()} <= {0, DUPLICATE}
    assert len(await read_all(kafka, topic)) == 120


async def test_only_what_has_no_answer_goes_out_again(kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with producing(kafka) as producer:
        client = the_delivery(producer)._client  # noqa: SLF001
        send: Send = client.send
        asked: list[set[int]] = []

        async def refuse_one_at_first(node: int, request: ProduceRequest) -> ErrorCodes:
            batches = dict(request._batches)  # noqa: SLF001
            asked.append(set(batches))
            refused = {partition for partition in batches if partition == 0 and len(asked) == 1}
            taken = {partition: batch for partition, batch in batches.items() if partition not in refused}
            answer = await send(node, ProduceRequest(topic, 1_000, taken))
            return ErrorCodes({**answer, **dict.fromkeys(refused, NOT_LEADER)})

        await acknowledged(producer.append(records_of(100, keys=100)))  # every partition has its leader
        monkeypatch.setattr(client, "send", refuse_one_at_first)
        await acknowledged(producer.append(records_of(100, keys=100)))
    assert asked == [set(range(PARTITIONS)), {0}]
    assert len(await read_all(kafka, topic)) == 200


async def test_a_leader_that_is_unknown_is_asked_for(kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with producing(kafka) as producer:
        delivery = the_delivery(producer)
        leader = delivery._leader  # noqa: SLF001
        asked = []

        def unknown_at_first(partition: int) -> int | None:
            asked.append(partition)
            return None if len(asked) <= 3 else leader(partition)

        monkeypatch.setattr(delivery, "_leader", unknown_at_first)
        await acknowledged(producer.append(records_of(3, keys=1)))
    assert len(asked) == 4
    assert len(await read_all(kafka, topic)) == 3


@pytest.mark.parametrize("answer", [ErrorCodes(), "out of order", KafkaError("final"), ValueError("a defect")])
async def test_what_cannot_be_delivered_is_lost_at_once_and_a_new_client_begins(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    async with producing(kafka) as producer:
        first = the_delivery(producer)

        async def refuse(_: int, request: ProduceRequest) -> ErrorCodes:
            await asyncio.sleep(0)
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, ErrorCodes):
                return answer
            return ErrorCodes(dict.fromkeys(request._batches, OUT_OF_ORDER))  # noqa: SLF001

        monkeypatch.setattr(first._client, "send", refuse)  # noqa: SLF001
        batches = producer.append(records_of(40))
        for batch in batches:
            with pytest.raises(NotAcknowledgedError):
                await asyncio.wait_for(asyncio.shield(batch.acknowledged), 5)
        assert producer.in_flight_events == 0
        await until_connected(producer, but_not=first)
        await acknowledged(producer.append(records_of(10)))
    assert len(await read_all(kafka, topic)) == 10


async def test_numbers_begin_anew_after_the_highest(kafka: str, topic: str) -> None:
    async with producing(kafka) as producer:
        delivery = the_delivery(producer)
        highest = module._NUMBER_MASK  # noqa: SLF001
        # A broker that has nothing of a producer yet takes any number.
        delivery._numbers.update(dict.fromkeys(range(PARTITIONS), highest - 1))  # noqa: SLF001
        for _ in range(3):
            await acknowledged(producer.append(records_of(3, keys=1)))
        assert set(delivery._numbers.values()) <= {highest - 1, 1, 4, 7}  # noqa: SLF001
    assert len(await read_all(kafka, topic)) == 9
