"""Claims: who owns an idempotency key, decided in Postgres before a record goes to Kafka.

Many requests share a statement: while one is under way, what arrives gathers for the next. The statement looks the
ids up among the events and claims those that are in neither table. Why it is written as it is:

- The ids are sorted, so that two gateways never wait for each other in a circle.
- The loser of a race does not see the winner's row in its own snapshot: such ids come back with no owner and are asked
  for again.
- A claim is never released here: an identical request may lean on it. The workers free claims, those of committed
  events and old ones whose record never came; so a request that leans on an aging claim begins it anew.
- Each id is one index lookup in either table, whatever the planner believes: a plan made while `claims` was empty is
  kept, and would read all of a table that has grown since for one id that is not new.
- Ids and fingerprints travel as one `bytea`, split in SQL: a quarter of the cost of two arrays.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec
import psycopg
import structlog
from psycopg.pq import Format

from gateway.database import Pool, hung_up_after
from gateway.held import HeldConnection
from gateway.ingest import PENDING, Owner
from gateway.prepared import PreparedStatement, Row

log = structlog.get_logger(__name__)

_STATEMENT_EVENTS_MAX = 2_000
_STATEMENT_BYTES_MAX = 8 * 1024 * 1024
_RACES_MAX = 10
_RACE_PAUSE_S = 0.005
_RETRY_AFTER_FAILURE_S = 1.0

_CLAIM = PreparedStatement(
    "headrace_claim",
    """
with input as materialized (
    select (n - 1)::integer as n,
           encode(substr($1::bytea, (n - 1)::integer * 32 + 1, 16), 'hex')::uuid as id,
           encode(substr($1::bytea, (n - 1)::integer * 32 + 17, 16), 'hex')::uuid as fingerprint,
           kafka_partition,
           substr($2::bytea, record_start, record_length) as record
    from unnest($3::integer[], $4::integer[], $5::integer[])
         with ordinality as u (kafka_partition, record_start, record_length, n)
),
known as materialized (
    select i.n, e.fingerprint, e.status from input i
    cross join lateral (select fingerprint, status from headrace.events where id = i.id limit 1) e
),
fresh as (
    insert into headrace.claims (id, fingerprint, kafka_partition, record)
    select id, fingerprint, kafka_partition, record from input i
    where not exists (select from known k where k.n = i.n)
    order by n
    on conflict (id) do nothing
    returning id
)
select i.n, coalesce(k.fingerprint, c.fingerprint) as fingerprint, k.status::text,
       coalesce(c.claimed_at < now() - make_interval(secs => $6::float8), false) as aging
from input i
left join known k on k.n = i.n
left join lateral (
    select fingerprint, claimed_at from headrace.claims where id = i.id and k.n is null limit 1
) c on true
where not exists (select from fresh f where f.id = i.id)
""",
    [Format.BINARY, Format.BINARY, Format.TEXT, Format.TEXT, Format.TEXT, Format.TEXT],
)

_RENEW = PreparedStatement(
    "headrace_renew",
    """
update headrace.claims set claimed_at = now()
where id in (select id from headrace.claims where id = any($1::uuid[]) order by id for update)
returning id
""",
    [Format.TEXT],
)
_TRUE = b"\1"


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What one event asks for: its 16-byte `id` and `fingerprint`, its partition, and its record for early readers."""

    id: bytes
    fingerprint: bytes
    partition: int
    record: bytes


class ClaimsUnavailableError(Exception):
    """Postgres did not decide in time; the processors will."""


class _Waiting(NamedTuple):
    claims: Sequence[Claim]
    owners: "asyncio.Future[dict[bytes, Owner]]"


