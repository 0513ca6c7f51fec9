"""Rate limits: a token bucket per key, charged by event, that holds for all gateways together.

The bucket stands in Postgres. A gateway takes a small part of it at a time, a twentieth of a second's events or what a
request needs, and serves requests from that; so a limit costs a statement now and then, not one per request, and no
more than the bucket holds is ever sent. What is not used within a second is given up. While Postgres does
not answer, each gateway goes on by itself with the whole rate: a limit protects, an outage must not.
"""

import asyncio
import math
from time import monotonic
from typing import NamedTuple

import msgspec
import structlog
from starlette.types import Scope

from gateway.database import DATABASE_FAULTS, Database
from gateway.key import Key
from gateway.problems import ApiError
from schemas.errors import TOO_MANY_REQUESTS

BURST_EVENTS_MIN = 100  # a whole batch must fit into any bucket

_TAKEN_S = 0.05
_GIVEN_UP_S = 1.0
_TIMEOUT_S = 1.0
_KEYS_MAX = 20_000

_TAKE = "select granted, remaining from headrace.take_events(%s, %s, %s, %s, %s)"

ALLOWANCE = "headrace.allowance"
"""Where a request's scope keeps the :class:`Allowance` that its answer tells."""

_log = structlog.get_logger("headrace.gateway")


class Allowance(NamedTuple):
    """What a key may still send: its `limit` (the most it can hold), what `remains`, and seconds until it is full."""

    limit: int
    remains: int
    full_in_s: int

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that tell the client, as ASGI has them."""
        return [
            (b"x-ratelimit-limit", str(self.limit).encode()),
            (b"x-ratelimit-remaining", str(self.remains).encode()),
            (b"x-ratelimit-reset", str(self.full_in_s).encode()),
        ]


class _Bucket(msgspec.Struct):
    """What this process holds of one key's rate, and what it last saw in the shared bucket. Times are monotonic."""

    lock: asyncio.Lock
    held: float = 0.0
    held_at: float = 0.0
    shared: float = 0.0
    shared_at: float = 0.0


class RateLimits:
    """The buckets of the keys that this process has met; `default_rate` in events per second, 0 for no limit."""

    def __init__(self, database: Database, default_rate: float) -> None:
        self._database = database
        self._default_rate = default_rate
        self._buckets: dict[bytes, _Bucket] = {}

    async def charge(self, scope: Scope, key: Key, events: int) -> None:
        """Charge `events` to the key of the request `scope`, whose answer will tell what remains; 0 only tells.

        Raises ApiError `too_many_requests`, and then nothing is charged.
        """
        rate = self._default_rate if key.rate_events_per_s is None else key.rate_events_per_s
        if not rate:
            return
        burst = max(rate, BURST_EVENTS_MIN)
        bucket = self._bucket(key.sha256)
        async with bucket.lock:
            await self._fill(key.sha256, bucket, rate, burst, events)
            allowed = bucket.held >= events
            if allowed:
                bucket.held -= events
            allowance = scope[ALLOWANCE] = _allowance(bucket, rate, burst)
        if not allowed:
            raise _too_many(allowance, events, rate)

    def _bucket(self, sha256: bytes) -> _Bucket:
        bucket = self._buckets.get(sha256)
        if bucket is None:
            if len(self._buckets) >= _KEYS_MAX:
                del self._buckets[next(iter(self._buckets))]  # the oldest; its key starts from the shared bucket again
            bucket = self._buckets[sha256] = _Bucket(asyncio.Lock())
        return bucket

    async def _fill(self, sha256: bytes, bucket: _Bucket, rate: float, burst: float, events: int) -> None:
        """Have at least `events` in hand if the key may send as many."""
        now = monotonic()
        if now - bucket.held_at > _GIVEN_UP_S:
            bucket.held = 0.0
        if bucket.shared_at and bucket.held >= events:
            return
        needed = events - bucket.held
        wanted = max(needed, rate * _TAKEN_S) if events else 0.0
        try:
            if self._database.reason is not None:
                raise TimeoutError(self._database.reason)
            rows = await self._database.rows(_TAKE, [sha256, rate, burst, needed, wanted], timeout_s=_TIMEOUT_S)
        except DATABASE_FAULTS as error:
            _log.info("rate limited by this process alone", reason=" ".join(str(error).split()))
            bucket.held = min(burst, bucket.held + rate * (now - bucket.held_at))
        else:
            granted, bucket.shared = rows[0]
            bucket.held += granted
            bucket.shared_at = monotonic()
        bucket.held_at = monotonic()


def _allowance(bucket: _Bucket, rate: float, burst: float) -> Allowance:
    refilled = bucket.shared + rate * (monotonic() - bucket.shared_at)
    remains = min(burst, bucket.held + min(burst, refilled))
    return Allowance(int(burst), int(remains), math.ceil((burst - remains) / rate))


def _too_many(allowance: Allowance, events: int, rate: float) -> ApiError:
    pause_s = max(1, math.ceil((events - allowance.remains) / rate))
    message = f"this key may send {rate:g} events per second; wait {pause_s} s"
    return ApiError(TOO_MANY_REQUESTS, message, headers={"Retry-After": str(pause_s)})
