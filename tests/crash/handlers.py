"""A handler that moves money: a line per event, with nothing that would keep it from being written twice."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from processors.handling import Job, Reject

SCHEMA = """
create schema if not exists tests;
create table if not exists tests.money (
    number bigint generated always as identity,
    event_id uuid not null, program_id uuid not null, cents bigint not null
);
create index if not exists money_program on tests.money (program_id);
"""


async def money(jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[Exception | None]:
    """Pay what each event says; reject, fail, block or die where an event says so."""
    paid, outcomes = [], []
    for job in jobs:
        outcome = await _told(job, connection)
        outcomes.append(outcome)
        if outcome is None:
            paid.append(job)
    await connection.execute(
        """insert into tests.money (event_id, program_id, cents)
           select * from unnest(%s::uuid[], %s::uuid[], %s::bigint[])""",
        ([job.id for job in paid], [job.program_id for job in paid], [job.event_data["cents"] for job in paid]),
    )
    return outcomes


async def _told(job: Job, connection: AsyncConnection[Any]) -> Exception | None:
    match job.event_data.get("do"):
        case "reject":
            return Reject("no_credit", "told to reject")
        case "second" if job.attempt == 1:
            return ValueError("told to fail once")
        case "slow":
            await asyncio.sleep(job.event_data["seconds"])
        case "block":
            time.sleep(3_600)  # noqa: ASYNC251 - that is the mistake that is made here
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "constraint":
            await connection.execute("insert into headrace.programs values (null)")
    return None
