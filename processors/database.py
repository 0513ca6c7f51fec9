"""The worker's connections to Postgres, and the patience to wait for it."""

import asyncio
import random
import select
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from psycopg import AsyncConnection, InterfaceError, OperationalError, errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from processors import metrics
from processors.watchdog import beating
from schemas.settings import Settings

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

_PAUSE_FIRST_S = 0.1
_PAUSE_MAX_S = 5.0
_CONNECT_S = 10
_STATEMENT_S = 120
_BEYOND_HANDLERS_S = 30
_STATEMENTS_WAITED_FOR = 2
_HANDLER_LIMITS = 16
"""Longest that handlers and their hooks may take in one transaction, in limits of one call: see the runner's search."""

# What passes by itself: a server gone, starting, read-only, full, or two transactions in each other's way.
_TRANSIENT = (
    OperationalError,
    InterfaceError,
    PoolTimeout,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)
# Operational errors only by name: what the statement asks for goes beyond a limit, or never works as things stand.
_LASTING = (
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
    errors.TooManyColumns,
    errors.TooManyArguments,
    errors.ObjectNotInPrerequisiteState,
)


def is_transient(error: BaseException) -> bool:
    """Whether Postgres is to blame, and waiting helps."""
    return isinstance(error, _TRANSIENT) and not isinstance(error, _LASTING)


class Database:
    """Runs transactions until they commit. `alive` is told of every wait, for the watchdog: it is on purpose."""

    def __init__(self, settings: Settings) -> None:
        self.alive: Callable[[], None] = lambda: None
        # The server's own limits end what takes too long; this one is for a server that has gone deaf.
        handlers_s = _HANDLER_LIMITS * settings.handler_timeout_s
        self._transaction_s = _STATEMENTS_WAITED_FOR * _statement_s(settings.handler_timeout_s) + handlers_s
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            settings.database_url,
            min_size=1,
            max_size=settings.database_pool_max,
            open=False,
            timeout=_CONNECT_S,
            # The pool looks for itself again at once when a connection is asked for, however long Postgres was gone.
            reconnect_timeout=30.0,
            kwargs={
                "connect_timeout": _CONNECT_S,
                "application_name": f"headrace {settings.worker_id}",
                "options": _timeouts(settings.handler_timeout_s),
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 30_000,
            },
            check=_check,
        )

    async def start(self) -> None:
        """Open the pool; connections come when they are asked for."""
        await self._pool.open(wait=False)

    async def stop(self) -> None:
        """Close all connections."""
        await self._pool.close(timeout=2.0)

    async def once(self, work: Callable[[AsyncConnection[Any]], Awaitable[Result]]) -> Result:
        """Run `work` in one transaction, once. Raises what psycopg raises."""
        # Without the explicit block the first savepoint in `work` would be the transaction, and commit by itself.
        async with self._pool.connection() as connection, connection.transaction():
            return await work(connection)

    async def vacuum_claims(self) -> None:
        """Make the room of swept claims usable again, unless somebody else is at it. Raises what psycopg raises."""
        async with self._pool.connection() as connection:
            await connection.set_autocommit(True)  # a vacuum cannot stand in a transaction
            try:
                await connection.execute("vacuum (skip_locked, parallel 0) headrace.claims")
            finally:
                await connection.set_autocommit(False)

    async def run(self, work: Callable[[AsyncConnection[Any]], Awaitable[Result]]) -> Result:
        """Run `work` in a transaction; where Postgres is to blame, wait and do it again, for as long as it takes."""
        pause_s = _PAUSE_FIRST_S
        while True:
            try:
                done = await self._bounded(work)
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("waiting for postgres", pause_s=round(pause_s, 2), reason=_reason(error))
            else:
                metrics.POSTGRES_WAITING.set(0)
                return done
            metrics.POSTGRES_WAITING.set(1)
            metrics.POSTGRES_WAITS.inc()
            self.alive()
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - spreads workers, hides nothing
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    async def _bounded(self, work: Callable[[AsyncConnection[Any]], Awaitable[Result]]) -> Result:
        async with beating(self.alive):
            try:
                async with asyncio.timeout(self._transaction_s) as limit:
                    return await self.once(work)
            except TimeoutError as error:
                if limit.expired():
                    raise OperationalError(f"no answer for {self._transaction_s:.0f} s") from error
                raise


async def _check(connection: AsyncConnection[Any]) -> None:
    """Raise what psycopg raises where `connection` is of no use any more, as after a restart of Postgres.

    A server that goes says so, or its end of the connection is closed: there is something to be read. Only then it is
    asked, which costs as much as a statement. One that went without a word shows at the first statement.
    """
    look = select.poll()
    look.register(connection.fileno(), select.POLLIN)
    if look.poll(0):
        await AsyncConnectionPool.check_connection(connection)


def _timeouts(handler_timeout_s: float) -> str:
    """Options of a session: its limits must be longer than the handlers', which are told of theirs."""
    statement_ms = round(1000 * _statement_s(handler_timeout_s))
    idle_ms = round(1000 * (handler_timeout_s + _BEYOND_HANDLERS_S))
    return f"-c statement_timeout={statement_ms} -c idle_in_transaction_session_timeout={idle_ms}"


def _statement_s(handler_timeout_s: float) -> float:
    return max(_STATEMENT_S, handler_timeout_s + _BEYOND_HANDLERS_S)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip()
