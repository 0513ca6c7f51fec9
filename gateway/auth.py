"""API keys: who is asking, and what may they do.

A key is kept in memory after its first use and looked at again every two seconds, in one statement for all keys in
use: no request waits for a query, and every gateway sees a revocation within five seconds. While Postgres is down the
keys in memory stay valid for ten minutes (`OUTAGE_S`), so that events are still accepted; other keys get 503.
"""

import asyncio
from collections.abc import Iterable
from itertools import islice
from time import monotonic, time
from uuid import UUID

import structlog
from starlette.requests import HTTPConnection
from starlette.types import Scope

from gateway import metrics
from gateway.database import DATABASE_FAULTS, Database
from gateway.key import Key
from gateway.problems import ApiError, unavailable
from gateway.ratelimits import RateLimits
from schemas.errors import FORBIDDEN, UNAUTHORIZED
from schemas.keys import hash_key, is_well_formed

REFRESH_S = 2.0
FRESH_S = 4.0  # older than this, an entry is looked up again before it is believed
OUTAGE_S = 600.0
UNKNOWN_S = 2.0  # how long a key is remembered as unknown; a new key works after this at the latest

_IDLE_S = 600.0
_ENTRIES_MAX = 20_000
_STATEMENT_KEYS_MAX = 500
_LOOKUPS_WAITING_MAX = 5_000
_LOOKUP_TIMEOUT_S = 1.5  # for a connection, and again for the statement
_HEADER_BYTES_MAX = 200

_SELECT = """
    select key_sha256, name, scopes, program_ids, extract(epoch from expires_at)::float8, rate_events_per_s
    from headrace.api_keys
    where key_sha256 = any(%s) and (revoked_at is null or revoked_at > now())
      and (expires_at is null or expires_at > now())
"""

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="headrace"'}

_log = structlog.get_logger("headrace.gateway")


class _Entry:
    __slots__ = ("checked_at", "key", "used_at")

    def __init__(self, key: Key, now: float) -> None:
        self.key = key
        self.checked_at = now
        self.used_at = now


