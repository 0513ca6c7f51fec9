"""Claims on the real Postgres: whoever races whom, each key has one owner, and no outage holds a request for long."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import psycopg
import pytest

from gateway import claims as module
from gateway.claims import Claim, Claims, ClaimsUnavailableError
from gateway.database import Pool, make_pool
from gateway.ingest import PENDING, Owner
from gateway.prepared import Row
from schemas.settings import Settings
from tests.gateway.proxy import Proxy, proxied
from tests.gateway.rows import event_row, insert_events

pytestmark = pytest.mark.anyio

TIMEOUT_S = 1.0
SLACK_S = 1.0
AT_ONCE_S = TIMEOUT_S / 2  # whoever waits for anything waits longer
RECORD = b'{"record":1}'


def new_ids(count: int) -> list[bytes]:
    return [uuid.uuid4().bytes for _ in range(count)]


def claim_of(id_: bytes, fingerprint: int, record: bytes = RECORD) -> Claim:
    return Claim(id_, fingerprint.to_bytes(16, "big"), 3, record)


async def owners_of(claims: Claims, asked: list[Claim]) -> dict[bytes, Owner]:
    """The owner of each id: what is not told is owned by its own claim."""
    return {each.id: Owner(each.fingerprint, PENDING) for each in reversed(asked)} | await claims.claim(asked)


@asynccontextmanager
async def pool_at(url: str, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Pool]:
    pool = make_pool(Settings(database_url=url, database_timeout_s=timeout_s, database_pool_max=4))
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close(timeout=2)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    async with pool_at(database_url) as opened:
        yield opened


@pytest.fixture
async def two_gateways(database_url: str) -> AsyncIterator[list[Claims]]:
    async with pool_at(database_url, 10) as one, pool_at(database_url, 10) as other:
        yield [Claims(one, 10), Claims(other, 10)]


def stored(database_url: str, ids: list[bytes]) -> dict[bytes, bytes]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "select id, fingerprint from headrace.claims where id = any(%s::uuid[])", ([each.hex() for each in ids],)
        ).fetchall()
    return {id_.bytes: fingerprint.bytes for id_, fingerprint in rows}


async def test_first_claim_owns_and_is_kept_with_its_record(pool: Pool, database_url: str) -> None:
    ids = new_ids(3)
    claims = [claim_of(id_, number, f'{{"n":{number}}}'.encode()) for number, id_ in enumerate(ids)]
    assert await Claims(pool, TIMEOUT_S).claim(claims) == {}, "whatever is new is its own owner"
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "select id, fingerprint, kafka_partition, record from headrace.claims where id = any(%s::uuid[])",
            ([each.hex() for each in ids],),
        ).fetchall()
    assert {(row[0].bytes, row[1].bytes, row[2], bytes(row[3])) for row in rows} == {
        (each.id, each.fingerprint, 3, each.record) for each in claims
    }


async def test_nothing_to_claim_asks_nobody(pool: Pool) -> None:
    assert await Claims(pool, TIMEOUT_S).claim([]) == {}


async def test_a_later_claim_learns_of_the_owner(pool: Pool) -> None:
    (id_,) = new_ids(1)
    await Claims(pool, TIMEOUT_S).claim([claim_of(id_, 1)])
    for fingerprint in (1, 2):
        owners = await Claims(pool, TIMEOUT_S).claim([claim_of(id_, fingerprint)])
        assert owners == {id_: Owner((1).to_bytes(16, "big"), PENDING)}


async def test_requests_that_share_a_statement_share_its_owners(pool: Pool) -> None:
    (id_,) = new_ids(1)
    claims = Claims(pool, TIMEOUT_S)
    answers = await asyncio.gather(*[owners_of(claims, [claim_of(id_, number)]) for number in range(20)])
    assert {answer[id_] for answer in answers} == {Owner((0).to_bytes(16, "big"), PENDING)}


async def test_processed_events_give_their_owner_and_status(pool: Pool, database_url: str) -> None:
    rows = [event_row(status=status) for status in ("COMPLETED", "FAILED", "PROCESSING")]
    insert_events(database_url, rows)
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "select id, fingerprint, status::text from headrace.events where id = any(%s)",
            ([row["id"] for row in rows],),
        ).fetchall()
    assert {status for _, _, status in found} == {"COMPLETED", "FAILED", "PROCESSING"}
    (fresh,) = new_ids(1)
    asked = [claim_of(id_.bytes, 99) for id_, _, _ in found] + [claim_of(fresh, 5)]
    owners = await owners_of(Claims(pool, TIMEOUT_S), asked)
    expected = {id_.bytes: Owner(fingerprint.bytes, status) for id_, fingerprint, status in found}
    assert owners == expected | {fresh: Owner((5).to_bytes(16, "big"), PENDING)}
    assert stored(database_url, [each.id for each in asked]).keys() == {fresh}  # what is final needs no claim


async def test_a_request_that_leans_on_an_old_claim_begins_it_anew(pool: Pool, database_url: str) -> None:
    """Else the sweeper could free it while its record is on the way, and another payload would win as well."""
    same, other, young = new_ids(3)
    claims = Claims(pool, TIMEOUT_S, renew_after_s=60.0)
    await claims.claim([claim_of(id_, 1) for id_ in (same, other, young)])
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update headrace.claims set claimed_at = now() - interval '61 seconds' where id = any(%s::uuid[])",
            ([same.hex(), other.hex()],),
        )
    owners = await owners_of(claims, [claim_of(same, 1), claim_of(other, 2), claim_of(young, 1)])
    assert [owners[id_].fingerprint[-1] for id_ in (same, other, young)] == [1, 1, 1]
    with psycopg.connect(database_url) as connection:
        old = connection.execute(
            "select id from headrace.claims where id = any(%s::uuid[]) and claimed_at < now() - interval '30 seconds'",
            ([same.hex(), other.hex(), young.hex()],),
        ).fetchall()
    assert [row[0].bytes for row in old] == [other], "a conflict does not lean"


async def test_a_claim_freed_under_a_request_is_claimed_again(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id_,) = new_ids(1)
    claims = Claims(pool, TIMEOUT_S, renew_after_s=0.0)
    await claims.claim([claim_of(id_, 1)])
    renew = claims._not_renewed  # noqa: SLF001 - the moment between the look and the renewal
    freed = False

    async def free_first(leaned_on: list[Claim], deadline: float) -> list[Claim]:
        nonlocal freed
        if not freed:
            freed = True
            with psycopg.connect(database_url) as connection:
                connection.execute("delete from headrace.claims where id = %s::uuid", (id_.hex(),))
        return await renew(leaned_on, deadline)

    monkeypatch.setattr(claims, "_not_renewed", free_first)
    owners = await owners_of(claims, [claim_of(id_, 1)])
    assert owners[id_].fingerprint[-1] == 1
    assert stored(database_url, [id_]) == {id_: (1).to_bytes(16, "big")}


async def test_two_gateways_racing_agree_on_one_owner_each(two_gateways: list[Claims], database_url: str) -> None:
    """Traps (a) and (b): whole sets in opposite orders, hundreds of times, without a deadlock or a wrong word."""
    rng = random.Random(4)  # noqa: S311 - repeatable, not secret
    ids = new_ids(200)

    async def sender(number: int) -> list[dict[bytes, Owner]]:
        answers = []
        for start in range(0, len(ids), 50):
            chunk = ids[start : start + 50]
            rng.shuffle(chunk)
            answers.append(await owners_of(two_gateways[number % 2], [claim_of(id_, number) for id_ in chunk]))
        return answers

    answers = [answer for answers in await asyncio.gather(*map(sender, range(8))) for answer in answers]
    kept = stored(database_url, ids)
    assert kept.keys() == set(ids)
    for answer in answers:
        assert {id_: owner.fingerprint for id_, owner in answer.items()} == {id_: kept[id_] for id_ in answer}


async def test_the_loser_of_a_race_asks_again(pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap (b), by hand: the winner commits while the loser's statement waits for it, after its snapshot."""
    (id_,) = new_ids(1)
    asked = []

    async def counted(*arguments: object) -> list[Row]:
        asked.append(arguments)
        return await rows(*arguments)  # type: ignore[arg-type]

    claims = Claims(pool, 5)
    rows = claims._rows  # noqa: SLF001
    monkeypatch.setattr(claims, "_rows", counted)
    async with await psycopg.AsyncConnection.connect(database_url) as winner:
        await winner.execute(
            "insert into headrace.claims (id, fingerprint, kafka_partition, record) values (%s, %s, 0, '')",
            (uuid.UUID(bytes=id_), uuid.UUID(int=77)),
        )
        loser = asyncio.create_task(claims.claim([claim_of(id_, 1)]))
        await until_waiting(database_url)
        assert not loser.done()
        await winner.commit()
        assert await loser == {id_: Owner((77).to_bytes(16, "big"), PENDING)}
    assert len(asked) == 2


