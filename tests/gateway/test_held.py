"""A held connection and a prepared statement on the real Postgres."""

import psycopg
import pytest
from psycopg.pq import Format

from gateway import held as module
from gateway.claims import Claims
from gateway.database import Pool, make_pool
from gateway.held import HeldConnection
from gateway.prepared import PreparedStatement
from schemas.settings import Settings
from tests.gateway.test_claims import claim_of, new_ids

pytestmark = pytest.mark.anyio

TIMEOUT_S = 2.0
ECHO = PreparedStatement("echo", "select $1::bytea, $2::integer, null", [Format.BINARY, Format.TEXT])


@pytest.fixture
async def pool(database_url: str) -> Pool:
    opened = make_pool(Settings(database_url=database_url, database_pool_max=1))
    await opened.open()
    return opened


async def available(pool: Pool, within_s: float = 5.0) -> bool:
    """Whether somebody else can have the pool's one connection."""
    try:
        async with pool.connection(within_s):
            return True
    except psycopg.OperationalError:
        return False


async def test_it_is_kept_until_it_is_given_back(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STATEMENTS_MAX", 3)
    held = HeldConnection(pool)
    returned = 0
    put = pool.putconn

    async def counted(connection: psycopg.AsyncConnection) -> None:
        nonlocal returned
        returned += 1
        await put(connection)

    monkeypatch.setattr(pool, "putconn", counted)
    for _ in range(7):
        await held.get(TIMEOUT_S)
        assert not await available(pool, within_s=0.1)
    assert returned == 2
    await held.give_back()
    assert await available(pool)
    await held.give_back()  # there is none
    await pool.close()


async def test_claims_keep_no_connection_while_nobody_asks(pool: Pool) -> None:
    claims = Claims(pool, TIMEOUT_S)
    for id_ in new_ids(3):
        await claims.claim([claim_of(id_, 1)])
        assert await available(pool)
    await pool.close()


async def test_rows_come_in_the_bytes_of_the_wire(pool: Pool) -> None:
    async with pool.connection() as connection:
        for number in (1, 2):  # the second time it is prepared already
            rows = await ECHO.rows(connection, [b"\0\xff", b"%d" % number])
            assert rows == [(b"\0\xff", number.to_bytes(4, "big"), None)]
    await pool.close()


async def test_what_postgres_refuses_is_raised_and_the_connection_goes_on(pool: Pool) -> None:
    async with pool.connection() as connection:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            await ECHO.rows(connection, [b"", b"no number"])
        broken = PreparedStatement("broken", "select from headrace.nowhere", [])
        with pytest.raises(psycopg.errors.UndefinedTable):
            await broken.rows(connection, [])
        assert len(await ECHO.rows(connection, [b"", b"1"])) == 1
    await pool.close()