class Keys:
    """The keys that this process has met."""

    def __init__(self, database: Database, limits: RateLimits | None = None) -> None:
        self._database = database
        self._limits = limits
        self._known: dict[bytes, _Entry] = {}
        self._unknown: dict[bytes, float] = {}  # when it was looked up
        self._waiting: dict[bytes, asyncio.Future[Key | None]] = {}
        self._lookup_task: asyncio.Task[None] | None = None
        self._refresh_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look at the known keys every `REFRESH_S`."""
        self._refresh_task = asyncio.create_task(self._refresh_forever(), name="keys-refresh")

    async def stop(self) -> None:
        """End the background tasks."""
        tasks = [task for task in (self._refresh_task, self._lookup_task) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def require(self, request: HTTPConnection, scope: str) -> Key:
        """The key that a request came with. Raises ApiError `unauthorized`, `forbidden` or `unavailable`."""
        text = presented_key(request.scope)
        if text is None:
            raise _unauthorized("there is no API key: send it as X-API-Key, or as Authorization: Bearer")
        sha256 = hash_key(text)
        now = monotonic()
        entry = self._known.get(sha256)
        if entry is not None and now - entry.checked_at <= FRESH_S:
            entry.used_at = now
            key: Key | None = entry.key
        else:
            key = await self._find(text, sha256, now)
        if key is None or (key.expires_at is not None and key.expires_at <= time()):
            raise _unauthorized("the API key is unknown, expired or revoked")
        if not key.allows(scope):
            raise ApiError(FORBIDDEN, f"the API key {key.name!r} has not the scope {scope!r}")
        if self._limits is not None:
            await self._limits.charge(request.scope, key, 0)  # nothing yet: so that every answer tells the allowance
        return key

    async def _find(self, text: str, sha256: bytes, now: float) -> Key | None:
        """What is not fresh in memory: ask Postgres, or believe what was known before it went down."""
        if not is_well_formed(text):  # mistyped: that costs no query
            return None
        looked_up_at = self._unknown.get(sha256)
        if looked_up_at is not None and now - looked_up_at <= UNKNOWN_S:
            return None
        try:
            return await self._look_up(sha256)
        except DATABASE_FAULTS as error:
            entry = self._known.get(sha256)
            if entry is None or now - entry.checked_at > OUTAGE_S:
                raise unavailable("the API key cannot be checked, since Postgres does not answer") from error
            entry.used_at = now
            return entry.key

    async def _look_up(self, sha256: bytes) -> Key | None:
        if self._database.reason is not None:
            raise TimeoutError(self._database.reason)
        future = self._waiting.get(sha256)
        if future is None:
            if len(self._waiting) >= _LOOKUPS_WAITING_MAX:
                raise unavailable("too many API keys wait to be checked")
            future = self._waiting[sha256] = asyncio.get_running_loop().create_future()
        if self._lookup_task is None or self._lookup_task.done():
            self._lookup_task = asyncio.create_task(self._answer_waiting(), name="keys-lookup")
        return await asyncio.shield(future)  # several requests may wait for one lookup

    async def _answer_waiting(self) -> None:
        """One statement at a time for all that wait, so that unknown keys cannot use up the connections."""
        while self._waiting:
            hashes = list(islice(self._waiting, _STATEMENT_KEYS_MAX))
            metrics.KEY_LOOKUPS.inc(len(hashes))
            fault: BaseException | None = None
            try:
                await self._load(hashes)
            except DATABASE_FAULTS as error:
                fault = error
            except BaseException:
                self._give_up(hashes, TimeoutError("the lookup ended"))
                raise
            if fault is not None:
                self._give_up(hashes, fault)
                continue
            for sha256 in hashes:
                entry = self._known.get(sha256)
                future = self._waiting.pop(sha256)
                if not future.done():
                    future.set_result(None if entry is None else entry.key)

    def _give_up(self, hashes: Iterable[bytes], fault: BaseException) -> None:
        for sha256 in hashes:
            future = self._waiting.pop(sha256)
            if not future.done():
                future.set_exception(fault)
                future.exception()  # seen, even where the request that asked is gone

    async def _load(self, hashes: list[bytes]) -> None:
        """Bring what is known of some keys up to date. Raises one of `DATABASE_FAULTS`."""
        asked_at = monotonic()  # before the statement: what it sees is at least as new
        rows = await self._database.rows(_SELECT, [hashes], timeout_s=_LOOKUP_TIMEOUT_S)
        found = {key.sha256: key for key in (_key(*row) for row in rows)}
        for sha256 in hashes:
            key = found.get(sha256)
            entry = self._known.get(sha256)
            if key is None:
                self._known.pop(sha256, None)
                _make_room(self._unknown)
                self._unknown[sha256] = asked_at
            elif entry is None:
                _make_room(self._known)
                self._known[sha256] = _Entry(key, asked_at)
                self._unknown.pop(sha256, None)
            else:
                entry.key, entry.checked_at = key, asked_at

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            now = monotonic()
            self._forget_idle(now)
            if self._database.reason is not None:
                continue
            hashes = list(self._known)
            try:
                for start in range(0, len(hashes), _STATEMENT_KEYS_MAX):
                    await self._load(hashes[start : start + _STATEMENT_KEYS_MAX])
            except DATABASE_FAULTS as error:
                _log.warning("API keys could not be refreshed", reason=" ".join(str(error).split()))

    def _forget_idle(self, now: float) -> None:
        for sha256 in [sha256 for sha256, entry in self._known.items() if now - entry.used_at > _IDLE_S]:
            del self._known[sha256]
        for sha256 in [sha256 for sha256, asked_at in self._unknown.items() if now - asked_at > UNKNOWN_S]:
            del self._unknown[sha256]


def presented_key(scope: Scope) -> str | None:
    """The key in the headers, unchecked; None where there is none that could be one."""
    bearer: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return _as_text(value)
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:]
    return None if bearer is None else _as_text(bearer)


def _as_text(value: bytes) -> str | None:
    value = value.strip()
    return value.decode("latin-1") if 0 < len(value) <= _HEADER_BYTES_MAX else None


def _unauthorized(message: str) -> ApiError:
    return ApiError(UNAUTHORIZED, message, headers=_CHALLENGE)


def _make_room(entries: dict[bytes, _Entry] | dict[bytes, float]) -> None:
    if len(entries) >= _ENTRIES_MAX:
        del entries[next(iter(entries))]  # the oldest


def _key(
    sha256: bytes,
    name: str,
    scopes: list[str],
    program_ids: list[UUID] | None,
    expires_at: float | None,
    rate_events_per_s: float | None,
) -> Key:
    return Key(
        bytes(sha256),
        name,
        frozenset(scopes),
        None if program_ids is None else frozenset(each.bytes for each in program_ids),
        expires_at,
        rate_events_per_s,
    )
