"""Waiting for events: many wait, one asks."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import waiting
from gateway.database import Database, make_pool
from gateway.problems import ApiError
from gateway.waiting import Waiting
from schemas.settings import Settings
from tests.gateway.rows import event_row, execute, insert_events

pytestmark = pytest.mark.anyio


class CountingDatabase(Database):
    """Counts statements; raises instead, where `fault` is set."""

    statements = 0
    fault: Exception | None = None

    async def rows(self, query: Any, params: Any, **options: Any) -> Any:  # noqa: ANN401 - passed on as they are
        """Count, and pass on."""
        self.statements += 1
        if self.fault is not None:
            raise self.fault
        return await super().rows(query, params, **options)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[CountingDatabase]:
    database = CountingDatabase(make_pool(settings), settings)
    await database.pool.open()
    yield database
    await database.pool.close()


@pytest.fixture
async def holding(database: CountingDatabase) -> AsyncIterator[Waiting]:
    holding = Waiting(database)
    yield holding
    await holding.stop()
    assert holding.count == 0


async def seconds_until_final(holding: Waiting, event_id: str, seconds: float) -> float:
    begun_at = asyncio.get_running_loop().time()
    await holding.until_final(event_id, seconds)
    return asyncio.get_running_loop().time() - begun_at


async def test_a_thousand_wait_at_the_cost_of_one(holding: Waiting, database: CountingDatabase) -> None:
    ids = [str(uuid.uuid4()) for _ in range(waiting.WAITERS_MAX)]
    times = await asyncio.gather(*(seconds_until_final(holding, event_id, 1.0) for event_id in ids))
    assert all(0.99 <= each < 3.0 for each in times)  # the loop's timers are exact to some milliseconds
    assert 5 <= database.statements <= 40


async def test_each_is_woken_by_its_own_event(holding: Waiting, settings: Settings) -> None:
    rows = [event_row(status="PROCESSING") for _ in range(3)]
    insert_events(settings.database_url, rows)
    waits = [asyncio.create_task(seconds_until_final(holding, row["id"], 3.0)) for row in rows]
    await asyncio.sleep(0.1)
    for row, status in zip(rows, ("COMPLETED", "FAILED", "PENDING"), strict=True):
        await asyncio.to_thread(
            execute,
            settings.database_url,
            "update headrace.events set status = %s::headrace.status where id = %s",
            [status, row["id"]],
        )
    times = [await wait for wait in waits]
    assert max(times[:2]) < 2.5
    assert times[2] >= 2.99


async def test_one_too_many_is_refused(holding: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAITERS_MAX", 2)
    waits = [asyncio.create_task(holding.until_final(str(uuid.uuid4()), 0.3)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError) as caught:
        await holding.until_final(str(uuid.uuid4()), 0.3)
    assert caught.value.code.code == "unavailable"
    await asyncio.gather(*waits)
    await holding.until_final(str(uuid.uuid4()), 0.05)  # there is room again


async def test_nobody_asks_while_nobody_waits(holding: Waiting, database: CountingDatabase) -> None:
    await holding.until_final(str(uuid.uuid4()), 0.1)
    await asyncio.sleep(0.1)
    asked = database.statements
    await asyncio.sleep(0.3)
    assert database.statements == asked


async def test_a_client_that_leaves_leaves_nothing_behind(holding: Waiting) -> None:
    wait = asyncio.create_task(holding.until_final(str(uuid.uuid4()), 30))
    await asyncio.sleep(0.05)
    wait.cancel()
    await asyncio.wait([wait])
    assert holding.count == 0


async def test_waiting_survives_an_outage(
    holding: Waiting, database: CountingDatabase, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_AFTER_FAULT_S", 0.05)
    row = event_row()
    insert_events(settings.database_url, [row])
    database.fault = TimeoutError()
    wait = asyncio.create_task(seconds_until_final(holding, row["id"], 10))
    await asyncio.sleep(0.3)
    database.fault = None
    assert 0.29 <= await wait < 5


async def test_stopping_lets_all_go(database: CountingDatabase) -> None:
    holding = Waiting(database)
    waits = [asyncio.create_task(seconds_until_final(holding, str(uuid.uuid4()), 30)) for _ in range(5)]
    await asyncio.sleep(0.05)
    await holding.stop()
    assert max([await wait for wait in waits]) < 5
