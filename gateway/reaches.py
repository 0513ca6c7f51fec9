"""A page by `event_timestamp` within a wide window on `created_at`: where a walk begins and ends. Pure: no I/O.

The window's spans (migration 0005) tell how far their events lie towards the order's beginning, and towards its end.
What lies outside of that, such as all that is newer than the window, need not be walked. The few spans that reach
farthest are read as a whole: so single events far from all others make no walk longer, and where they fill a page,
its last event tells where the walk may end. Where a walk would pass many other spans all the same, more are read. The
newest events, which are in no span yet, are in fresh ones (migration 0007), which serve for the same; where nothing is
told of some, all of the newest are looked at.
"""

from collections.abc import Container
from typing import LiteralString, NamedTuple

from gateway.places import Order, Places, first, sorted_by
from gateway.queries import FILTERS

_SPANS_READ = 4
"""Spans that are read as a whole."""
_SPANS_READ_MORE = 20
"""Further spans that are read where the first do not fill a page, or where the walk would be too long."""
_SPANS_PASSED_MAX = 20
"""A walk past more spans than this, which have nothing to do with the window, is too long."""

_NEWEST_MAX = 50_000
"""Events of which nothing is told are looked at up to this many; where there are more, these may lie anywhere."""


def params() -> dict[str, int]:
    """The limits, as parameters of the statement."""
    return {
        "spans_read": _SPANS_READ,
        "spans_read_more": _SPANS_READ_MORE,
        "spans_passed_max": _SPANS_PASSED_MAX,
        "newest_max": _NEWEST_MAX,
    }


class _Way(NamedTuple):
    """A direction through the event timestamps, as SQL."""

    direction: LiteralString
    reach: LiteralString
    """How far a span's events lie towards the beginning."""
    step: LiteralString
    """From an instant to one nearer to the beginning."""
    edge: LiteralString
    """The id that comes last at that instant: behind it lie the events of the instant before the step."""
    behind: LiteralString
    until: LiteralString
    bound: LiteralString
    """The filter that says where a window on the event timestamp itself begins."""
    beginning: LiteralString
    end: LiteralString


_OUTSIDE: dict[str, LiteralString] = {
    "from": "span.created_to <= %(from)s::timestamptz",
    "to": "span.created_from >= %(to)s::timestamptz",
}

_DOWN = _Way(
    direction="desc",
    reach="event_max",
    step="+ interval '1 microsecond'",
    edge="00000000-0000-0000-0000-000000000000",
    behind="<",
    until=">=",
    bound="event_to",
    beginning="infinity",
    end="-infinity",
)
_UP = _Way(
    direction="asc",
    reach="event_min",
    step="- interval '1 microsecond'",
    edge="ffffffff-ffff-ffff-ffff-ffffffffffff",
    behind=">",
    until="<=",
    bound="event_from",
    beginning="-infinity",
    end="infinity",
)


def walks(
    given: Container[str],
    order: Order,
    kinds: Places,
    windows: tuple[LiteralString, ...],
    spans: list[LiteralString],
    *,
    paged: bool,
) -> LiteralString:
    """The common table expressions that follow on `narrow`, up to the rows of `page` in no order.

    `windows` are the conditions of the time filters `given`, `spans` what they and the cursor ask of a span.
    """
    way, back = (_DOWN, _UP) if order.direction == "desc" else (_UP, _DOWN)
    begin, end = "(select instant from begin), (select id from begin)", "(select instant from finish)"
    between = (f"(e.event_timestamp, e.id) {way.behind} ({begin})", f"e.event_timestamp {way.until} {end}")
    walk = first(sorted_by("event_timestamp", kinds), ("(select yes from wide)", *between, *windows), order)
    asked = (*windows, *((order.behind,) if paged else ()))
    return f"""{_spans(given, kinds, spans)},
{_read_near(given, order, kinds, asked, way, paged=paged)},
far as materialized (
    select * from reached where (select instant from filled) is null
    order by {back.reach} {back.direction} limit %(spans_read)s + 1
),
read_far as materialized (
    select found.id, found.instant
    from (select * from far order by {back.reach} {back.direction} limit %(spans_read)s) span
    cross join lateral ({_read(order, kinds, asked)}) found
),
begin (instant, id) as materialized ({_begin(given, way, "(select spans from read)", paged=paged)}),
finish (instant) as materialized (
    select coalesce((select instant from filled), ({_reach(back, "far", "%(spans_read)s")}))
),
walked as ({walk}),
page as (
    select id, instant from narrow
    union select id, instant from read_near
    union select id, instant from read_more
    union select id, instant from read_far
    union select id, instant from walked"""  # noqa: S608 - of literals


def _read(order: Order, kinds: Places, asked: tuple[LiteralString, ...]) -> LiteralString:
    """The first events of a span."""
    return first(kinds, ("e.created_at >= span.created_from", "e.created_at < span.created_to", *asked), order)


