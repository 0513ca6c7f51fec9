"""A page's SQL: which index answers which list, chosen here and not left to the planner's guesses. Pure: no I/O.

Each statement visits *places*, of which every one is a stretch of an index that is sorted as the page is: it takes at
most a page from each, keeps the first of all, and reads the rows of these alone. The places are the combinations of
program, status and event type, or the eras (see migration 0004), so that a page costs the same whether a value is
common, rare or absent, and whatever the number of events.

A window (`from`, `to`, `event_from`, `event_to`) on the one column and an order by the other cannot both be an index'
order. Then the events of a window of up to `_COLLECTED_MAX` are collected and sorted; those of a wider one are met soon
on the way through the order, unless that begins far from the window.
"""

from typing import Any, LiteralString, NamedTuple

from gateway.queries import EVENT_TYPES, FILTERS, STATUSES, ListQuery

_COLLECTED_MAX = 20_000

_PARTIES = ("participant_id", "external_id", "recipient_id")
_WINDOWS = {"created_at": ("from", "to"), "event_timestamp": ("event_from", "event_to")}
_OTHER = {"created_at": "event_timestamp", "event_timestamp": "created_at"}

_ERAS: LiteralString = """
eras as (
    (select era from headrace.events order by era limit 1)
    union all
    select (select e.era from headrace.events e where e.era > eras.era order by e.era limit 1)
    from eras where eras.era is not null
)"""
_KINDS: LiteralString = (
    "unnest(%(statuses)s::headrace.status[]) s (status)"
    " cross join unnest(%(event_types)s::headrace.event_type[]) t (event_type)"
)
_PROGRAMS: LiteralString = "unnest(%(programs)s::uuid[]) p (program_id) cross join "
_OF_KIND: tuple[LiteralString, ...] = ("e.status = s.status", "e.event_type = t.event_type")
_OF_PROGRAM: tuple[LiteralString, ...] = ("e.program_id = p.program_id", *_OF_KIND)
_OF_ERA: LiteralString = "e.era = eras.era"


class _Order(NamedTuple):
    """An order as SQL: the column, what lies behind the cursor, and the direction."""

    column: LiteralString
    behind: LiteralString
    direction: LiteralString


_ORDERS: dict[tuple[str, str], _Order] = {
    ("created_at", "desc"): _Order("created_at", "(e.created_at, e.id) < (%(instant)s, %(id)s::uuid)", "desc"),
    ("created_at", "asc"): _Order("created_at", "(e.created_at, e.id) > (%(instant)s, %(id)s::uuid)", "asc"),
    ("event_timestamp", "desc"): _Order(
        "event_timestamp", "(e.event_timestamp, e.id) < (%(instant)s, %(id)s::uuid)", "desc"
    ),
    ("event_timestamp", "asc"): _Order(
        "event_timestamp", "(e.event_timestamp, e.id) > (%(instant)s, %(id)s::uuid)", "asc"
    ),
}


def page_sql(
    query: ListQuery, columns: LiteralString, programs: frozenset[bytes] | None
) -> tuple[LiteralString, dict[str, Any]]:
    """The statement and its parameters for one page; one row more than the limit tells whether there is another page.

    `programs` are those that the key is limited to (16 bytes each), None where it is not.
    """
    given = dict(query.filters)
    chosen = _programs(given.get("program_id"), programs)
    params: dict[str, Any] = {
        **given,
        "rows": query.limit + 1,
        "statuses": [given["status"]] if "status" in given else [*STATUSES],
        "event_types": [given["event_type"]] if "event_type" in given else [*EVENT_TYPES],
        "programs": chosen,
        "collected_max": _COLLECTED_MAX,
    }
    order = _ORDERS[query.sort_by, query.sort_dir]
    behind: tuple[LiteralString, ...] = ()
    if query.after is not None:
        behind = (order.behind,)
        params |= {"instant": query.after.instant, "id": query.after.id.hex()}
    if "idempotency_key" in given or any(name in given for name in _PARTIES):
        page = _by_name(given, order, behind, limited=chosen is not None)
    else:
        page = _by_kind(given, order, behind, limited=chosen is not None)
    # Put together from literals of this code only; every value is a parameter.
    statement: LiteralString = (
        f"with recursive {_ERAS}, {page}"  # noqa: S608
        f" select {columns} from page join headrace.events using (id)"
        f" order by page.instant {order.direction}, page.id {order.direction}"
    )
    return statement, params


