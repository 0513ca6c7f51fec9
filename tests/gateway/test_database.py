"""Postgres restarted, cut off, deaf, slow, busy, or never migrated: requests end in time and recover by themselves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from starlette.applications import Starlette

from gateway.database import DATABASE_FAULTS, Database, make_pool
from gateway.problems import ApiError
from schemas.settings import Settings
from tests.gateway.asgi import Client
from tests.gateway.conftest import serving
from tests.gateway.proxy import Proxy, proxied
from tests.gateway.rows import event_row, execute, insert_events, insert_key

pytestmark = pytest.mark.anyio

TIMEOUT_S = 0.5
AT_ONCE_S = TIMEOUT_S - 0.1  # whoever waits for anything waits longer
END_ALL = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s"


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with proxied(database_url) as listening:
        yield listening


@asynccontextmanager
async def database_at(url: str, pool_max: int = 4, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Database]:
    settings = Settings(database_url=url, database_timeout_s=timeout_s, database_pool_max=pool_max)
    database = Database(make_pool(settings), settings)
    await database.start()
    try:
        yield database
    finally:
        await database.stop()


async def until_answering(database: Database) -> float:
    """Seconds until Postgres is known to answer."""
    begun_at = monotonic()
    while database.reason is not None:
        assert monotonic() - begun_at < 8, database.reason
        await asyncio.sleep(0.02)
    return monotonic() - begun_at


async def refused_after(database: Database) -> float:
    begun_at = monotonic()
    with pytest.raises(ApiError) as caught:
        await database.read("select 1", [])
    assert caught.value.code.code == "unavailable"
    assert caught.value.headers == {"Retry-After": "1"}
    return monotonic() - begun_at


async def test_connections_commit_speak_utc_and_keep_the_users_options(database_url: str) -> None:
    async with database_at(make_conninfo(database_url, options="-c search_path=elsewhere")) as database:
        settings = await database.read(
            "select name, setting from pg_settings where name = any(%s)",
            [["TimeZone", "statement_timeout", "search_path"]],
        )
        async with database.pool.connection() as connection:
            assert connection.autocommit
    assert dict(settings) == {"TimeZone": "UTC", "statement_timeout": "500", "search_path": "elsewhere"}


async def test_a_slow_statement_ends_in_time(database_url: str) -> None:
    async with database_at(database_url) as database:
        begun_at = monotonic()
        with pytest.raises(ApiError) as caught:
            await database.read("select pg_sleep(30)", [])
        assert caught.value.code.code == "unavailable"
        assert TIMEOUT_S <= monotonic() - begun_at < 2
        assert await database.read("select 1", []) == [(1,)]


async def test_sessions_ended_by_the_server_are_not_noticed_by_requests(database_url: str) -> None:
    async with database_at(make_conninfo(database_url, application_name="ended")) as database:
        for _ in range(3):
            await asyncio.gather(*(database.read("select pg_sleep(0.02)", []) for _ in range(4)))
            await asyncio.to_thread(execute, database_url, END_ALL, ["ended"])
            await asyncio.sleep(0.05)
            assert await database.read("select 1", []) == [(1,)]


async def test_start_does_not_need_postgres(proxy: Proxy) -> None:
    await proxy.cut()
    begun_at = monotonic()
    async with database_at(proxy.url) as database:
        assert monotonic() - begun_at < 4
        assert database.reason is not None
        assert await refused_after(database) < AT_ONCE_S
        await proxy.listen()
        assert await until_answering(database) < 5
        assert await database.read("select 1", []) == [(1,)]


async def test_postgres_cut_off_and_back(proxy: Proxy) -> None:
    async with database_at(proxy.url) as database:
        for _ in range(2):
            await proxy.cut()
            assert await refused_after(database) < 2
            await asyncio.sleep(4)
            assert await refused_after(database) < AT_ONCE_S  # known by now: nobody waits
            await proxy.listen()
            assert await until_answering(database) < 5
            assert await database.read("select 1", []) == [(1,)]


async def test_a_deaf_server_holds_nobody_for_long(proxy: Proxy) -> None:
    async with database_at(proxy.url) as database:
        proxy.set_deaf(True)
        begun_at = monotonic()
        results = await asyncio.gather(*(database.read("select 1", []) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(result, ApiError) for result in results)
        assert monotonic() - begun_at < 5
        proxy.set_deaf(False)
        await until_answering(database)
        assert await database.read("select 1", []) == [(1,)]


async def test_reading_leaves_connections_for_the_others(database_url: str) -> None:
    async with database_at(database_url, pool_max=5, timeout_s=2.0) as database:
        slow = [asyncio.create_task(database.read("select pg_sleep(1.3)", [])) for _ in range(6)]
        await asyncio.sleep(0.1)
        assert await database.rows("select 1", [], timeout_s=1) == [(1,)]
        assert not any(task.done() for task in slow), "it has waited for none of them"
        results = await asyncio.gather(*slow, return_exceptions=True)
        assert sum(isinstance(result, ApiError) for result in results) == 2  # the last two would wait too long


async def test_tables_that_are_missing_are_named(database_url: str) -> None:
    elsewhere = make_conninfo(database_url, dbname="postgres")
    async with database_at(elsewhere) as database:
        assert database.reason == "its tables are missing: run `headrace migrate`"
        with pytest.raises(DATABASE_FAULTS):
            await database.rows("select 1 from headrace.events", [], timeout_s=1)


async def test_a_defect_in_a_query_is_no_outage(database_url: str) -> None:
    async with database_at(database_url) as database:
        with pytest.raises(psycopg.errors.SyntaxError):
            await database.read("selec", [])
        assert database.reason is None


async def test_routes_say_so(settings: Settings, proxy: Proxy) -> None:
    row = event_row(status="PROCESSING")
    insert_events(settings.database_url, [row])
    async with serving(Settings(kafka=settings.kafka, database_url=proxy.url, database_timeout_s=TIMEOUT_S)) as app:
        client = Client(app, {"X-API-Key": insert_key(settings.database_url)})
        assert (await client.get(f"/v1/events/{row['id']}")).status == 200
        waiting = asyncio.create_task(client.get(f"/v1/events/{row['id']}?wait=2"))
        await asyncio.sleep(0.1)
        await proxy.cut()
        answers = [await waiting]
        answers += [await client.get(path) for path in (f"/v1/events/{row['id']}", "/v1/events")]
        for answer in answers:
            assert (answer.status, answer.code) == (503, "unavailable")
            assert answer.headers["retry-after"] == "1"
        ready = await client.get("/readyz")
        assert ready.status == 200
        assert ready.json["postgres"] != "ok"
        await proxy.listen()
        await until_answering(app.state.database)
        assert (await client.get("/v1/events?limit=1")).status == 200


async def test_health(app: Starlette) -> None:
    client = Client(app)
    assert (await client.get("/livez")).json == {"status": "alive"}
    assert (await client.get("/readyz")).json == {"status": "ready", "kafka": "ok", "postgres": "ok"}
    metrics = await client.get("/metrics")
    assert metrics.status == 200
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    assert b"headrace_gateway_postgres_up 1.0" in metrics.body


async def test_readiness_tells_why_kafka_is_missing(database_url: str) -> None:
    nowhere = Settings(kafka="127.0.0.1:1", database_url=database_url)
    async with serving(nowhere, kafka_answers=False) as app:
        answer = await Client(app).get("/readyz")
        while "not connected yet" in answer.json["message"]:
            await asyncio.sleep(0.05)
            answer = await Client(app).get("/readyz")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert [(error["field"], "127.0.0.1:1" in error["message"]) for error in answer.json["errors"]] == [("kafka", True)]
