"""Participants: which ``external_id`` is which ``participant_id``, per program; created at first sight.

The first event that names an external id decides: its own ``participant_id`` where it has one, else an id derived from
the external id. Later events that say otherwise are processed all the same and change nothing here.

Rows are never changed once they have a name, nor deleted; so what Postgres has said of one is remembered, and an event
of a participant that is known costs no statement. What the transaction itself has written is remembered once a later
one sees it: it may not come to stand.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation

from processors.arrays import text_array
from processors.handling import Job
from schemas.identity import event_id, uuid_text

_REMEMBERED_MAX = 131_072
_PLAIN_MIN = 64
"""So many new ones are worth a savepoint, by which they can be added without asking for each whether it is there."""
_SURE_AFTER = 16
"""Where nobody has looked they are taken to be new after so many times that all were: who errs leaves an error in
Postgres' log."""

# Names of participants cannot meet those of events: an idempotency key is never this long.
_NAME_PREFIX = "participant:" + " " * 256

# One index lookup a name, whatever the planner believes of the table: a plan made while it was small is kept for long.
# `settled`: not written by this transaction, whose own rows bear its time.
_LOOK = """
select i.n, p.participant_id::text, p.settled
from unnest(%(programs)s::uuid[], %(participants)s::uuid[], %(externals)s::text[])
     with ordinality as i (program_id, participant_id, external_id, n)
cross join lateral (
    select participant_id, coalesce(named_at, created_at) <> now() as settled from headrace.participants
    where i.external_id is not null and program_id = i.program_id and external_id = i.external_id limit 1
) p
union all
select i.n, p.participant_id::text, p.settled
from unnest(%(programs)s::uuid[], %(participants)s::uuid[], %(externals)s::text[])
     with ordinality as i (program_id, participant_id, external_id, n)
cross join lateral (
    select participant_id, created_at <> now() as settled from headrace.participants
    where i.external_id is null and program_id = i.program_id and participant_id = i.participant_id limit 1
) p
"""

# `settled`: see above; `mark`: all rows that one statement added bear the same, and stand if one of them does.
_MARK = """
select xmin::text as mark, created_at <> now() as settled
from headrace.participants where program_id = %s and participant_id = %s
"""

# Rows are added in one order by all, so that two workers never wait for each other in a circle.
_ADD = """
with added as (
    insert into headrace.participants (program_id, participant_id, external_id, first_event_id, created_at)
    select program_id, participant_id, external_id, first_event_id, now()
    from unnest(%(programs)s::uuid[], %(participants)s::uuid[], %(externals)s::text[], %(events)s::uuid[])
         with ordinality as u (program_id, participant_id, external_id, first_event_id, n)
    order by program_id, participant_id, n
    on conflict do nothing
    returning xmin
)
select count(*), (select xmin::text from added limit 1) from added
"""
_ADD_PLAINLY = _ADD.replace("on conflict do nothing", "")

_NAME_THE_NAMELESS = """
with named as (
    select distinct on (p.program_id, p.participant_id) p.program_id, p.participant_id, i.external_id
    from unnest(%(programs)s::uuid[], %(participants)s::uuid[], %(externals)s::text[])
         with ordinality as i (program_id, participant_id, external_id, n)
    join headrace.participants p on p.program_id = i.program_id and p.participant_id = i.participant_id
    where p.external_id is null and not exists (
        select from headrace.participants o where o.program_id = i.program_id and o.external_id = i.external_id
    )
    order by p.program_id, p.participant_id, i.n
)
update headrace.participants p set external_id = named.external_id, named_at = now()
from named where p.program_id = named.program_id and p.participant_id = named.participant_id and p.external_id is null
"""

_Key = tuple[str, str]


class _Known:
    """What Postgres is known to have for good, the latest `_REMEMBERED_MAX` of each: whose name, and who has a row.

    `often_new`: of those last met that were not known here, Postgres had not half. `all_new`: how often in a row
    it had none.
    """

    def __init__(self) -> None:
        self.by_external: dict[_Key, str] = {}
        self.alone: dict[_Key, str] = {}
        self.often_new = True
        self.all_new = 0
        self._added: Sequence[_Sight] = ()
        self._mark = ""

    def added(self, sights: "Sequence[_Sight]", mark: str) -> None:
        """Note what one statement has just added, all of it; it gave its rows `mark`."""
        self._added, self._mark = sights, mark

    async def settle(self, connection: AsyncConnection[Any]) -> None:
        """Remember what was added last, if it has come to stand."""
        if not self._added:
            return
        first = self._added[0]
        cursor = await connection.execute(_MARK, (first.program, first.participant))
        mark, settled = await cursor.fetchone() or ("", True)
        if not settled:
            return  # this transaction's own
        if mark == self._mark:
            for sight in self._added:
                self.remember(sight, sight.participant)
        self._added = ()

    def remember(self, sight: "_Sight", participant: str) -> None:
        kept = self.alone if sight.external is None else self.by_external
        kept[sight.program, participant if sight.external is None else sight.external] = participant
        if len(kept) > _REMEMBERED_MAX:
            del kept[next(iter(kept))]


