"""Participants: which ``external_id`` is which ``participant_id``, per program; created at first sight.

The first event that names an external id decides: its own ``participant_id`` where it has one, else an id derived from
the external id. Later events that say otherwise are processed all the same and change nothing here.
"""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from processors.handling import Job
from schemas.identity import event_id, uuid_text

# Names of participants cannot meet those of events: an idempotency key is never this long.
_NAME_PREFIX = "participant:" + " " * 256

_CREATE = """
with input as materialized (
    select program_id, participant_id, external_id, first_event_id
    from unnest(%(programs)s::uuid[], %(participants)s::uuid[], %(externals)s::text[], %(events)s::uuid[])
         as u (program_id, participant_id, external_id, first_event_id)
),
created as (
    insert into headrace.participants (program_id, participant_id, external_id, first_event_id, created_at)
    select program_id, participant_id, external_id, first_event_id, now() from input i
    where not exists (
        select from headrace.participants p where p.program_id = i.program_id and p.external_id = i.external_id
    )
    on conflict do nothing
)
select i.program_id::text, i.external_id, p.participant_id::text
from input i
join headrace.participants p on p.program_id = i.program_id and p.external_id = i.external_id
where p.participant_id <> i.participant_id
"""

_NAME_THE_NAMELESS = """
update headrace.participants p set external_id = i.external_id
from unnest(%(programs)s::uuid[], %(participants)s::uuid[], %(externals)s::text[])
     as i (program_id, participant_id, external_id)
where p.program_id = i.program_id and p.participant_id = i.participant_id and p.external_id is null
  and not exists (
      select from headrace.participants o where o.program_id = i.program_id and o.external_id = i.external_id
  )
"""


class _Sight:
    """What one chunk says of participants: rows in columns, the first word on each external id or lone participant."""

    def __init__(self) -> None:
        self.programs: list[str] = []
        self.participants: list[str] = []
        self.externals: list[str | None] = []
        self.events: list[str] = []
        self._by_external: dict[tuple[str, str], str] = {}
        self._alone: set[tuple[str, str]] = set()

    def add(self, job: Job) -> None:
        fields = job.event.fields
        external = fields.external_id
        participant = None if fields.participant_id is None else str(fields.participant_id)
        if external is not None:
            if (fields.program_id, external) in self._by_external:
                return
            if participant is None:
                participant = uuid_text(event_id(job.event.program.packed, _NAME_PREFIX + external))
            self._by_external[fields.program_id, external] = participant
        elif participant is not None:
            if (fields.program_id, participant) in self._alone:
                return
            self._alone.add((fields.program_id, participant))
        self.programs.append(fields.program_id)
        self.participants.append(str(participant))
        self.externals.append(external)
        self.events.append(uuid_text(job.event.id))

    def corrected(self, rows: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str], str]:
        """Each external id's participant, where `rows` hold what earlier chunks decided otherwise."""
        return self._by_external | {(program, external): participant for program, external, participant in rows}


async def participants(jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[dict[str, str] | None]:
    """Record who takes part; the result of an event that names nobody by id says whose ``participant_id`` it is."""
    sight = _Sight()
    for job in jobs:
        sight.add(job)
    columns = {
        "programs": _uuids(sight.programs),
        "participants": _uuids(sight.participants),
        "externals": sight.externals,
        "events": _uuids(sight.events),
    }
    cursor = await connection.execute(_CREATE, columns)
    decided = sight.corrected(await cursor.fetchall())
    if any(job.event.fields.external_id and job.event.fields.participant_id for job in jobs):
        await connection.execute(_NAME_THE_NAMELESS, columns)
    return [_result(job, decided) for job in jobs]


def _result(job: Job, decided: dict[tuple[str, str], str]) -> dict[str, str] | None:
    fields = job.event.fields
    if fields.participant_id is not None or fields.external_id is None:
        return None
    return {"participant_id": decided[fields.program_id, fields.external_id]}


def _uuids(texts: Sequence[str]) -> str:
    return "{" + ",".join(texts) + "}"
