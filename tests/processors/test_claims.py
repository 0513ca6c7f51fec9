"""Claims end a grace after their events were committed, by the worker that committed these."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import psycopg
import pytest

from processors import claims as claims_module
from processors.claims import Claims
from processors.database import Database
from processors.ports import Entries
from schemas.settings import Settings
from tests.processors.lab import LEDGER, NoUpkeep, Partition, bench, make_tables, rows
from tests.stack import Stack

pytestmark = pytest.mark.anyio

GRACE_S = 0.4


@asynccontextmanager
async def claims(database_url: str, monkeypatch: pytest.MonkeyPatch, grace_s: float = GRACE_S) -> AsyncIterator[Claims]:
    """One worker's claims, of which nobody ends any but the test."""
    monkeypatch.setattr(claims_module, "CLAIM_GRACE_S", grace_s)
    monkeypatch.setattr(claims_module, "_GRACE_TIMEOUTS", 0)
    settings = Settings(database_url=database_url)
    database = Database(settings)
    await database.start()
    try:
        yield Claims(settings, database)
    finally:
        await database.stop()


def claim(database_url: str, count: int) -> list[uuid.UUID]:
    """So many new claims, in the order of their ids; in the table they stand the other way round."""
    ids = sorted(uuid.uuid4() for _ in range(count))
    rows(
        database_url,
        """insert into headrace.claims (id, fingerprint, kafka_partition, record)
           select id, id, 0, '' from unnest(%s::uuid[]) id""",
        ids[::-1],
    )
    return ids


def left(database_url: str, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Which of these claims stand."""
    return [id_ for (id_,) in rows(database_url, "select id from headrace.claims where id = any(%s) order by id", ids)]


def entries(*partitions: Sequence[uuid.UUID]) -> Entries:
    """What a bundle that committed these leaves, by partition."""
    return {number: [(id_.bytes, b"value") for id_ in ids] for number, ids in enumerate(partitions)}


async def test_claims_end_a_grace_after_the_commit_whatever_else_is_claimed(
    bare_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bare_stack.database_url
    ids = claim(url, 6)
    never_claimed = uuid.uuid4()
    async with claims(url, monkeypatch) as ending:
        ending.committed(entries(ids[:2], [never_claimed, ids[4]]))
        ending.committed({})
        await ending.end()
        assert left(url, ids) == ids
        await asyncio.sleep(GRACE_S)
        ending.committed(entries([ids[5]]))
        await ending.end()
        assert left(url, ids) == [ids[2], ids[3], ids[5]]
        await asyncio.sleep(GRACE_S)
        await ending.end()
        assert left(url, ids) == [ids[2], ids[3]]


async def test_many_claims_end_in_pieces_of_whole_bundles(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_database_url
    make_tables(url)
    rows(
        url,
        """create table tests.ended (number bigint generated always as identity, claims bigint);
           create function tests.note_end() returns trigger language plpgsql as $$
           begin insert into tests.ended (claims) select count(*) from gone; return null; end $$;
           create trigger note after delete on headrace.claims referencing old table as gone
               for each statement execute function tests.note_end()""",
    )
    monkeypatch.setattr(claims_module, "_STATEMENT_CLAIMS_MAX", 4)
    ids = claim(url, 13)
    async with claims(url, monkeypatch, 0.0) as ending:
        for start, end in ((0, 2), (2, 4), (4, 7), (7, 12), (12, 13)):
            ending.committed(entries(ids[start:end]))
        await ending.end()
    assert left(url, ids) == []
    assert rows(url, "select claims from tests.ended order by number") == [(4,), (3,), (5,), (1,)]


async def test_the_oldest_are_forgotten_where_there_are_too_many(
    bare_stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bare_stack.database_url
    monkeypatch.setattr(claims_module, "_REMEMBERED_MAX", 4)
    ids = claim(url, 5)
    async with claims(url, monkeypatch, 0.0) as ending:
        for start, end in ((0, 2), (2, 4), (4, 5)):
            ending.committed(entries(ids[start:end]))
        await ending.end()
    assert left(url, ids) == ids[:2]


async def test_claims_are_locked_in_the_order_of_their_ids(bare_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """As gateways lock them: else two could wait for each other in a circle."""
    url = bare_stack.database_url
    ids = claim(url, 300)
    async with claims(url, monkeypatch, 0.0) as ending:
        ending.committed(entries(ids[::-1]))
        with psycopg.connect(url) as gateway:
            gateway.execute("select from headrace.claims where id = %s for update", [ids[150]])
            waiting = asyncio.create_task(ending.end())
            await asyncio.sleep(0.3)
            lock = "select id from headrace.claims where id = any(%s) order by id for update skip locked"
            free = [id_ for (id_,) in gateway.execute(lock, [ids]).fetchall()]
        await waiting
    assert free == ids[150:], "those before are held by whoever ends them, those behind by nobody yet"
    assert left(url, ids) == []


async def test_what_could_not_be_ended_is_left_to_the_sweep(
    own_database_url: str, program_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_database_url
    make_tables(url)
    partition = Partition()
    (id_,) = partition.put_events(program_id, [{}])
    async with bench(url, LEDGER) as lab:
        await lab.process(partition)
    (eventless,) = claim(url, 1)
    rows(url, "insert into headrace.claims (id, fingerprint, kafka_partition, record) values (%s, %s, 0, '')", id_, id_)
    async with claims(url, monkeypatch, 0.0) as ending:
        ending.committed(entries([id_, eventless]))
        with monkeypatch.context() as broken:
            broken.setattr(claims_module, "_END", "select %s from no_such_table")
            with pytest.raises(psycopg.errors.UndefinedTable):
                await ending.end()
        await ending.end()
        assert set(left(url, [id_, eventless])) == {id_, eventless}
        await ending.sweep_finished()
        assert left(url, [id_, eventless]) == [eventless]


async def test_a_processor_tells_of_all_that_it_has_committed(bare_stack: Stack, program_id: str) -> None:
    url = bare_stack.database_url
    make_tables(url)
    partition = Partition()
    ids = partition.put_events(program_id, [{}, {}, {}])
    async with bench(url, LEDGER) as lab:
        upkeep = cast(NoUpkeep, lab.processor._upkeep)  # noqa: SLF001
        await lab.process(partition, partition.log[:2])
        assert upkeep.ids == [id_.bytes for id_ in ids[:2]]
        await lab.process(partition)
        assert set(upkeep.ids) == {id_.bytes for id_ in ids}