_known = _Known()


class _Sight(NamedTuple):
    """The first word of a chunk on an external id, or a participant without one. `told`: the event says who it is."""

    program: str
    participant: str
    external: str | None
    event: bytes
    told: bool


def _sights(jobs: Sequence[Job], decided: dict[_Key, str]) -> tuple[list[_Sight], list[_Key | None]]:
    """What the jobs say that is not known yet, in their order; and under what `decided` has each job's answer.

    What is known goes into `decided`, and so does what will be if nobody has said otherwise.
    """
    sights: list[_Sight] = []
    keys: list[_Key | None] = []
    alone: set[_Key] = set()
    known_by_external = _known.by_external.get
    for job in jobs:
        event = job.event
        program, external, told = event.program.text, event.external_id, event.participant_id
        if external is not None:
            key = program, external
            keys.append(key if told is None else None)
            if key not in decided:
                participant = known_by_external(key)
                if participant is None:
                    participant = told or _derived(job, external)
                    sights.append(_Sight(program, participant, external, event.id, told is not None))
                decided[key] = participant
            continue
        keys.append(None)
        assert told is not None, "an event names somebody"  # noqa: S101
        key = program, told
        if key not in _known.alone and key not in alone:
            alone.add(key)
            sights.append(_Sight(*key, None, event.id, told=True))
    return sights, keys


def _derived(job: Job, external: str) -> str:
    return uuid_text(event_id(job.event.program.packed, _NAME_PREFIX + external))


async def participants(jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[dict[str, str] | None]:
    """Record who takes part; the result of an event that names nobody by id says whose ``participant_id`` it is."""
    await _known.settle(connection)
    decided: dict[_Key, str] = {}
    sights, keys = _sights(jobs, decided)
    # Where most are new, adding them tells which are not.
    looked = not _known.often_new
    new = await _look(sights, decided, connection) if looked else sights
    if sights:
        sure = looked or _known.all_new >= _SURE_AFTER
        added = await _add_plainly(new, connection) if sure else 0
        added = added or await _add(new, decided, connection)
        _known.often_new = 2 * added >= len(sights)
        _known.all_new = _known.all_new + 1 if added == len(sights) else 0
    return [None if key is None else {"participant_id": decided[key]} for key in keys]


async def _add_plainly(new: Sequence[_Sight], connection: AsyncConnection[Any]) -> int:
    """Add the sights, all of which seem to be new; how many, or 0 if one was not new or a savepoint is not worth it.

    A third cheaper than where Postgres is to expect rows that are there: it then looks for each of them first.
    """
    if len(new) < _PLAIN_MIN or len({(sight.program, sight.participant) for sight in new}) < len(new):
        return 0
    try:
        async with connection.transaction():
            cursor = await connection.execute(_ADD_PLAINLY, _columns(new))
            added, mark = await cursor.fetchone() or (0, "")
    except UniqueViolation:
        return 0
    _known.added(new, mark)
    return int(added)


async def _add(new: Sequence[_Sight], decided: dict[_Key, str], connection: AsyncConnection[Any]) -> int:
    """Add the sights, and return how many could be; where somebody's row stands already that goes into `decided`."""
    if not new:
        return 0
    cursor = await connection.execute(_ADD, _columns(new))
    added, mark = await cursor.fetchone() or (0, "")
    if added == len(new):
        _known.added(new, mark)
        return int(added)
    # Under the same name, another one, or none.
    nameless = await _look(new, decided, connection)
    nameless = [sight for sight in nameless if sight.told and sight.external is not None]
    if nameless:
        await connection.execute(_NAME_THE_NAMELESS, _columns(nameless))
    return int(added)


async def _look(sights: Sequence[_Sight], decided: dict[_Key, str], connection: AsyncConnection[Any]) -> list[_Sight]:
    """The sights that Postgres knows nothing of. What it knows goes into `decided`; what is settled is remembered."""
    if not sights:
        return []
    cursor = await connection.execute(_LOOK, _columns(sights))
    found: set[int] = set()
    for number, participant, settled in await cursor.fetchall():
        found.add(number)
        sight = sights[number - 1]
        if sight.external is not None:
            decided[sight.program, sight.external] = participant
        if settled:
            _known.remember(sight, participant)
    return [sight for number, sight in enumerate(sights, 1) if number not in found]


def _columns(sights: Sequence[_Sight]) -> dict[str, Any]:
    return {
        "programs": _uuids([sight.program for sight in sights]),
        "participants": _uuids([sight.participant for sight in sights]),
        "externals": text_array([sight.external for sight in sights]),
        "events": _uuids([sight.event.hex() for sight in sights]),
    }


def _uuids(texts: Sequence[str]) -> str:
    return "{" + ",".join(texts) + "}"
