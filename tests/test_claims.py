"""Claims over their whole life: a gateway that dies with one, and a Postgres that goes away."""

import asyncio
import time
import uuid
from typing import Any

import httpx2 as httpx
import psycopg
import pytest

from gateway.claims import Claim, Claims
from gateway.database import make_pool
from schemas.kafka import partition_of
from schemas.reader import EventReader
from schemas.settings import Settings
from tests.conftest import PARTITIONS
from tests.gateway.proxy import Proxy
from tests.stack import Stack, wait_until
from tests.traffic import event

TTL_S = 3


def post(stack: Stack, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/events", headers=stack.headers, json=body, timeout=30)


def claim_and_die(stack: Stack, body: dict[str, Any]) -> None:
    """What a gateway does up to Kafka, and no further: it dies with the claim made."""

    async def claim() -> None:
        read = EventReader(65_536).read(httpx.Request("POST", "http://x", json=body).content)
        pool = make_pool(Settings(database_url=stack.database_url))
        await pool.open()
        partition = partition_of(read.program.key, PARTITIONS)
        await Claims(pool, 5.0).claim([Claim(read.id, read.fingerprint, partition, read.record)])
        await pool.close()

    asyncio.run(claim())


def test_a_dead_gateways_key_is_free_again_once_the_processors_have_caught_up(
    bare_stack: Stack, program_id: str
) -> None:
    lost, other = event(program_id, "lost", "first"), event(program_id, "lost", "second")
    claim_and_die(bare_stack, lost)
    bare_stack.start_gateway(claim_ttl_s=str(TTL_S))
    assert post(bare_stack, other).status_code == 409
    time.sleep(2 * TTL_S)
    assert post(bare_stack, other).status_code == 409, "nobody has looked whether its record is in Kafka"
    bare_stack.start_worker(claim_ttl_s=str(TTL_S))
    wait_until(lambda: post(bare_stack, other).status_code == 200, "the key is free again", 30)
    assert post(bare_stack, lost).status_code == 409, "now it belongs to the other payload"
    id_ = uuid.uuid5(uuid.UUID(program_id), "lost")
    found = httpx.get(f"{bare_stack.url}/v1/events/{id_}?wait=20", headers=bare_stack.headers, timeout=30).json()
    assert (found["status"], found["event_data"], found["conflicts"]) == ("COMPLETED", {"payload": "second"}, [])


def test_the_same_payload_can_be_sent_at_once_after_its_gateway_died(bare_stack: Stack, program_id: str) -> None:
    body = event(program_id, "again", "first")
    claim_and_die(bare_stack, body)
    bare_stack.start_gateway()
    assert post(bare_stack, body).json()["status"] == "PENDING"
    bare_stack.start_worker()
    id_ = uuid.uuid5(uuid.UUID(program_id), "again")
    found = httpx.get(f"{bare_stack.url}/v1/events/{id_}?wait=20", headers=bare_stack.headers, timeout=30).json()
    assert (found["status"], found["duplicate_count"]) == ("COMPLETED", 0)


@pytest.mark.anyio
async def test_without_postgres_events_are_taken_and_conflicts_show_later(bare_stack: Stack, program_id: str) -> None:
    """The gateway loses Postgres, the worker keeps it: accepted as deferred, then judged by the processors."""
    proxy = Proxy(bare_stack.database_url)
    await proxy.listen()
    await asyncio.to_thread(bare_stack.start_gateway, database_url=proxy.url)
    first, same, other = (event(program_id, "outage", payload) for payload in ("first", "first", "second"))
    warm = await asyncio.to_thread(post, bare_stack, event(program_id, "before", "x"))
    assert "Idempotency-Check" not in warm.headers
    await proxy.cut()
    for body in (first, same, other):
        answer = await asyncio.to_thread(post, bare_stack, body)
        assert (answer.status_code, answer.headers["Idempotency-Check"]) == (200, "deferred"), answer.text
    await proxy.listen()
    await asyncio.to_thread(bare_stack.start_worker)
    await asyncio.to_thread(wait_until, lambda: _row(bare_stack, program_id) is not None, "the event is processed")
    row = _row(bare_stack, program_id)
    assert row is not None
    status, data, duplicates, conflicts = row
    assert (status, data, duplicates) == ("COMPLETED", {"payload": "first"}, 1)
    assert [conflict["reason"] for conflict in conflicts] == ["idempotency_conflict"]
    with psycopg.connect(bare_stack.database_url) as connection:
        letters = connection.execute(
            "select code, record_value from headrace.dead_letters where program_id = %s", (program_id,)
        ).fetchall()
    assert [code for code, _ in letters] == ["idempotency_conflict"]
    assert b"second" in bytes(letters[0][1])
    await asyncio.to_thread(wait_until, lambda: _strict_again(bare_stack, program_id), "claims decide again", 20)
    await proxy.cut()


def _row(stack: Stack, program_id: str) -> tuple[Any, ...] | None:
    with psycopg.connect(stack.database_url) as connection:
        return connection.execute(
            """select status::text, event_data, duplicate_count, conflicts from headrace.event_status
               where program_id = %s and idempotency_key = 'outage' and jsonb_array_length(conflicts) = 1""",
            (program_id,),
        ).fetchone()


def _strict_again(stack: Stack, program_id: str) -> bool:
    return "Idempotency-Check" not in post(stack, event(program_id, "after", "x")).headers