async def test_the_winner_that_rolls_back_leaves_the_key(pool: Pool, database_url: str) -> None:
    (id_,) = new_ids(1)
    async with await psycopg.AsyncConnection.connect(database_url) as winner:
        await winner.execute(
            "insert into headrace.claims (id, fingerprint, kafka_partition, record) values (%s, %s, 0, '')",
            (uuid.UUID(bytes=id_), uuid.UUID(int=77)),
        )
        loser = asyncio.create_task(owners_of(Claims(pool, 5), [claim_of(id_, 1)]))
        await until_waiting(database_url)
        await winner.rollback()
        assert await loser == {id_: Owner((1).to_bytes(16, "big"), PENDING)}


async def until_waiting(database_url: str) -> None:
    """Until a statement waits for another's transaction."""
    query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like %s"
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        for _ in range(500):
            row = await (await connection.execute(query, ("%headrace.claims%",))).fetchone()
            if row and row[0]:
                return
            await asyncio.sleep(0.01)
    pytest.fail("no statement waits for the winner")


async def test_ids_are_asked_for_in_order(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap (a): two statements with the same ids in two orders would wait for each other."""
    asked: list[list[bytes]] = []

    def spy(claims: list[Claim]) -> list[bytes]:
        asked.append([claim.id for claim in claims])
        return parameters(claims)

    parameters = module._parameters  # noqa: SLF001
    monkeypatch.setattr(module, "_parameters", spy)
    await Claims(pool, TIMEOUT_S).claim([claim_of(id_, 1) for id_ in new_ids(100)])
    assert asked == [sorted(asked[0])]


async def test_a_flood_is_cut_into_statements(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def spy(claims: list[Claim]) -> list[bytes]:
        sizes.append(len(claims))
        return parameters(claims)

    parameters = module._parameters  # noqa: SLF001
    monkeypatch.setattr(module, "_parameters", spy)
    claims = Claims(pool, 10)
    requests = [[claim_of(id_, 1) for id_ in new_ids(100)] for _ in range(50)]
    assert await asyncio.gather(*map(claims.claim, requests)) == [{}] * 50
    assert sum(sizes) == 5_000
    assert max(sizes) <= 2_000


async def test_large_records_of_many_requests_do_not_share_a_statement(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def spy(claims: list[Claim]) -> list[bytes]:
        sizes.append(sum(len(claim.record) for claim in claims))
        return parameters(claims)

    parameters = module._parameters  # noqa: SLF001
    monkeypatch.setattr(module, "_parameters", spy)
    claims = Claims(pool, 10)
    record = random.Random(1).randbytes(65_000)  # noqa: S311 - only large
    requests = [[claim_of(id_, 1, record) for id_ in new_ids(60)] for _ in range(5)]
    assert await asyncio.gather(*map(claims.claim, requests)) == [{}] * 5
    assert sum(sizes) == 5 * 60 * len(record)
    assert max(sizes) == 2 * 60 * len(record)  # a third would pass 8 MiB


async def refused_after(claims: Claims) -> float:
    begun_at = monotonic()
    with pytest.raises(ClaimsUnavailableError):
        await claims.claim([claim_of(id_, 1) for id_ in new_ids(2)])
    return monotonic() - begun_at


async def until_claiming(claims: Claims) -> float:
    begun_at = monotonic()
    while monotonic() - begun_at < 10:
        try:
            await claims.claim([claim_of(id_, 1) for id_ in new_ids(2)])
        except ClaimsUnavailableError:
            await asyncio.sleep(0.05)
        else:
            return monotonic() - begun_at
    pytest.fail("claims did not recover")


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with proxied(database_url) as listening:
        yield listening


async def test_a_deaf_postgres_costs_one_timeout_and_later_requests_nothing(proxy: Proxy) -> None:
    async with pool_at(proxy.url) as pool:
        claims = Claims(pool, TIMEOUT_S)
        await until_claiming(claims)
        proxy.set_deaf(True)
        waiting = [asyncio.create_task(refused_after(claims)) for _ in range(5)]
        await asyncio.sleep(TIMEOUT_S / 2)
        queued = [asyncio.create_task(refused_after(claims)) for _ in range(5)]
        assert max(await asyncio.gather(*waiting)) < TIMEOUT_S + SLACK_S
        assert max(await asyncio.gather(*queued)) < TIMEOUT_S  # they do not wait for a statement of their own
        assert await refused_after(claims) < AT_ONCE_S
        await asyncio.sleep(1.1)  # one request tries again, the others do not wait for it
        trial = asyncio.create_task(refused_after(claims))
        await asyncio.sleep(0.1)
        assert await refused_after(claims) < AT_ONCE_S
        assert await trial < TIMEOUT_S + SLACK_S
        proxy.set_deaf(False)
        assert await until_claiming(claims) < 4


async def test_a_postgres_that_is_gone_is_found_again(proxy: Proxy) -> None:
    async with pool_at(proxy.url) as pool:
        claims = Claims(pool, TIMEOUT_S)
        await until_claiming(claims)
        await proxy.cut()
        assert await refused_after(claims) < TIMEOUT_S + SLACK_S
        assert await refused_after(claims) < AT_ONCE_S
        await proxy.listen()
        assert await until_claiming(claims) < 4


async def test_a_locked_table_is_waited_for_no_longer_than_the_timeout(pool: Pool, database_url: str) -> None:
    claims = Claims(pool, TIMEOUT_S)
    async with await psycopg.AsyncConnection.connect(database_url) as locking:
        await locking.execute("lock table headrace.claims in access exclusive mode")
        assert await refused_after(claims) < TIMEOUT_S + SLACK_S
        await locking.rollback()
    assert await until_claiming(claims) < 3


async def test_an_exhausted_pool_is_waited_for_no_longer_than_the_timeout(database_url: str) -> None:
    async with pool_at(database_url) as pool:
        claims = Claims(pool, TIMEOUT_S)
        taken = [await pool.getconn() for _ in range(4)]
        assert await refused_after(claims) < TIMEOUT_S + SLACK_S
        for connection in taken:
            await pool.putconn(connection)
        assert await until_claiming(claims) < 3


async def test_a_request_that_leaves_takes_nobody_along(pool: Pool) -> None:
    claims = Claims(pool, TIMEOUT_S)
    leaving, staying = new_ids(2)
    first = asyncio.create_task(claims.claim([claim_of(leaving, 1)]))
    await asyncio.sleep(0)
    first.cancel()
    assert await claims.claim([claim_of(staying, 2)]) is not None
    assert (await claims.claim([claim_of(leaving, 3)]))[leaving] == Owner((1).to_bytes(16, "big"), PENDING)


async def test_a_defect_reaches_the_requests_that_wait(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: list[Claim]) -> dict[str, bytes | str]:
        raise RuntimeError("a defect")

    claims = Claims(pool, TIMEOUT_S)
    monkeypatch.setattr(module, "_parameters", broken)
    with pytest.raises(RuntimeError, match="a defect"):
        await asyncio.wait_for(claims.claim([claim_of(id_, 1) for id_ in new_ids(1)]), 5)
    monkeypatch.undo()
    assert await until_claiming(claims) < 1


async def test_a_claim_looks_at_no_more_rows_than_its_own(own_database_url: str) -> None:
    """Also by a plan that was made while the table was empty."""
    claim = claim_of(uuid.uuid4().bytes, 1)
    parameters = [*module._parameters([claim]), b"300"]  # noqa: SLF001
    async with pool_at(own_database_url) as pool, pool.connection() as connection:
        await connection.execute("alter table headrace.claims set (autovacuum_enabled = false)")
        await connection.execute("vacuum analyze headrace.claims")
        await connection.execute("set plan_cache_mode = force_generic_plan")
        assert await module._CLAIM.rows(connection, parameters) == []  # noqa: SLF001
        await connection.execute(
            """insert into headrace.claims (id, fingerprint, kafka_partition, record)
               select gen_random_uuid(), gen_random_uuid(), 0, '' from generate_series(1, 20000)"""
        )
        async with connection.transaction():
            (again,) = await module._CLAIM.rows(connection, parameters)  # noqa: SLF001
            looked_at = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'claims'"
            seen = await (await connection.execute(looked_at)).fetchone()
    assert again[1] == claim.fingerprint
    assert seen == (2,), "one to see that it is claimed, one to read the claim"
