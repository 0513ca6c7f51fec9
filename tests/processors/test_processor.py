"""Each effect once: through faults of Postgres in the middle of a chunk, and workers killed in the middle of a log."""

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from schemas import topics
from tests.gateway.proxy import proxied
from tests.processors.lab import ACT, LEDGER, Partition, bench, ledger_of, payload, record, rows, statuses_of
from tests.stack import Stack, wait_until

BOTH = f"{LEDGER},{ACT}"
EVENTS = 1_500
PROGRAMS = 6


@pytest.mark.anyio
async def test_killed_connections_are_waited_out_and_fail_nothing(tables: str, program_id: str) -> None:
    partition = Partition()
    datas: list[dict[str, Any]] = [{} for _ in range(200)]
    datas[100] = {"do": "sql", "sql": "select pg_sleep(0.7)"}
    ids = partition.put_events(program_id, datas)
    name = f"killed-{uuid.uuid4()}"
    kill = """select pid, pg_terminate_backend(pid) from pg_stat_activity
              where application_name = %s and state = 'active' and query like '%%pg_sleep%%'"""
    async with bench(tables, BOTH, worker_id=name) as lab:
        working = asyncio.create_task(lab.process(partition))
        killed: set[int] = set()
        while len(killed) < 2:
            assert not working.done(), "it was not met in the middle of its chunk"
            killed |= {pid for pid, _ in await asyncio.to_thread(rows, tables, kill, f"headrace {name}")}
        await asyncio.wait_for(working, 20)
    assert lab.beats > 0
    assert ledger_of(tables, program_id) == ids
    assert statuses_of(tables, program_id) == dict.fromkeys(ids, "COMPLETED")
    assert rows(tables, "select max(attempts) from headrace.events where program_id = %s", program_id) == [(1,)]


@pytest.mark.anyio
async def test_a_postgres_that_is_gone_is_waited_for(tables: str, program_id: str) -> None:
    partition = Partition()
    ids = partition.put_events(program_id, [{}] * 20)
    async with proxied(tables) as proxy:
        await proxy.cut()
        async with bench(proxy.url, BOTH) as lab:
            working = asyncio.create_task(lab.process(partition))
            await asyncio.sleep(1.5)
            assert not working.done()
            await proxy.listen()
            back = time.perf_counter()
            await asyncio.wait_for(working, 30)
            recovered_s = time.perf_counter() - back
            await lab.process(partition)
    assert recovered_s < 20
    assert ledger_of(tables, program_id) == ids
    assert statuses_of(tables, program_id) == dict.fromkeys(ids, "COMPLETED")


@pytest.mark.anyio
async def test_a_chunk_of_nothing_is_nothing() -> None:
    async with bench("postgresql://nobody@127.0.0.1:1/none", LEDGER) as lab:
        assert await lab.processor.process_chunk("events", 0, []) == []


@pytest.mark.anyio
async def test_progress_never_runs_ahead_of_what_is_committed(tables: str, program_id: str) -> None:
    """The last part of a chunk that is written in parts says how far it is, and no earlier one."""
    partition = Partition()
    partition.put_events(program_id, [{}, {"do": "late"}, {}, {}])
    partition.put(b"no event", None)
    seen: list[int] = []
    query = "select next_offset from headrace.progress where topic = %s and kafka_partition = %s"

    async def watch() -> None:
        while True:
            rows_now = await asyncio.to_thread(rows, tables, query, partition.topic, partition.number)
            processed = len(statuses_of(tables, program_id))
            seen.extend(offset for (offset,) in rows_now if offset > processed and processed < 4)
            await asyncio.sleep(0)

    async with bench(tables, BOTH) as lab:
        watching = asyncio.create_task(watch())
        await lab.process(partition)
        watching.cancel()
    assert seen == []
    assert rows(tables, query, partition.topic, partition.number) == [(5,)]


@pytest.mark.anyio
async def test_entries_for_the_table_name_the_winners(tables: str, program_id: str) -> None:
    partition = Partition()
    ids = partition.put_events(program_id, [{}, {"do": "raise"}, {"do": "reject"}])
    partition.put(payload(program_id, "k0", {"n": 2}), program_id.encode())
    async with bench(tables, BOTH) as lab:
        await lab.process(partition)
        first = dict(lab.table)
        await lab.process(partition)
    assert first == lab.table
    assert [(number, id_) for number, id_ in first] == [(partition.number, id_.bytes) for id_ in ids]
    assert [int.from_bytes(value[-8:], "big") for value in first.values()] == [0, 1, 2]
    assert all(len(value) == 24 for value in first.values())
    assert record(b"", None, 0).offset == 0


def _data(number: int) -> dict[str, Any]:
    if number % 50 == 7:
        return {"do": "until", "attempt": 2}
    if number % 50 == 9:
        return {"do": "reject"}
    return {"do": "error"} if number == 1_234 else {}


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_ledger_adds_up_through_killed_workers(bare_stack: Stack, tables: str) -> None:
    programs = [str(uuid.uuid4()) for _ in range(PROGRAMS)]

    async def publish() -> None:
        async with AIOKafkaProducer(bootstrap_servers=bare_stack.kafka, acks="all", linger_ms=5) as producer:
            for number in range(EVENTS):
                program = programs[number % PROGRAMS]
                value = payload(program, f"k{number:06}", _data(number))
                await producer.send(topics.EVENTS, value, program.encode())
                if number % 10 == 3:
                    await producer.send(topics.EVENTS, value, program.encode())

    def start(*, wait: bool) -> None:
        bare_stack.start_worker(handlers=BOTH, chunk_events_max="30", wait=wait)

    def done() -> int:
        query = "select count(*) from headrace.events where program_id = any(%s::uuid[])"
        ((count,),) = rows(tables, query, programs)
        return int(count)

    def reached(share: float) -> Callable[[], bool]:
        return lambda: done() >= share * EVENTS

    asyncio.run(publish())
    for share in (0.1, 0.5):
        start(wait=False)
        wait_until(reached(share), f"{share} of the events processed", 90)
        bare_stack.kill_worker()
    start(wait=True)
    settled = """select status::text, count(*), min(attempts), max(attempts), sum(duplicate_count) from headrace.events
                 where program_id = any(%s::uuid[]) group by 1 order by 1"""
    good = [number for number in range(EVENTS) if "do" not in _data(number)]
    late = [number for number in range(EVENTS) if _data(number).get("do") == "until"]
    rejected = [number for number in range(EVENTS) if _data(number).get("do") == "reject"]

    def completed() -> bool:
        found = {status: count for status, count, *_ in rows(tables, settled, programs)}
        return found == {"COMPLETED": len(good) + len(late), "FAILED": len(rejected), "PROCESSING": 1}

    wait_until(completed, "everything but one event final", 90)
    bare_stack.kill_worker()
    duplicates = rows(tables, settled, programs)
    assert sum(row[4] for row in duplicates) == EVENTS // 10
    for at, program in enumerate(programs):
        names = {uuid.uuid5(uuid.UUID(program), f"k{number:06}"): number for number in range(at, EVENTS, PROGRAMS)}
        effects = [names[id_] for id_ in ledger_of(tables, program)]
        assert sorted(effects) == sorted(number for number in names.values() if number in {*good, *late})
        assert [number for number in effects if number in set(good)] == sorted(set(good) & set(names.values()))
