"""A handler that keeps books: two entries an event, with no key that would hide one written twice."""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from processors.handling import Job, Reject

HANDLERS = (
    "tests.chaos.handler:ledger,processors.handlers.participants:participants,processors.handlers.rollups:rollups"
)

SCHEMA = """
create schema if not exists chaos;
create table if not exists chaos.ledger (
    number bigint generated always as identity,
    event_id uuid not null, program_id uuid not null, account text not null, cents bigint not null,
    attempt integer not null
)
"""

_WRITE = """
insert into chaos.ledger (event_id, program_id, account, cents, attempt)
select event_id, program_id, account, cents, attempt
from unnest(%s::uuid[], %s::uuid[], %s::text[], %s::bigint[], %s::integer[])
     with ordinality as u (event_id, program_id, account, cents, attempt, n)
order by n
"""


async def ledger(jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[Exception | None]:
    """Take each event's amount from one account and give it to another; then fail those events that say so.

    The failing ones' entries are written too: the processors must undo them.
    """
    rows = [entry for job in jobs for entry in _entries(job)]
    await connection.execute(_WRITE, [list(column) for column in zip(*rows, strict=True)])
    return [_failure(job) for job in jobs]


def cents(event_data: dict[str, Any]) -> int:
    """The amount that an event moves."""
    return int(event_data["amount"] * 100)


def _entries(job: Job) -> list[tuple[Any, ...]]:
    data, amount = job.event_data, cents(job.event_data)
    return [
        (job.id, job.program_id, data["from"], -amount, job.attempt),
        (job.id, job.program_id, data["to"], amount, job.attempt),
    ]


def _failure(job: Job) -> Exception | None:
    wanted = job.event_data.get("do")
    if wanted == "reject":
        return Reject("not_wanted", "told to reject")
    if wanted == "until" and job.attempt < job.event_data["attempt"]:
        return ValueError(f"attempt {job.attempt} is too early")
    return None
