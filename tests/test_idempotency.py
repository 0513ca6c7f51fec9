"""One owner per key, whoever asks where: two gateway processes, eight senders, with and without processors."""

import asyncio
import json
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import psycopg
import pytest
import requests
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.local import ports
from schemas import topics
from tests.conftest import PARTITIONS
from tests.stack import Stack, wait_until
from tests.traffic import event

KEYS = 200
SENDERS = 8
PAYLOADS = ("left", "right")


class Told(NamedTuple):
    """What one sender was told of one key."""

    key: str
    payload: str
    code: str | None
    status: str | None


class Gateways(NamedTuple):
    """The stack with two gateways, each under a port of its own, and no worker."""

    stack: Stack
    urls: tuple[str, str]


@pytest.fixture
def gateways(bare_stack: Stack) -> Gateways:
    (port,) = ports.pick(1)
    bare_stack.start_gateway(0)
    bare_stack.start_gateway(1, wait=False, port=str(port))
    other = f"http://127.0.0.1:{port}"
    wait_until(lambda: _ready(other), "the second gateway is ready")
    return Gateways(bare_stack, (bare_stack.url, other))


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def race(gateways: Gateways, program_id: str, keys: list[str], seed: int) -> list[Told]:
    """Eight senders on two gateways send every key, each with a payload of its own choice, batched as they like."""

    def sender(number: int) -> list[Told]:
        rng = random.Random(seed * 100 + number)  # noqa: S311 - repeatable, not secret
        with requests.Session() as session:
            session.headers.update(gateways.stack.headers)
            told: list[Told] = []
            rest = rng.sample(keys, len(keys))
            while rest:
                size = rng.choice([1, 3, 30])
                chunk, rest = rest[:size], rest[size:]
                told += _send(
                    session, gateways.urls[number % 2], program_id, [(key, rng.choice(PAYLOADS)) for key in chunk]
                )
            return told

    with ThreadPoolExecutor(SENDERS) as pool:
        return [each for told in pool.map(sender, range(SENDERS)) for each in told]


