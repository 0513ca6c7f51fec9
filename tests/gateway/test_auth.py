"""API keys: who gets in, how soon a revocation is seen, and what happens without Postgres."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import pytest
from starlette.requests import Request

from gateway import auth
from gateway.auth import Keys
from gateway.database import Database, make_pool
from gateway.key import Key
from gateway.problems import ApiError
from schemas.keys import hash_key, new_key
from schemas.settings import Settings
from tests.gateway.asgi import make_scope
from tests.gateway.proxy import proxied
from tests.gateway.rows import execute, insert_key

pytestmark = pytest.mark.anyio

REVOKE = "update headrace.api_keys set revoked_at = now() where key_sha256 = %s"


class CountingDatabase(Database):
    """Counts the statements that ask for keys."""

    lookups = 0

    async def rows(self, query: Any, params: Any, **options: Any) -> Any:  # noqa: ANN401 - passed on as they are
        """Count, and pass on."""
        self.lookups += "key_sha256" in query
        return await super().rows(query, params, **options)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[CountingDatabase]:
    database = CountingDatabase(make_pool(settings), settings)
    await database.start()
    yield database
    await database.stop()


@pytest.fixture
async def keys(database: CountingDatabase) -> AsyncIterator[Keys]:
    keys = Keys(database)
    await keys.start()
    yield keys
    await keys.stop()


def request_with(**headers: str) -> Request:
    return Request(make_scope("GET", "/", {name.replace("_", "-"): value for name, value in headers.items()}))


async def ask(keys: Keys, text: str, scope: str = "read") -> Key:
    return await keys.require(request_with(X_API_Key=text), scope)


async def refusal(keys: Keys, text: str | None, scope: str = "read") -> str:
    request = request_with() if text is None else request_with(X_API_Key=text)
    with pytest.raises(ApiError) as caught:
        await keys.require(request, scope)
    if caught.value.code.code == "unauthorized":
        assert caught.value.headers == {"WWW-Authenticate": 'Bearer realm="headrace"'}
    return caught.value.code.code


async def test_a_key_says_what_it_may(keys: Keys, database_url: str) -> None:
    program = uuid.uuid4()
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    text = insert_key(database_url, ["ingest"], programs=[str(program)], expires_at=expires_at, name="shop")
    key = await ask(keys, text, "ingest")
    assert (key.name, set(key.scopes), key.sha256) == ("shop", {"ingest"}, hash_key(text))
    assert key.expires_at == pytest.approx(expires_at.timestamp())
    assert key.may_use(program.bytes)
    assert not key.may_use(uuid.uuid4().bytes)


async def test_a_key_without_programs_may_use_all(keys: Keys, database_url: str) -> None:
    assert (await ask(keys, insert_key(database_url))).may_use(uuid.uuid4().bytes)


async def test_a_key_with_an_empty_list_may_use_none(keys: Keys, database_url: str) -> None:
    assert not (await ask(keys, insert_key(database_url, programs=[]))).may_use(uuid.uuid4().bytes)


async def test_scopes(keys: Keys, database_url: str) -> None:
    ingest, admin = insert_key(database_url, ["ingest"]), insert_key(database_url, ["admin"])
    assert await refusal(keys, ingest, "read") == "forbidden"
    for scope in ("ingest", "read", "admin"):
        assert (await ask(keys, admin, scope)).sha256 == hash_key(admin)


@pytest.mark.parametrize("header", ["Bearer {}", "bearer {}", "BEARER  {} "])
async def test_bearer(keys: Keys, database_url: str, header: str) -> None:
    text = insert_key(database_url)
    key = await keys.require(request_with(Authorization=header.format(text)), "read")
    assert key.sha256 == hash_key(text)


async def test_x_api_key_comes_first(keys: Keys, database_url: str) -> None:
    text = insert_key(database_url)
    request = request_with(Authorization=f"Bearer {new_key()[0]}", X_API_Key=text)
    assert (await keys.require(request, "read")).sha256 == hash_key(text)


@pytest.mark.parametrize("text", [None, "", " ", "hr_short", "x" * 10_000, "hr_" + "\u00fc" * 38])
async def test_what_is_no_key_costs_no_query(keys: Keys, database: CountingDatabase, text: str | None) -> None:
    assert await refusal(keys, text) == "unauthorized"
    assert database.lookups == 0


async def test_a_mistyped_key_costs_no_query(keys: Keys, database: CountingDatabase, database_url: str) -> None:
    text = insert_key(database_url)
    mistyped = text[:10] + ("a" if text[10] != "a" else "b") + text[11:]
    assert await refusal(keys, mistyped) == "unauthorized"
    assert database.lookups == 0


async def test_basic_authorization_is_no_key(keys: Keys) -> None:
    with pytest.raises(ApiError) as caught:
        await keys.require(request_with(Authorization="Basic abc"), "read")
    assert caught.value.code.code == "unauthorized"


async def test_many_requests_cost_one_query(keys: Keys, database: CountingDatabase, database_url: str) -> None:
    text, unknown = insert_key(database_url), new_key()[0]
    for _ in range(3):
        await asyncio.gather(*(ask(keys, text) for _ in range(50)))
        for _ in range(20):
            assert await refusal(keys, unknown) == "unauthorized"
    assert database.lookups == 2


async def test_unknown_keys_are_looked_up_together(keys: Keys, database: CountingDatabase) -> None:
    codes = await asyncio.gather(*(refusal(keys, new_key()[0]) for _ in range(1_200)))
    assert set(codes) == {"unauthorized"}
    assert database.lookups <= 4


async def test_a_new_key_works_soon_after_it_was_tried_too_early(keys: Keys, database_url: str) -> None:
    text, sha256 = new_key()
    assert await refusal(keys, text) == "unauthorized"
    insert = "insert into headrace.api_keys (key_sha256, name, scopes) values (%s, 'new', '{read}')"
    execute(database_url, insert, [sha256])
    begun_at = monotonic()
    while True:
        try:
            await ask(keys, text)
            break
        except ApiError:
            assert monotonic() - begun_at < 5
            await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_revocation_is_seen_within_five_seconds(database: CountingDatabase, database_url: str) -> None:
    gateways = [Keys(database), Keys(database)]
    in_use, idle = insert_key(database_url), insert_key(database_url)
    for keys in gateways:
        await keys.start()
        await ask(keys, in_use)
        await ask(keys, idle)
    for text in (in_use, idle):
        execute(database_url, REVOKE, [hash_key(text)])
    begun_at = monotonic()
    while monotonic() - begun_at < 4.9:
        for keys in gateways:
            await asyncio.gather(ask(keys, in_use), return_exceptions=True)  # a key in use is no exception
        await asyncio.sleep(0.05)
    for keys in gateways:
        assert await refusal(keys, in_use) == await refusal(keys, idle) == "unauthorized"
        await keys.stop()


async def test_a_revocation_is_seen_even_if_nothing_refreshes(
    database: CountingDatabase, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "FRESH_S", 0.2)
    keys = Keys(database)  # never started
    text = insert_key(database_url)
    await ask(keys, text)
    execute(database_url, REVOKE, [hash_key(text)])
    await asyncio.sleep(0.3)
    assert await refusal(keys, text) == "unauthorized"
    await keys.stop()


async def test_a_key_expires_in_time(keys: Keys, database_url: str) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=2)
    text = insert_key(database_url, expires_at=expires_at)
    await ask(keys, text)
    await asyncio.sleep((expires_at - datetime.now(UTC)).total_seconds() + 0.1)
    assert await refusal(keys, text) == "unauthorized"
    expired = insert_key(database_url, expires_at=datetime.now(UTC) - timedelta(days=1))
    assert await refusal(keys, expired) == "unauthorized"


async def test_a_key_can_expire_never_in_every_way(keys: Keys, database_url: str) -> None:
    text = insert_key(database_url)
    execute(
        database_url, "update headrace.api_keys set expires_at = 'infinity' where key_sha256 = %s", [hash_key(text)]
    )
    assert (await ask(keys, text)).expires_at == float("inf")


async def test_memory_is_bounded(keys: Keys, monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    monkeypatch.setattr(auth, "_ENTRIES_MAX", 10)
    known = [insert_key(database_url) for _ in range(15)]
    for text in known:
        await ask(keys, text)
    for _ in range(15):
        await refusal(keys, new_key()[0])
    assert len(keys._known) == len(keys._unknown) == 10  # noqa: SLF001 - memory is what this is about
    await ask(keys, known[0])


async def test_known_keys_outlive_postgres_for_a_while(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    text = insert_key(settings.database_url)
    async with proxied(settings.database_url) as proxy:
        database = Database(make_pool(Settings(database_url=proxy.url, database_timeout_s=1)), settings)
        keys = Keys(database)
        await database.start()
        await keys.start()
        await ask(keys, text)
        await proxy.cut()
        monkeypatch.setattr(auth, "FRESH_S", 0.0)
        for _ in range(10):
            await ask(keys, text)
            assert await refusal(keys, new_key()[0]) == "unavailable"
            await asyncio.sleep(0.05)
        monkeypatch.setattr(auth, "OUTAGE_S", 0.0)
        assert await refusal(keys, text) == "unavailable"
        await keys.stop()
        await database.stop()
