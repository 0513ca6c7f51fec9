"""The program registry in the database: which programs may be written to where HEADRACE_PROGRAMS is ``registered``.

Gateways ask every two seconds for what has changed since, by `updated_at`: every change here sets it.
"""

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from deploy import database
from deploy.database import Connection
from deploy.errors import DeployError

_COLUMNS = "program_id, name, created_at, updated_at, disabled_at"
_ADD = f"insert into headrace.programs (program_id, name) values (%s, %s) on conflict do nothing returning {_COLUMNS}"  # noqa: S608 - of literals
_ONE = f"select {_COLUMNS} from headrace.programs where program_id = %s"  # noqa: S608 - of literals
_ALL = f"select {_COLUMNS} from headrace.programs order by created_at, program_id"  # noqa: S608 - of literals
# A second disabling keeps the first one's time.
_SWITCH = f"""
update headrace.programs
set updated_at = clock_timestamp(), disabled_at = case when %s then coalesce(disabled_at, clock_timestamp()) end
where program_id = %s returning {_COLUMNS}
"""  # noqa: S608 - of literals


class Program(NamedTuple):
    """A registered program. `disabled_at` None: it may be written to."""

    program_id: UUID
    name: str
    created_at: datetime
    updated_at: datetime
    disabled_at: datetime | None


def add(url: str, program_id: UUID, name: str) -> Program:
    """Register a program; nothing changes where it is registered under that name already.

    Raises :class:`DeployError` where it is registered under another.
    """

    async def work(connection: Connection) -> Program:
        added = await _one(connection, _ADD, program_id, name)
        found = added or await _one(connection, _ONE, program_id)
        if found is None:
            raise DeployError(f"program {program_id} was removed at this moment: try again")
        if found.name != name:
            raise DeployError(f"program {program_id} is registered already, as {found.name!r}")
        return found

    return database.run(url, work)


def all_programs(url: str) -> list[Program]:
    """Every registered program, the oldest first."""

    async def work(connection: Connection) -> list[Program]:
        async with connection.cursor(row_factory=class_row(Program)) as cursor:
            await cursor.execute(_ALL.encode())
            return await cursor.fetchall()

    return database.run(url, work)


def switch(url: str, program_id: UUID, *, disabled: bool) -> Program:
    """Disable or enable a program. Raises :class:`DeployError` for one that is not registered."""

    async def work(connection: Connection) -> Program:
        found = await _one(connection, _SWITCH, disabled, program_id)
        if found is None:
            raise DeployError(f"program {program_id} is not registered: see `headrace programs list`")
        return found

    return database.run(url, work)


async def _one(connection: Connection, statement: str, *values: object) -> Program | None:
    async with connection.cursor(row_factory=class_row(Program)) as cursor:
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchone()
