"""A handler that rejects an event until somebody opens its switch in Postgres: for tests of what is tried again."""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from processors.handling import Job, Reject

SCHEMA = """
create schema if not exists tests;
create table if not exists tests.open_switches (event_id uuid primary key);
create table if not exists tests.switched (event_id uuid not null);
"""


async def switch(jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[Reject | None]:
    """Note each event whose switch is open, reject the others."""
    cursor = await connection.execute(
        "select event_id from tests.open_switches where event_id = any(%s)", ([job.id for job in jobs],)
    )
    opened = {row[0] for row in await cursor.fetchall()}
    for job in jobs:
        if job.id in opened:
            await connection.execute("insert into tests.switched values (%s)", (job.id,))
    return [None if job.id in opened else Reject("closed", "the switch is closed") for job in jobs]
