"""Postgres for the command line: one connection for one piece of work, every wait bounded, faults told in one line."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, errors

from deploy.errors import DeployError

_CONNECT_TIMEOUT_S = 10
_TOTAL_TIMEOUT_S = 60.0
_STATEMENT_TIMEOUT = "30s"

# Where the migrations of this version have not been applied.
_NOT_MIGRATED = (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName)

Result = TypeVar("Result")
Connection = AsyncConnection[Any]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """A connection that commits by itself. Raises :class:`DeployError` for whatever Postgres refuses."""
    try:
        connection = await AsyncConnection.connect(url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S)
        async with connection:
            await connection.execute("select set_config('statement_timeout', %s, false)", (_STATEMENT_TIMEOUT,))
            yield connection
    except _NOT_MIGRATED as error:
        raise DeployError(f"{one_line(error)}: run `headrace migrate`") from error
    except psycopg.Error as error:
        raise DeployError(f"Postgres: {one_line(error)}") from error


def run(url: str, work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Do `work` on a connection of its own, one minute at most. Raises :class:`DeployError`."""

    async def bounded() -> Result:
        async with asyncio.timeout(_TOTAL_TIMEOUT_S), connected(url) as connection:
            return await work(connection)

    try:
        return asyncio.run(bounded())
    except TimeoutError as error:
        raise DeployError(f"Postgres has not answered within {_TOTAL_TIMEOUT_S:g} s: see `headrace doctor`") from error


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its name where it says nothing."""
    lines = str(error).splitlines()
    return lines[0].strip() if lines and lines[0].strip() else type(error).__name__
