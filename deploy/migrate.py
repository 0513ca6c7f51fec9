"""Applies the SQL files of ``schemas/migrations`` in order; safe to run twice and by two processes at once."""

import hashlib
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import NamedTuple

import psycopg

from deploy import topics
from deploy.errors import DeployError
from schemas.settings import Settings

# Any fixed number does, as long as every version of this program uses the same.
_LOCK = 0x48_52_4D_49_47
_LOCK_TIMEOUT = "60s"
_CONNECT_TIMEOUT_S = 10
_NAME = re.compile(r"(\d{4})_(\w+)\.sql")

_BOOKKEEPING = """
create schema if not exists headrace;
create table if not exists headrace.migrations (
    version    integer primary key,
    name       text not null,
    sha256     text not null,
    applied_at timestamptz not null default now()
)
"""


class Migration(NamedTuple):
    """One file: its number, its name and its SQL."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """By which a later change of an applied file is noticed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


class Outcome(NamedTuple):
    """What a run did."""

    applied: list[str]
    topics_created: list[str]


def read() -> list[Migration]:
    """The migrations that this version brings, in order. Raises :class:`DeployError` on a gap or a double number."""
    found = []
    for file in files("schemas").joinpath("migrations").iterdir():
        match = _NAME.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    found.sort()
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise DeployError("schemas/migrations is not numbered 0001, 0002, … without gap or repetition")
    return found


def run(settings: Settings) -> Outcome:
    """Bring Postgres and Kafka to what this version needs. Raises :class:`DeployError` with what to do."""
    return Outcome(migrate_database(settings.database_url), topics.create(settings))


def migrate_database(url: str, migrations: Iterable[Migration] | None = None) -> list[str]:
    """Apply what is missing, each file in a transaction of its own; returns the names of the files applied."""
    wanted = read() if migrations is None else list(migrations)
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_S) as connection:
            connection.execute("select set_config('lock_timeout', %s, false)", (_LOCK_TIMEOUT,))
            # Held until the connection closes, also when this process dies.
            connection.execute("select pg_advisory_lock(%s)", (_LOCK,))
            connection.execute(_BOOKKEEPING)
            return _apply_missing(connection, wanted)
    except psycopg.Error as error:
        raise DeployError(f"the database cannot be migrated: {str(error).splitlines()[0]}") from error


def _apply_missing(connection: psycopg.Connection, wanted: list[Migration]) -> list[str]:
    known: dict[int, str] = dict(connection.execute("select version, sha256 from headrace.migrations").fetchall())
    for migration in wanted:
        if migration.version in known and known[migration.version] != migration.sha256:
            raise DeployError(
                f"migration {migration.version:04}_{migration.name}.sql was changed after it was applied here:"
                " restore the file, and put the change in a new one"
            )
    if newer := [version for version in known if version > len(wanted)]:
        raise DeployError(f"the database is newer than this version (migration {max(newer):04}): update Headrace")
    missing = [migration for migration in wanted if migration.version not in known]
    for migration in missing:
        with connection.transaction():
            connection.execute(migration.sql.encode())
            connection.execute(
                "insert into headrace.migrations (version, name, sha256) values (%s, %s, %s)",
                (migration.version, migration.name, migration.sha256),
            )
    return [f"{migration.version:04}_{migration.name}" for migration in missing]