class Claims:
    """Claims ids for all requests of this process."""

    def __init__(self, pool: Pool, timeout_s: float, renew_after_s: float = 300.0) -> None:
        """A claim that is older than `renew_after_s` begins anew when a request leans on it."""
        self._held = HeldConnection(pool)
        self._timeout_s = timeout_s
        self._renew_after_s = renew_after_s
        self._waiting: list[_Waiting] = []
        self._runner: asyncio.Task[None] | None = None
        self._failed = False
        self._retry_at = 0.0

    async def claim(self, claims: Sequence[Claim]) -> dict[bytes, Owner]:
        """The owners of the ids that are not new, as far as anybody knows; every other id is owned by its own claim.

        Requests that share a statement are told of each other's: of two payloads of one id the first owns it.

        Raises :class:`ClaimsUnavailableError` when Postgres does not answer within the timeout. From then on one
        request a second tries, and the others are told at once, so that an outage costs them their exact answer but
        not their time.
        """
        if not claims:
            return {}
        loop = asyncio.get_running_loop()
        if self._failed and (self._runner is not None or loop.time() < self._retry_at):
            raise ClaimsUnavailableError
        waiting = _Waiting(claims, loop.create_future())
        self._waiting.append(waiting)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(), name="claims")
        return await waiting.owners

    async def _run(self) -> None:
        try:
            while self._waiting:
                while self._waiting:
                    await self._decide(self._take())
                await self._held.give_back()
        finally:
            self._runner = None

    def _take(self) -> list[_Waiting]:
        """As many waiting requests as one statement may hold, at least one."""
        taken = events = size = 0
        for waiting in self._waiting:
            events += len(waiting.claims)
            size += sum([len(claim.record) for claim in waiting.claims])
            if taken and (events > _STATEMENT_EVENTS_MAX or size > _STATEMENT_BYTES_MAX):
                break
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch

    async def _decide(self, batch: list[_Waiting]) -> None:
        first = {claim.id: claim for waiting in reversed(batch) for claim in reversed(waiting.claims)}
        try:
            owners = _shared(batch, first) | await self._owners(first)
        except (psycopg.Error, OSError) as error:  # also: read-only after a failover, never migrated
            log.warning("claims deferred: postgres does not answer", reason=" ".join(repr(error).split()))
            self._failed = True
            self._retry_at = asyncio.get_running_loop().time() + _RETRY_AFTER_FAILURE_S
            _give_up([*batch, *self._waiting], ClaimsUnavailableError())
            self._waiting.clear()
            return
        except Exception as error:  # noqa: BLE001 - a defect: the requests that wait answer for it
            _give_up(batch, error)
            return
        self._failed = False
        for waiting in batch:
            if not waiting.owners.done():
                waiting.owners.set_result(owners)

    async def _owners(self, first: dict[bytes, Claim]) -> dict[bytes, Owner]:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        owners: dict[bytes, Owner] = {}
        asked = [first[id_] for id_ in sorted(first)]
        for _ in range(_RACES_MAX):
            lost = await self._ask(asked, owners, deadline)
            if not lost:
                return owners
            asked = lost
            await asyncio.sleep(_RACE_PAUSE_S)
        raise TimeoutError("the winner of a race over a key does not show")

    async def _ask(self, asked: list[Claim], owners: dict[bytes, Owner], deadline: float) -> list[Claim]:
        """Ask once; fills `owners`, and returns the claims that lost a race against a row not yet visible."""
        parameters = [*_parameters(asked), b"%f" % self._renew_after_s]
        lost, leaned_on = [], []
        for number, fingerprint, status, aging in await self._rows(_CLAIM, parameters, deadline):
            claim = asked[int.from_bytes(number or b"", "big")]
            if fingerprint is None:
                lost.append(claim)
                continue
            owners[claim.id] = Owner(fingerprint, PENDING if status is None else status.decode())
            if aging == _TRUE and fingerprint == claim.fingerprint:
                leaned_on.append(claim)
        return lost + await self._not_renewed(leaned_on, deadline)

    async def _not_renewed(self, claims: list[Claim], deadline: float) -> list[Claim]:
        """Begin old claims anew, so that none is freed while a request leans on it; those that are gone already."""
        if not claims:
            return []
        ids = "{" + ",".join(claim.id.hex() for claim in claims) + "}"
        renewed = {id_ for (id_,) in await self._rows(_RENEW, [ids.encode()], deadline)}
        return [claim for claim in claims if claim.id not in renewed]

    async def _rows(self, statement: PreparedStatement, parameters: Sequence[bytes], deadline: float) -> list[Row]:
        now = asyncio.get_running_loop().time
        connection = await self._held.get(max(0.0, deadline - now()))
        try:
            # Not by cancelling: psycopg would then talk to the server once more, which may be deaf.
            with hung_up_after(connection, max(0.0, deadline - now())):
                return await statement.rows(connection, parameters)
        except BaseException:
            await self._held.give_back()
            raise


def _shared(batch: Sequence[_Waiting], first: dict[bytes, Claim]) -> dict[bytes, Owner]:
    """The owners of the ids that are asked for several times at once: the first of each."""
    if len(first) == sum([len(waiting.claims) for waiting in batch]):
        return {}
    times = Counter(claim.id for waiting in batch for claim in waiting.claims)
    return {id_: Owner(first[id_].fingerprint, PENDING) for id_, count in times.items() if count > 1}


def _give_up(waitings: Sequence[_Waiting], error: Exception) -> None:
    for waiting in waitings:
        if not waiting.owners.done():
            waiting.owners.set_exception(error)


def _parameters(asked: list[Claim]) -> list[bytes]:
    lengths = [len(claim.record) for claim in asked]
    starts = accumulate(lengths[:-1], initial=1)
    return [
        b"".join([claim.id + claim.fingerprint for claim in asked]),
        b"".join([claim.record for claim in asked]),
        _array([claim.partition for claim in asked]),
        _array(starts),
        _array(lengths),
    ]


def _array(numbers: Iterable[int]) -> bytes:
    return ("{" + ",".join(map(str, numbers)) + "}").encode()
