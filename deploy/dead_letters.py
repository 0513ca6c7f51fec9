"""The table of dead letters, as the command line reads it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.rows import class_row

from deploy import database
from deploy.database import Connection
from deploy.errors import DeployError

_SHORT = "number, code, reason, topic, program_id, event_id, first_seen_at, replayed_at, replayed_by"
_LONG = f"{_SHORT}, kafka_partition, kafka_offset, record_key, record_value, record_headers"

MATCHES = """
    (cardinality(%(codes)s::text[]) = 0 or code = any(%(codes)s::text[]))
    and (cardinality(%(programs)s::uuid[]) = 0 or program_id = any(%(programs)s::uuid[]))
    and (cardinality(%(numbers)s::bigint[]) = 0 or number = any(%(numbers)s::bigint[]))
    and (%(replayed)s or replayed_at is null)
"""


class Filter(NamedTuple):
    """Which letters: each part that is not empty must match. `replayed`: those replayed before as well."""

    codes: Sequence[str] = ()
    programs: Sequence[UUID] = ()
    numbers: Sequence[int] = ()
    replayed: bool = False

    def values(self) -> dict[str, Any]:
        """The parameters of :data:`MATCHES`."""
        return {
            "codes": list(self.codes),
            "programs": list(self.programs),
            "numbers": list(self.numbers),
            "replayed": self.replayed,
        }


class Line(NamedTuple):
    """A letter as the list has it."""

    number: int
    code: str
    reason: str
    topic: str
    program_id: UUID | None
    event_id: UUID | None
    first_seen_at: datetime
    replayed_at: datetime | None
    replayed_by: str | None


class Letter(NamedTuple):
    """A letter with its record. `record_headers`: pairs of a name and a value in hexadecimal digits."""

    number: int
    code: str
    reason: str
    topic: str
    program_id: UUID | None
    event_id: UUID | None
    first_seen_at: datetime
    replayed_at: datetime | None
    replayed_by: str | None
    kafka_partition: int
    kafka_offset: int
    record_key: bytes | None
    record_value: bytes | None
    record_headers: list[list[str]]

    def headers(self) -> list[tuple[str, bytes]]:
        """The record's headers as they were; one without a value has an empty one."""
        return [(name, bytes.fromhex(digits)) for name, digits in self.record_headers]

    def size(self) -> int:
        """Bytes of the record's key, value and headers."""
        headers = sum(len(name.encode()) + len(value) for name, value in self.headers())
        return len(self.record_key or b"") + len(self.record_value or b"") + headers


def latest(url: str, which: Filter, most: int) -> list[Line]:
    """The latest letters that match, `most` at most, the newest first."""
    query = f"select {_SHORT} from headrace.dead_letter_records where {MATCHES} order by number desc limit %(most)s"  # noqa: S608 - of literals

    async def work(connection: Connection) -> list[Line]:
        async with connection.cursor(row_factory=class_row(Line)) as cursor:
            await cursor.execute(query.encode(), which.values() | {"most": most})
            return await cursor.fetchall()

    return database.run(url, work)


def one(url: str, number: int) -> Letter:
    """The letter of that number. Raises :class:`DeployError` where there is none."""

    async def work(connection: Connection) -> list[Letter]:
        return await select(connection, "number = %(number)s", {"number": number})

    found = database.run(url, work)
    if not found:
        raise DeployError(f"there is no dead letter {number}: see `headrace dlq list`")
    return found[0]


async def select(connection: Connection, condition: str, values: dict[str, Any]) -> list[Letter]:
    """Letters for which the SQL behind ``where`` holds."""
    async with connection.cursor(row_factory=class_row(Letter)) as cursor:
        await cursor.execute(f"select {_LONG} from headrace.dead_letter_records where {condition}".encode(), values)  # noqa: S608 - of literals
        return await cursor.fetchall()


def matching(url: str, which: Filter) -> int:
    """How many letters match. Raises :class:`DeployError` where a number is asked for that no letter has."""

    async def work(connection: Connection) -> int:
        await _refuse_unknown(connection, which.numbers)
        query = f"select count(*) from headrace.dead_letter_records where {MATCHES}"  # noqa: S608 - of literals
        row = await (await connection.execute(query.encode(), which.values())).fetchone()
        return int(row[0]) if row else 0

    return database.run(url, work)


async def _refuse_unknown(connection: Connection, numbers: Sequence[int]) -> None:
    cursor = await connection.execute(
        "select wanted from unnest(%s::bigint[]) wanted"
        " where not exists (select from headrace.dead_letter_records where number = wanted)",
        (list(numbers),),
    )
    if unknown := ", ".join(str(number) for (number,) in await cursor.fetchall()):
        raise DeployError(f"there is no dead letter {unknown}: see `headrace dlq list`")