def _read_near(
    given: Container[str], order: Order, kinds: Places, asked: tuple[LiteralString, ...], way: _Way, *, paged: bool
) -> LiteralString:
    """The spans that reach farthest: the first events of some, and of more where these are not enough."""
    last: LiteralString = f"order by instant {way.direction} offset %(rows)s - 1 limit 1"
    better: LiteralString = f"e.event_timestamp {way.until} (select coalesce(instant, '{way.end}') from filled_first)"  # noqa: S608
    ends: tuple[LiteralString, LiteralString] = (
        "(select instant from filled_first)",
        "(select instant from begin_first)",
    )
    low, high = ends if way.direction == "desc" else (ends[1], ends[0])
    outside: LiteralString = " or ".join(text for name, text in _OUTSIDE.items() if name in given)
    return f"""
near as materialized (
    select reached.*, row_number() over (order by {way.reach} {way.direction}) as rank from reached
    order by {way.reach} {way.direction} limit %(spans_read)s + %(spans_read_more)s + 1
),
read_near as materialized (
    select found.id, found.instant from (select * from near where rank <= %(spans_read)s) span
    cross join lateral ({_read(order, kinds, asked)}) found
),
filled_first (instant) as materialized (select (select instant from read_near {last})),
begin_first (instant, id) as materialized ({_begin(given, way, "%(spans_read)s", paged=paged)}),
read (spans) as materialized (
    select case when (select instant is null from filled_first) or exists (
        select from headrace.spans span where span.event_min >= {low} and span.event_max <= {high} and ({outside})
        offset %(spans_passed_max)s
    ) then %(spans_read)s + %(spans_read_more)s else %(spans_read)s end
),
read_more as materialized (
    select found.id, found.instant
    from (select * from near where rank > %(spans_read)s and rank <= (select spans from read)) span
    cross join lateral ({_read(order, kinds, (better, *asked))}) found
),
filled (instant) as materialized (
    select (select instant from (select * from read_near union all select * from read_more) found {last})
)"""  # noqa: S608 - of literals


def _spans(given: Container[str], kinds: Places, spans: list[LiteralString]) -> LiteralString:
    """The spans that may hold events of the list, events of which nothing is told one of them, if not too many."""
    window = [FILTERS[name].condition for name in ("from", "to") if name in given]
    wide: tuple[LiteralString, LiteralString] = ("(select yes from wide)", "(select yes from untold)")
    asked = (*kinds.conditions, *wide, "e.created_at >= (select made_to from made)", *window)
    return f"""
newest as materialized (
    select min(found.event_timestamp) as event_min, max(found.event_timestamp) as event_max, count(*) as events
    from (select found.event_timestamp from {kinds.joined} cross join lateral (
        select e.event_timestamp from headrace.events e where {" and ".join(asked)}
        order by e.created_at limit %(newest_max)s + 1
    ) found limit %(newest_max)s + 1) found
),
reached as not materialized (
    select span.* from (
        select created_from, created_to, event_min, event_max from headrace.spans where (select yes from wide)
        union all
        select created_from, created_to, event_min, event_max from fresh
        where (select yes from wide) and not (select yes from untold)
        union all
        select made_to, 'infinity', event_min, event_max from made, newest where events between 1 and %(newest_max)s
    ) span where {" and ".join(spans) or "true"}
)"""  # noqa: S608 - of literals


def _reach(way: _Way, spans: LiteralString, read: LiteralString) -> LiteralString:
    """How far the events reach that are in none of the first `read` spans; where there are none, nothing is reached."""
    unread: LiteralString = f"order by {way.reach} {way.direction} offset {read} limit 1"
    return f"""select case
        when (select events > %(newest_max)s from newest) then '{way.beginning}'
        else coalesce((select {way.reach} from {spans} {unread}), '{way.end}')
    end::timestamptz"""  # noqa: S608 - of literals


def _begin(given: Container[str], way: _Way, read: LiteralString, *, paged: bool) -> LiteralString:
    """The position behind which the walk begins: of the reach, the window's own bound and the cursor the farthest.

    It is made one, since Postgres enters an index at one of several conditions, and not at the best of them.
    """
    positions: list[LiteralString] = [f"(({_reach(way, 'near', read)}) {way.step}, '{way.edge}'::uuid)"]
    if way.bound in given:
        positions.append(f"(%({way.bound})s::timestamptz {way.step}, '{way.edge}'::uuid)")
    if paged:
        positions.append("(%(instant)s, %(id)s::uuid)")
    farthest: LiteralString = "instant, id" if way.direction == "desc" else "instant desc, id desc"
    return f"select instant, id from (values {', '.join(positions)}) v (instant, id) order by {farthest} limit 1"  # noqa: S608
