"""What an event costs the gateway, the worker and Postgres: a drain of prepared records, and batches sent."""

import asyncio
import random
import threading
import time
import uuid
from http.client import HTTPConnection
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer

from schemas.topics import EVENTS
from tests.bench.growth.world import PARTICIPANTS, PROGRAMS, Meter, World, program

_WAIT_S = 300.0
_POLL_S = 0.05
_BATCH = 100
_CLIENTS = 4


def event(rng: random.Random) -> dict[str, Any]:
    """A new event of about 400 bytes; the skew is that of the table."""
    person = f"user-{int(PARTICIPANTS * rng.random() ** 3)}"
    now = time.time() - rng.expovariate(1 / 60)
    return {
        "program_id": program(int(PROGRAMS * rng.random() ** 3)),
        "idempotency_key": str(uuid.UUID(int=rng.getrandbits(128))),
        "event_timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "external_id": person,
        "event_data": {"amount": rng.randrange(10**6), "currency": "EUR", "note": "n" * 128},
    }


def drain(world: World, warm: int, counted: int, seed: int) -> dict[str, float]:
    """CPU of worker and Postgres per event, of `counted` events that follow on `warm` others, with default handlers."""
    (processed,) = world.ask(
        "select coalesce(sum(next_offset), 0)::bigint from headrace.progress where topic = 'events'"
    )
    asyncio.run(_produce(world, warm + counted, random.Random(seed)))  # noqa: S311 - repeatable, not secret
    worker = world.stack.start_worker()
    begun = _processed(world, processed + warm)
    (lsn,) = world.ask("select pg_current_wal_insert_lsn()::text")
    meter = Meter(worker=worker.identity.pid, postgres=world.postgres)
    ended = _processed(world, processed + warm + counted)
    cost = meter.per_event(ended - begun)
    (wal,) = world.ask("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s::pg_lsn)::float8", lsn)
    world.stack.stop_worker()
    return cost | {"wal_bytes": wal / (ended - begun)}


def _processed(world: World, wanted: int) -> int:
    deadline = time.monotonic() + _WAIT_S
    while True:
        (now,) = world.ask("select coalesce(sum(next_offset), 0)::bigint from headrace.progress where topic = 'events'")
        if now >= wanted:
            return int(now)
        assert time.monotonic() < deadline, f"{now} of {wanted} records processed within {_WAIT_S} s"
        time.sleep(_POLL_S)


async def _produce(world: World, count: int, rng: random.Random) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=world.kafka, acks="all", enable_idempotence=True, linger_ms=20, max_batch_size=256 * 1024
    ) as producer:
        sends = []
        for _ in range(count):
            made = event(rng)
            sends.append(await producer.send(EVENTS, msgspec.json.encode(made), key=made["program_id"].encode()))
        await asyncio.gather(*sends)


def claims(world: World, warm: int, counted: int, seed: int) -> dict[str, float]:
    """CPU of gateway and Postgres per event, sent in batches of 100 over four connections, claims strict."""
    gateway = world.stack.processes["gateway-0"]
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    bodies = [
        msgspec.json.encode({"events": [event(rng) for _ in range(_BATCH)]}) for _ in range((warm + counted) // _BATCH)
    ]
    _post(world, bodies[: warm // _BATCH])
    meter = Meter(gateway=gateway.identity.pid, postgres=world.postgres)
    _post(world, bodies[warm // _BATCH :])
    return meter.per_event(counted)


def _post(world: World, bodies: list[bytes]) -> None:
    failures: list[str] = []

    def send(part: list[bytes]) -> None:
        connection = HTTPConnection("127.0.0.1", world.stack.port, timeout=60)
        for body in part:
            connection.request("POST", "/v1/events/batch", body, world.stack.headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200 or b'"error_count":0' not in text:
                failures.append(f"{answer.status} {text[:200]!r}")
        connection.close()

    clients = [threading.Thread(target=send, args=(bodies[number::_CLIENTS],)) for number in range(_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert not failures, failures[0]


def settle(world: World) -> None:
    """Have a worker process what the gateway took, and sweep the claims."""
    world.stack.start_worker()
    deadline = time.monotonic() + _WAIT_S
    while world.ask("select count(*) from headrace.claims") != (0,):
        assert time.monotonic() < deadline, f"claims are still there after {_WAIT_S} s"
        time.sleep(1)
    world.stack.stop_worker()
