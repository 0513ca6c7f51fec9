"""Postgres as the gateway sees it: may be slow, deaf or gone, and none of that may hold a request for long.

Bounds: a connection and a statement each take `database_timeout_s` at the most, even where the server has stopped
answering altogether; reading requests leave connections for the others; while Postgres is known to be down, requests
are refused at once.
"""

import asyncio
import math
import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, LiteralString, TypeAlias

import psycopg
import psycopg_pool
import structlog
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from gateway import metrics
from gateway.problems import unavailable
from schemas.settings import Settings

Connection: TypeAlias = AsyncConnection[TupleRow]
Pool: TypeAlias = AsyncConnectionPool[Connection]

# What happens where Postgres, or the way to it, is at fault; and where nobody ran the migrations.
DATABASE_FAULTS = (
    psycopg.OperationalError,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InsufficientPrivilege,
    TimeoutError,
)

_PROBE_INTERVAL_S = 1.0
_PROBE_TIMEOUT_S = 2.0
_RECONNECT_S = 1.0
_GRACE_S = 1.0
_QUEUE_MAX = 1_000
_READING_QUEUE_MAX = 200
_KEPT_FOR_OTHERS = 3  # connections that reading requests leave to claims, keys and the probe

_log = structlog.get_logger("headrace.gateway")


def _has_farewell(connection: Connection) -> bool:
    """Whether something has arrived on an idle connection: the server has ended it. Costs no round trip."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def make_pool(settings: Settings) -> Pool:
    """A pool that is still closed. Its connections commit by themselves, speak UTC, and bound every statement.

    Once opened it needs no Postgres: it connects when there is one.
    """
    kept = conninfo_to_dict(settings.database_url)
    bound = f"-c statement_timeout={math.ceil(settings.database_timeout_s * 1000)}"
    # No request is to read a whole table that has an index for it: prepared plans outlive the time when it was small.
    options = f"{bound} -c timezone=UTC -c enable_seqscan=off"

    async def refuse_ended(connection: Connection) -> None:
        if _has_farewell(connection):
            await connection.close()
            await pool.drain()  # most likely all are ended; the pool would find that out one by one, with a pause each
            raise psycopg.OperationalError("the server has ended this connection")

    pool: Pool = AsyncConnectionPool(
        make_conninfo(settings.database_url, options=f"{kept.get('options') or ''} {options}".strip()),
        kwargs={"autocommit": True, "connect_timeout": max(2, math.ceil(settings.database_timeout_s))},
        min_size=min(2, settings.database_pool_max),
        max_size=settings.database_pool_max,
        max_waiting=_QUEUE_MAX,
        timeout=settings.database_timeout_s,
        reconnect_timeout=_RECONNECT_S,  # then every request for a connection is an attempt: no long backoff
        check=refuse_ended,
        open=False,
        name="gateway",
    )
    return pool


@contextmanager
def hung_up_after(connection: Connection, seconds: float) -> Iterator[None]:
    """End whatever waits for this connection's server after `seconds`, as if the server had hung up.

    The last resort where a statement timeout cannot help since the server no longer answers: the waiting statement
    fails with psycopg.OperationalError, and the pool throws the connection away.
    """

    def hang_up() -> None:
        if connection.closed:
            return
        with socket.socket(fileno=socket.dup(connection.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)

    timer = asyncio.get_running_loop().call_later(seconds, hang_up)
    try:
        yield
    finally:
        timer.cancel()


class Database:
    """Reads through the pool within bounds, and knows whether Postgres answers.

    `reason` is None while it does, else why not.
    """

    def __init__(self, pool: Pool, settings: Settings) -> None:
        self.pool = pool
        self.reason: str | None = "no connection yet"
        self._timeout_s = settings.database_timeout_s
        self._readers = asyncio.Semaphore(max(1, settings.database_pool_max - _KEPT_FOR_OTHERS))
        self._readers_waiting = 0
        self._watch_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the pool and look once; returns also where Postgres is down, within a few seconds."""
        await self.pool.open()
        await self._probe()
        self._watch_task = asyncio.create_task(self._watch(), name="database-watch")

    async def stop(self) -> None:
        """Close every connection."""
        if self._watch_task is not None:
            self._watch_task.cancel()
            await asyncio.wait([self._watch_task])
        await self.pool.close(timeout=_PROBE_TIMEOUT_S)

    async def read(
        self, query: LiteralString, params: dict[str, Any] | list[Any], *, prepare: bool | None = None
    ) -> list[TupleRow]:
        """The rows of one reading request's query; raises ApiError `unavailable`.

        `prepare` False plans each statement anew, for those whose best plan depends on the values.
        """
        if self.reason is not None:
            raise unavailable("Postgres does not answer at present")
        try:
            async with self._reader():
                return await self.rows(query, params, timeout_s=self._timeout_s, prepare=prepare)
        except DATABASE_FAULTS as error:
            _log.warning("query failed", reason=_one_line(error))
            raise unavailable("Postgres did not answer in time") from error

    async def rows(
        self,
        query: LiteralString,
        params: dict[str, Any] | list[Any],
        *,
        timeout_s: float,
        prepare: bool | None = None,
    ) -> list[TupleRow]:
        """The rows of any query, within `timeout_s` for the connection and again for the statement.

        Raises one of `DATABASE_FAULTS`.
        """
        async with self.pool.connection(timeout_s) as connection:
            with hung_up_after(connection, timeout_s + _GRACE_S):
                cursor = await connection.execute(query, params, prepare=prepare)
                return await cursor.fetchall()

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[None]:
        if self._readers_waiting >= _READING_QUEUE_MAX:
            raise psycopg_pool.TooManyRequests("too many reading requests wait for Postgres")
        self._readers_waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._readers.acquire()
        finally:
            self._readers_waiting -= 1
        try:
            yield
        finally:
            self._readers.release()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_INTERVAL_S)
            await self._probe()

    async def _probe(self) -> None:
        try:
            await self.rows("select from headrace.api_keys limit 0", [], timeout_s=_PROBE_TIMEOUT_S)
        except psycopg.errors.UndefinedTable:
            self._note("its tables are missing: run `headrace migrate`")
        except DATABASE_FAULTS as error:
            self._note(_one_line(error))
        else:
            self._note(None)

    def _note(self, reason: str | None) -> None:
        metrics.POSTGRES_UP.set(reason is None)
        if (reason is None) != (self.reason is None):
            if reason is None:
                _log.info("Postgres answers")
            else:
                _log.warning("Postgres does not answer", reason=reason)
        self.reason = reason


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