def _send(session: requests.Session, url: str, program_id: str, chosen: list[tuple[str, str]]) -> Iterator[Told]:
    if len(chosen) == 1:
        ((key, payload),) = chosen
        answer = session.post(f"{url}/v1/events", json=event(program_id, key, payload), timeout=30)
        body = answer.json()
        assert answer.status_code in {200, 409}, body
        yield Told(key, payload, body.get("code"), body.get("status"))
        return
    events = [event(program_id, key, payload) for key, payload in chosen]
    answer = session.post(f"{url}/v1/events/batch", json={"events": events}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert "Idempotency-Check" not in answer.headers
    for (key, payload), result in zip(chosen, answer.json()["results"], strict=True):
        assert result["event"]["id"] == str(uuid.uuid5(uuid.UUID(program_id), key))
        yield Told(key, payload, result.get("code"), result["event"].get("status"))


def winners(told: list[Told]) -> dict[str, str]:
    """Each key's winner, on which every answer must agree."""
    accepted: dict[str, set[str]] = {}
    for each in told:
        payloads = accepted.setdefault(each.key, set())
        if each.code is None:
            payloads.add(each.payload)
    assert {key: payloads for key, payloads in accepted.items() if len(payloads) != 1} == {}
    won = {key: payloads.pop() for key, payloads in accepted.items()}
    for each in told:
        assert each.code == (None if won[each.key] == each.payload else "idempotency_conflict"), each
    return won


def stored(stack: Stack, program_id: str) -> dict[str, tuple[str, str, object]]:
    with psycopg.connect(stack.database_url) as connection:
        rows = connection.execute(
            "select idempotency_key, event_data->>'payload', status::text, conflicts from headrace.events"
            " where program_id = %s",
            (program_id,),
        ).fetchall()
    return {key: (payload, status, conflicts) for key, payload, status, conflicts in rows}


def dead_letters(stack: Stack, program_id: str) -> list[tuple[str, bytes]]:
    with psycopg.connect(stack.database_url) as connection:
        rows = connection.execute(
            "select code, record_value from headrace.dead_letters where program_id = %s", (program_id,)
        ).fetchall()
    return [(code, bytes(value)) for code, value in rows]


def log(stack: Stack, program_id: str) -> list[tuple[str, str]]:
    """(key, payload) of each record of the program in the topic `events`."""

    async def read() -> list[tuple[str, str]]:
        async with AIOKafkaConsumer(bootstrap_servers=stack.kafka, enable_auto_commit=False) as consumer:
            partitions = [TopicPartition(topics.EVENTS, number) for number in range(PARTITIONS)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            ends = await consumer.end_offsets(partitions)
            found = []
            while any([await consumer.position(each) < ends[each] for each in partitions]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += [json.loads(each.value) for each in records if each.key == program_id.encode()]
        return [(each["idempotency_key"], each["event_data"]["payload"]) for each in found]

    return asyncio.run(read())


def until_processed(stack: Stack, program_id: str, count: int) -> None:
    wait_until(
        lambda: sum(status == "COMPLETED" for _, status, _ in stored(stack, program_id).values()) >= count,
        f"{count} events are processed",
    )


def test_racing_payloads_have_one_winner_on_whom_all_agree(gateways: Gateways, program_id: str) -> None:
    stack = gateways.stack
    keys = [f"key-{number}" for number in range(KEYS)]
    told = race(gateways, program_id, keys, seed=1)
    assert len(told) == KEYS * SENDERS
    won = winners(told)
    assert set(won.values()) == set(PAYLOADS)  # it was a race
    assert {each.status for each in told if each.code is None} == {"PENDING"}
    assert set(log(stack, program_id)) == set(won.items())
    stack.start_worker()
    later = race(gateways, program_id, [*keys, *(f"more-{number}" for number in range(KEYS // 2))], seed=2)
    won_later = winners(told + later)
    assert {key: won_later[key] for key in keys} == won
    until_processed(stack, program_id, len(won_later))
    final = race(gateways, program_id, keys, seed=3)
    assert winners(told + later + final) == won_later
    assert {each.status for each in final if each.code is None} == {"COMPLETED"}
    assert stored(stack, program_id) == {key: (payload, "COMPLETED", None) for key, payload in won_later.items()}
    assert set(log(stack, program_id)) == set(won_later.items())
    assert dead_letters(stack, program_id) == []


def test_an_identical_duplicate_has_the_originals_id_and_present_status(gateways: Gateways, program_id: str) -> None:
    stack = gateways.stack
    event_id = str(uuid.uuid5(uuid.UUID(program_id), "k"))
    respelled = json.dumps(event(program_id.upper(), "k"), indent=2).replace("10:30:00Z", "12:30:00.000+02:00")
    for url in gateways.urls:
        for body in (json.dumps(event(program_id, "k")), respelled):
            answer = requests.post(f"{url}/v1/events", data=body, headers=stack.headers, timeout=10)
            assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, event_id, "PENDING")
    stack.start_worker()
    until_processed(stack, program_id, 1)
    for url in gateways.urls:
        answer = requests.post(f"{url}/v1/events", data=respelled, headers=stack.headers, timeout=10)
        assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, event_id, "COMPLETED")
    wait_until(lambda: _got(stack, event_id)["duplicate_count"] == 5, "every duplicate is counted")


def _got(stack: Stack, event_id: str) -> dict[str, Any]:
    answer = requests.get(f"{stack.url}/v1/events/{event_id}", headers=stack.headers, timeout=10)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_an_event_is_found_from_the_moment_of_its_200(gateways: Gateways, program_id: str) -> None:
    stack = gateways.stack
    sent = event(program_id, "k") | {"recipient_external_id": "r", "participant_id": str(uuid.uuid4())}
    answer = requests.post(f"{gateways.urls[0]}/v1/events", json=sent, headers=stack.headers, timeout=10)
    assert answer.status_code == 200, answer.text
    for url in gateways.urls:
        found = requests.get(f"{url}/v1/events/{answer.json()['id']}", headers=stack.headers, timeout=10).json()
        assert {name: found[name] for name in sent} == sent
        assert (found["status"], found["attempts"], found["processed_at"]) == ("PENDING", 0, None)
    stack.start_worker()
    until_processed(stack, program_id, 1)
    found = _got(stack, answer.json()["id"])
    assert {name: found[name] for name in sent} == sent
    assert (found["status"], found["attempts"]) == ("COMPLETED", 1)


def test_a_refused_attempt_never_burns_its_key(gateways: Gateways, program_id: str) -> None:
    stack = gateways.stack
    first = event(program_id, "k", "first")
    too_large = json.dumps(first | {"event_data": {"payload": "x" * 70_000}})
    attempts: list[tuple[int, str, dict[str, str]]] = [
        (422, json.dumps(first | {"foo": 1}), {}),
        (422, json.dumps(first | {"event_timestamp": "yesterday"}), {}),
        (422, json.dumps(first).replace('"first"', '"\\u0000"'), {}),
        (422, too_large, {}),
        (400, json.dumps(first)[:-1], {}),
        (401, json.dumps(first), {"X-API-Key": "hr_" + "0" * 38}),
        (413, json.dumps(first) + " " * 8_400_000, {}),
        (415, json.dumps(first), {"Content-Type": "text/plain"}),
    ]
    for status, body, headers in attempts:
        answer = requests.post(f"{stack.url}/v1/events", data=body, headers=stack.headers | headers, timeout=30)
        assert answer.status_code == status, answer.text
    batch = {"events": [first | {"external_id": None}, event(program_id, "k", "second")]}
    answer = requests.post(f"{gateways.urls[1]}/v1/events/batch", json=batch, headers=stack.headers, timeout=10)
    refused, accepted = answer.json()["results"]
    assert (refused["code"], accepted["status"]) == ("invalid_event", "accepted")
    assert _got(stack, accepted["event"]["id"])["event_data"] == {"payload": "second"}
    conflict = requests.post(f"{stack.url}/v1/events", json=first, headers=stack.headers, timeout=10)
    assert (conflict.status_code, conflict.json()["code"]) == (409, "idempotency_conflict")


def test_without_claims_the_conflict_shows_up_later(bare_stack: Stack, program_id: str) -> None:
    bare_stack.start_gateway(0, idempotency_check="deferred")
    for payload in PAYLOADS:
        answer = requests.post(
            f"{bare_stack.url}/v1/events", json=event(program_id, "k", payload), headers=bare_stack.headers, timeout=10
        )
        assert (answer.status_code, answer.headers["Idempotency-Check"]) == (200, "deferred")
    bare_stack.start_worker()
    until_processed(bare_stack, program_id, 1)
    event_id = answer.json()["id"]
    wait_until(lambda: len(_got(bare_stack, event_id)["conflicts"]) == 1, "the conflict is seen")
    found = _got(bare_stack, event_id)
    assert (found["event_data"], found["duplicate_count"]) == ({"payload": "left"}, 0)
    ((code, value),) = dead_letters(bare_stack, program_id)
    assert (code, json.loads(value)["event_data"]) == ("idempotency_conflict", {"payload": "right"})
