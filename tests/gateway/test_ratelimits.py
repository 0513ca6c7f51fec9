"""Rate limits: exact over all gateways, charged by event, told on every answer."""

import asyncio
import hashlib
import uuid
from time import monotonic
from typing import Any

import pytest
from starlette.types import Scope

from gateway.database import Database, make_pool
from gateway.key import Key
from gateway.problems import ApiError
from gateway.ratelimits import ALLOWANCE, Allowance, RateLimits
from schemas.settings import Settings

pytestmark = pytest.mark.anyio


def _key(rate: float | None = None) -> Key:
    return Key(hashlib.sha256(uuid.uuid4().bytes).digest(), "test", frozenset({"ingest"}), None, None, rate)


async def _limits(database_url: str, default_rate: float) -> tuple[RateLimits, Database]:
    settings = Settings(database_url=database_url)
    database = Database(make_pool(settings), settings)
    await database.start()
    return RateLimits(database, default_rate), database


async def _charge(limits: RateLimits, key: Key, events: int) -> tuple[str, Scope]:
    scope: dict[str, Any] = {}
    try:
        await limits.charge(scope, key, events)
    except ApiError as error:
        return error.code.code, scope
    return "ok", scope


async def test_two_gateways_share_one_bucket(database_url: str) -> None:
    """Whatever each takes for itself, both together send no more than the bucket holds."""
    first, one = await _limits(database_url, 0)
    second, two = await _limits(database_url, 0)
    key = _key(rate=1.0)  # so slow that nothing is refilled while this runs
    outcomes = await asyncio.gather(*(_charge(limits, key, 7) for limits in (first, second) for _ in range(20)))
    sent = 7 * sum(outcome == "ok" for outcome, _ in outcomes)
    assert 98 <= sent <= 100 + 7, "100 is the smallest bucket; a second may pass meanwhile"
    await one.stop()
    await two.stop()


async def test_a_refusal_charges_nothing_and_says_when(database_url: str) -> None:
    limits, database = await _limits(database_url, 1.0)  # so slow that a refill takes longer than this
    key = _key()
    assert (await _charge(limits, key, 60))[0] == "ok"
    refused = await asyncio.gather(*(_charge(limits, key, 50) for _ in range(5)))
    assert {outcome for outcome, _ in refused} == {"too_many_requests"}
    outcome, scope = await _charge(limits, key, 40)
    assert outcome == "ok", "what was refused was not charged"
    allowance = scope[ALLOWANCE]
    assert isinstance(allowance, Allowance)
    assert allowance.limit == 100
    assert 0 <= allowance.remains <= 10
    assert 90 <= allowance.full_in_s <= 100
    with pytest.raises(ApiError) as error:
        await limits.charge({}, key, 30)
    assert error.value.headers is not None
    assert 20 <= int(error.value.headers["Retry-After"]) <= 30
    await database.stop()


async def test_the_bucket_refills(database_url: str) -> None:
    limits, database = await _limits(database_url, 20.0)
    key = _key()
    begun_at = monotonic()
    assert (await _charge(limits, key, 100))[0] == "ok"
    while (await _charge(limits, key, 30))[0] == "too_many_requests":
        assert monotonic() - begun_at < 5
        await asyncio.sleep(0.05)
    assert monotonic() - begun_at > 1.4, "30 events are a second and a half"
    await database.stop()


async def test_without_a_limit_nothing_is_told(database_url: str) -> None:
    limits, database = await _limits(database_url, 5.0)
    assert await _charge(limits, _key(rate=0.0), 10_000) == ("ok", {})
    await database.stop()


async def test_without_postgres_each_gateway_goes_on_alone() -> None:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/none", database_timeout_s=0.2)
    database = Database(make_pool(settings), settings)
    await database.start()
    limits = RateLimits(database, 100.0)
    key = _key()
    assert (await _charge(limits, key, 100))[0] == "ok"
    assert (await _charge(limits, key, 100))[0] == "too_many_requests"
    await asyncio.sleep(1.05)
    assert (await _charge(limits, key, 100))[0] == "ok"
    await database.stop()
