"""Places: the stretches of indexes that a page's SQL visits, each sorted as the page is. Pure: no I/O.

A statement takes at most a page from each place and keeps the first of all. Places are the combinations of program,
status and event type, and in the order of `event_timestamp` the eras (migration 0004) besides.
"""

from typing import LiteralString, NamedTuple

ERAS: LiteralString = """
eras as (
    (select era from headrace.events order by era limit 1)
    union all
    select (select e.era from headrace.events e where e.era > eras.era order by e.era limit 1)
    from eras where eras.era is not null
)"""
OF_ERA: LiteralString = "e.era = eras.era"
MADE: LiteralString = """
made (made_to) as materialized (
    select coalesce((select created_to from headrace.spans order by created_from desc limit 1), '-infinity')
)"""
"""Up to where there are spans (migration 0005)."""
FRESH: LiteralString = """
fresh as materialized (
    select greatest(min(created_from), (select made_to from made)) as created_from,
           max(created_from) + interval '250 ms' as created_to, min(event_min) as event_min, max(event_max) as event_max
    from (
        select *, (sum(events) over (order by created_from) - events)::bigint / %(fresh_events)s as number from (
            select f.created_from, sum(f.events) as events, min(f.event_min) as event_min, max(f.event_max) as event_max
            from headrace.fresh_spans f
            where f.created_from > (select made_to from made) - interval '250 ms' and not (select yes from untold)
            group by f.created_from
        ) quarter
    ) numbered group by number
    union all select made_to, 'infinity', '-infinity', 'infinity' from made where (select yes from untold)
)"""
"""As spans, the newest events, which are in none: some `fresh_events` each, or a quarter of a second (migration 0007).

Where somebody inserted events without a word, one span that may hold anything. It follows on `made` and `untold`.
"""
UNTOLD: LiteralString = """
untold (yes) as materialized (
    select exists (
        select from headrace.fresh_spans where created_from > (select made_to from made) and event_max = 'infinity'
    ) or not exists (select from headrace.fresh_spans where created_from = '-infinity')
)"""
"""Whether some of the newest events may be in no fresh span."""

_KINDS: LiteralString = (
    "unnest(%(statuses)s::headrace.status[]) s (status)"
    " cross join unnest(%(event_types)s::headrace.event_type[]) t (event_type)"
)
_PROGRAMS: LiteralString = "unnest(%(programs)s::uuid[]) p (program_id) cross join "
_OF_KIND: tuple[LiteralString, ...] = ("e.status = s.status", "e.event_type = t.event_type")
_OF_PROGRAM: tuple[LiteralString, ...] = ("e.program_id = p.program_id", *_OF_KIND)
# As a value and not joined: so the planner knows a program of many events. Of one that it believes to have few it may
# read all and sort them.
_OF_THE_PROGRAM: tuple[LiteralString, ...] = ("e.program_id = (%(programs)s::uuid[])[1]", *_OF_KIND)


class Order(NamedTuple):
    """An order as SQL: the column, what lies behind the cursor, and the direction."""

    column: LiteralString
    behind: LiteralString
    direction: LiteralString


ORDERS: dict[tuple[str, str], Order] = {
    ("created_at", "desc"): Order("created_at", "(e.created_at, e.id) < (%(instant)s, %(id)s::uuid)", "desc"),
    ("created_at", "asc"): Order("created_at", "(e.created_at, e.id) > (%(instant)s, %(id)s::uuid)", "asc"),
    ("event_timestamp", "desc"): Order(
        "event_timestamp", "(e.event_timestamp, e.id) < (%(instant)s, %(id)s::uuid)", "desc"
    ),
    ("event_timestamp", "asc"): Order(
        "event_timestamp", "(e.event_timestamp, e.id) > (%(instant)s, %(id)s::uuid)", "asc"
    ),
}


class Places(NamedTuple):
    """Places as SQL: what is joined to visit them, and the conditions of one of them."""

    joined: LiteralString
    conditions: tuple[LiteralString, ...]


def kinds(programs: int | None) -> Places:
    """One place for each status and event type, of each of so many programs; None: of all together."""
    if programs is None:
        return Places(_KINDS, _OF_KIND)
    if programs == 1:
        return Places(_KINDS, _OF_THE_PROGRAM)
    return Places(f"{_PROGRAMS}{_KINDS}", _OF_PROGRAM)


def sorted_by(column: str, of_kind: Places) -> Places:
    """The places of these kinds that are sorted by `column`: one of the two orders is cut into eras."""
    if column == "created_at":
        return of_kind
    return Places(f"eras cross join {of_kind.joined}", (OF_ERA, *of_kind.conditions))


def first(places: Places, conditions: tuple[LiteralString, ...], order: Order) -> LiteralString:
    """The first events of all places that meet the conditions: (id, instant)."""
    column, direction = order.column, order.direction
    asked: LiteralString = " and ".join((*places.conditions, *conditions))
    return f"""
    select first.id, first.instant from {places.joined} cross join lateral (
        select e.id, e.{column} as instant from headrace.events e where {asked}
        order by e.{column} {direction}, e.id {direction} limit %(rows)s
    ) first order by first.instant {direction}, first.id {direction} limit %(rows)s"""  # noqa: S608 - of literals
