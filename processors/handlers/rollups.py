"""Rollups: how many events each program has, by hour of ``event_timestamp`` (UTC) and by final status."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from processors.handling import Finish

_ADD = """
insert into headrace.hourly as h (program_id, hour, status, events)
select program_id, hour, status::headrace.status, events
from unnest(%s::uuid[], %s::timestamptz[], %s::text[], %s::bigint[]) as u (program_id, hour, status, events)
order by program_id, hour, status
on conflict (program_id, hour, status) do update set events = h.events + excluded.events
"""

# Locked in the order in which all lock: an update alone takes rows as it meets them.
_TAKE_BACK = """
with u as (
    select h.program_id, h.hour, h.status, u.events
    from headrace.hourly h
    join unnest(%s::uuid[], %s::timestamptz[], %s::text[], %s::bigint[]) as u (program_id, hour, status, events)
      on h.program_id = u.program_id and h.hour = u.hour and h.status = u.status::headrace.status
    order by h.program_id, h.hour, h.status for update of h
)
update headrace.hourly h set events = h.events - u.events
from u where h.program_id = u.program_id and h.hour = u.hour and h.status = u.status
"""

_HOUR = len("2024-01-15T10")  # of a timestamp's canonical spelling, which is in UTC


class Rollups:
    """Counts events when they get their final status; a retried event moves from FAILED to what it becomes."""

    async def finished(self, finishes: Sequence[Finish], connection: AsyncConnection[Any]) -> None:
        """Add the events to their hours."""
        await connection.execute(_ADD, _columns(finishes))
        again = [finish._replace(status="FAILED") for finish in finishes if finish.job.failed_before]
        if again:
            await connection.execute(_TAKE_BACK, _columns(again))


def _columns(finishes: Sequence[Finish]) -> list[str]:
    counts = Counter([(job.event.program.text, job.event.event_timestamp[:_HOUR], status) for job, status in finishes])
    return [
        "{" + ",".join([program for program, _, _ in counts]) + "}",
        "{" + ",".join([f"{hour}:00:00Z" for _, hour, _ in counts]) + "}",
        "{" + ",".join([status for _, _, status in counts]) + "}",
        "{" + ",".join(map(str, counts.values())) + "}",
    ]


rollups = Rollups()
