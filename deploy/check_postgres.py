"""What `headrace doctor` asks Postgres."""

import asyncio
from datetime import UTC, datetime

import psycopg
from psycopg.conninfo import conninfo_to_dict

from deploy import migrate
from deploy.checks import FAIL, OK, WARN, Check
from deploy.database import Connection, connected, one_line
from deploy.errors import DeployError

_TIMEOUT_S = 15.0
# With which this version is tested; older ones may do, and nobody has looked.
_VERSION_TESTED = 18
_VERSION_MIN = 15
_CLOCK_WARN_S = 2.0
_CLOCK_FAIL_S = 60.0
_MIGRATE = "run `headrace migrate`"
_VIEWS = ("event_status", "program_hourly", "dead_letters", "pipeline_lag")


async def checks(url: str) -> list[Check]:
    """All about Postgres; a single failing check where it cannot be reached."""
    try:
        async with asyncio.timeout(_TIMEOUT_S), connected(url) as connection:
            return [
                *await _server(connection),
                await _migrations(connection),
                await _analysts(connection),
                await _clock(connection),
            ]
    except (DeployError, TimeoutError) as error:
        found = f"{_place(url)} cannot be used: {one_line(error)}"
        return [Check("postgres", FAIL, found, "is it up, and HEADRACE_DATABASE_URL its address?")]


def _place(url: str) -> str:
    """The address without the password."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "HEADRACE_DATABASE_URL"
    return f"{parts.get('host') or 'local'}:{parts.get('port') or 5432}/{parts.get('dbname') or ''}"


async def _server(connection: Connection) -> list[Check]:
    version = connection.info.server_version // 10_000
    found = [_version(version)]
    cursor = await connection.execute(
        "select name, setting from pg_settings"
        " where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting = 'off' order by name"
    )
    for name, _ in await cursor.fetchall():
        advice = f"set {name} = on: what is committed may be lost in a crash, and Kafka does not bring it again"
        found.append(Check("postgres", WARN, f"{name} is off", advice))
    return found


def _version(version: int) -> Check:
    if version < _VERSION_MIN:
        return Check(
            "postgres", FAIL, f"version {version}", f"update it: {_VERSION_MIN} at least, best {_VERSION_TESTED}"
        )
    if version < _VERSION_TESTED:
        return Check("postgres", WARN, f"version {version}", f"Headrace is tested with {_VERSION_TESTED}")
    return Check("postgres", OK, f"version {version}")


async def _migrations(connection: Connection) -> Check:
    wanted = {migration.version: migration for migration in migrate.read()}
    cursor = await connection.execute("select to_regclass('headrace.migrations') is not null")
    row = await cursor.fetchone()
    if row is None or not row[0]:
        return Check("migrations", FAIL, "none is applied", _MIGRATE)
    applied = dict(await (await connection.execute("select version, sha256 from headrace.migrations")).fetchall())
    if missing := [f"{number:04}" for number in wanted if number not in applied]:
        return Check("migrations", FAIL, f"not applied: {', '.join(missing)}", _MIGRATE)
    if newer := [f"{number:04}" for number in applied if number not in wanted]:
        return Check("migrations", FAIL, f"the database is newer: {', '.join(newer)}", "update Headrace")
    if changed := [f"{number:04}" for number, found in wanted.items() if applied[number] != found.sha256]:
        return Check("migrations", FAIL, f"changed after they were applied: {', '.join(changed)}", "restore the files")
    return Check("migrations", OK, f"all {len(wanted)} are applied")


async def _analysts(connection: Connection) -> Check:
    cursor = await connection.execute("select from pg_roles where rolname = 'headrace_analyst'")
    if await cursor.fetchone() is None:
        return Check("analysts", WARN, "there is no role headrace_analyst", "see schemas/migrations/0002_analysts.sql")
    cursor = await connection.execute(
        "select name from unnest(%s::text[]) name where to_regclass('headrace.' || name) is null"
        " or not has_table_privilege('headrace_analyst', to_regclass('headrace.' || name), 'select')",
        (list(_VIEWS),),
    )
    if refused := [name for (name,) in await cursor.fetchall()]:
        found = f"the role headrace_analyst may not read {', '.join(refused)}"
        return Check("analysts", WARN, found, "grant it select on these views of the schema headrace")
    return Check("analysts", OK, "the role headrace_analyst may read the views")


async def _clock(connection: Connection) -> Check:
    before = datetime.now(UTC)
    row = await (await connection.execute("select clock_timestamp()")).fetchone()
    after = datetime.now(UTC)
    return clock((before - row[0]).total_seconds(), (after - row[0]).total_seconds()) if row else _no_clock()


def clock(before_s: float, after_s: float) -> Check:
    """By how much this clock is ahead, given its lead right before the question and right after the answer."""
    sure_s = 0.0 if before_s <= 0 <= after_s else min(abs(before_s), abs(after_s))
    found = f"this clock and Postgres' differ by {sure_s:.1f} s"
    if sure_s > _CLOCK_FAIL_S:
        return Check("clock", FAIL, found, "set both by NTP")
    return Check("clock", WARN, found, "set both by NTP") if sure_s > _CLOCK_WARN_S else Check("clock", OK, found)


def _no_clock() -> Check:
    return Check("clock", WARN, "Postgres did not tell its time", "run this again")