def _programs(wanted: str | None, allowed: frozenset[bytes] | None) -> list[str] | None:
    """The programs to look into, in hexadecimal; None: all."""
    if allowed is None:
        return None if wanted is None else [wanted]
    texts = [each.hex() for each in sorted(allowed)]
    return texts if wanted is None else [text for text in texts if text == wanted.replace("-", "")]


def _by_name(
    given: dict[str, str], order: _Order, behind: tuple[LiteralString, ...], *, limited: bool
) -> LiteralString:
    """A page of one participant's, recipient's or key's events: era by era."""
    conditions = [_OF_ERA, *behind, *(FILTERS[name].condition for name in given if name != "program_id")]
    if limited:
        conditions.append("e.program_id = any(%(programs)s::uuid[])")
    if "idempotency_key" in given:
        conditions.append("hashtext(e.idempotency_key) = hashtext(%(idempotency_key)s)")
    return f"page as ({_first('eras', conditions, order)})"


def _by_kind(
    given: dict[str, str], order: _Order, behind: tuple[LiteralString, ...], *, limited: bool
) -> LiteralString:
    """A page from the lists by program, status and event type."""
    kinds: LiteralString = f"{_PROGRAMS}{_KINDS}" if limited else _KINDS
    of_kind = _OF_PROGRAM if limited else _OF_KIND
    windows = [FILTERS[name].condition for names in _WINDOWS.values() for name in names if name in given]
    in_order = _places(order.column, kinds, (*of_kind, *behind, *windows))
    if not any(name in given for name in _WINDOWS[_OTHER[order.column]]):
        return f"page as ({_first(*in_order, order)})"
    other = _ORDERS[_OTHER[order.column], "asc"].column
    places, conditions = _places(other, kinds, (*of_kind, *behind, *windows))
    last: LiteralString = f"order by instant {order.direction}, id {order.direction} limit %(rows)s"
    return f"""
collected as materialized (
    select found.id, found.instant from {places} cross join lateral (
        select e.id, e.{order.column} as instant from headrace.events e where {" and ".join(conditions)}
        order by e.{other} limit %(collected_max)s + 1
    ) found limit %(collected_max)s + 1
),
page as (
    (select id, instant from collected where (select count(*) from collected) <= %(collected_max)s {last})
    union all
    (select id, instant from ({_first(*in_order, order)}) walked
     where (select count(*) from collected) > %(collected_max)s)
)"""  # noqa: S608


def _places(
    column: str, kinds: LiteralString, conditions: tuple[LiteralString, ...]
) -> tuple[LiteralString, list[LiteralString]]:
    """Where the lists in the order of `column` are, and what their events must meet: one is cut into eras."""
    if column == "created_at":
        return kinds, [*conditions]
    return f"eras cross join {kinds}", [_OF_ERA, *conditions]


def _first(places: LiteralString, conditions: list[LiteralString], order: _Order) -> LiteralString:
    """The first events of all `places`: (id, instant)."""
    column, direction = order.column, order.direction
    return f"""
    select first.id, first.instant from {places} cross join lateral (
        select e.id, e.{column} as instant from headrace.events e where {" and ".join(conditions)}
        order by e.{column} {direction}, e.id {direction} limit %(rows)s
    ) first order by first.instant {direction}, first.id {direction} limit %(rows)s"""  # noqa: S608
