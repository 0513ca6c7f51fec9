"""The patience to wait for Postgres: bounded for each transaction, also where the server goes deaf in the middle."""

import asyncio
import time
from typing import Any
from unittest import mock

import pytest
from psycopg import AsyncConnection

from processors.database import Database
from schemas.settings import Settings
from tests.gateway.proxy import proxied


@pytest.mark.anyio
async def test_a_transaction_that_is_not_answered_is_done_again_on_another_connection(database_url: str) -> None:
    begun = asyncio.Event()
    tries: list[int] = []

    async def work(connection: AsyncConnection[Any]) -> int:
        tries.append(connection.info.backend_pid)
        begun.set()
        await asyncio.sleep(0.2)
        cursor = await connection.execute("select 7")
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])

    async with proxied(database_url) as proxy:
        database = Database(Settings(database_url=proxy.url))
        beats: list[float] = []
        database.alive = lambda: beats.append(time.monotonic())
        await database.start()
        with mock.patch.object(database, "_transaction_s", 1.0):
            running = asyncio.create_task(database.run(work))
            await begun.wait()
            proxy.set_deaf(True)
            await asyncio.sleep(2.0)
            assert not running.done()
            proxy.set_deaf(False)
            assert await asyncio.wait_for(running, 30) == 7
        await database.stop()
    assert len(tries) > 1
    assert len(beats) > 1


@pytest.mark.anyio
async def test_a_connection_that_was_ended_while_nobody_used_it_is_noticed_before_it_is_used(database_url: str) -> None:
    async def pid(connection: AsyncConnection[Any]) -> int:
        return connection.info.backend_pid

    settings = Settings(database_url=database_url, worker_id="worker-whose-connections-end")
    database = Database(settings)
    await database.start()
    try:
        await database.once(pid)
        async with await AsyncConnection.connect(database_url, autocommit=True) as other:
            ended = await other.execute(
                "select pid, pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = %s",
                (f"headrace {settings.worker_id}",),
            )
            pids = {row[0] for row in await ended.fetchall()}
        assert pids
        assert await database.once(pid) not in pids
    finally:
        await database.stop()
