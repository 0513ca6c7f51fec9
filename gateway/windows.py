"""A page within a window on the one time in the order of the other: no index has both. Pure: no I/O.

The events of a narrow window are collected and sorted. Of a wide one the order is walked, and spans (migration 0005)
tell which part of it: each is a stretch of creation time, with the earliest and the latest event timestamp in it. By
`created_at`, only the spans that have event timestamps within the window are walked, one after the other; for the other
order see :mod:`gateway.reaches`. The newest events are in no span yet, but in fresh ones (migration 0007).
"""

from collections.abc import Iterable
from typing import LiteralString

from gateway import reaches
from gateway.places import FRESH, MADE, UNTOLD, Order, Places, first, sorted_by
from gateway.queries import FILTERS

COLLECTED_MAX = 5_000
"""Events of a window that are collected and sorted: as many as a span holds, which is what a walk costs at least."""

_OF_OTHER = {"created_at": ("event_from", "event_to"), "event_timestamp": ("from", "to")}

# Where a span has to lie to hold events that a filter, or the cursor, lets through.
_OF_SPAN: dict[str, LiteralString] = {
    "from": "span.created_to > %(from)s::timestamptz",
    "to": "span.created_from < %(to)s::timestamptz",
    "event_from": "span.event_max >= %(event_from)s::timestamptz",
    "event_to": "span.event_min < %(event_to)s::timestamptz",
}
_BEHIND: dict[tuple[str, str], LiteralString] = {
    ("created_at", "desc"): "span.created_from <= %(instant)s",
    ("created_at", "asc"): "span.created_to > %(instant)s",
    ("event_timestamp", "desc"): "span.event_min <= %(instant)s",
    ("event_timestamp", "asc"): "span.event_max >= %(instant)s",
}
# The cursor or the span's edge, whichever comes later: where there is a cursor, Postgres enters an index at its
# condition, and would read from there to the span.
_INTO_SPAN: dict[str, LiteralString] = {
    "desc": "(e.created_at, e.id) < (least(span.created_to, %(instant)s),"
    " case when span.created_to <= %(instant)s then '00000000-0000-0000-0000-000000000000' else %(id)s::uuid end)",
    "asc": "(e.created_at, e.id) > (greatest(span.created_from - interval '1 microsecond', %(instant)s),"
    " case when span.created_from > %(instant)s then 'ffffffff-ffff-ffff-ffff-ffffffffffff' else %(id)s::uuid end)",
}


def params() -> dict[str, int]:
    """The limits, as parameters of the statement."""
    return {"collected_max": COLLECTED_MAX, "fresh_events": COLLECTED_MAX, **reaches.params()}


def page(given: Iterable[str], order: Order, kinds: Places, *, paged: bool) -> LiteralString:
    """The common table expressions up to `page` (id, instant), which follow on `eras`.

    `given` are the names of the filters; those of a kind are in `kinds` already. `paged`: there is a cursor.
    """
    times = [name for name in given if name in _OF_SPAN]
    windows = tuple(FILTERS[name].condition for name in times)
    spans = [_OF_SPAN[name] for name in times]
    if paged:
        spans.append(_BEHIND[order.column, order.direction])
    if order.column == "created_at":
        walks = _by_created_at(order, kinds, windows, spans, paged=paged)
    else:
        walks = reaches.walks(times, order, kinds, windows, spans, paged=paged)
    behind = (order.behind,) if paged else ()
    last: LiteralString = f"order by instant {order.direction}, id {order.direction} limit %(rows)s"
    return f"{_narrow(order, kinds, times, behind)},{walks} {last})"


def _narrow(order: Order, kinds: Places, times: list[str], behind: tuple[LiteralString, ...]) -> LiteralString:
    """The window's events, by the index of the window's own column; and whether these are too many.

    What else is asked of an event comes after that: it must not have the window read to its end for a few events.
    """
    other: LiteralString = "event_timestamp" if order.column == "created_at" else "created_at"
    places = sorted_by(other, kinds)
    of_window = [FILTERS[name].condition for name in times if name in _OF_OTHER[order.column]]
    others = [FILTERS[name].condition for name in times if name not in _OF_OTHER[order.column]]
    return f"""{MADE},{UNTOLD},{FRESH},
collected as materialized (
    select found.* from {places.joined} cross join lateral (
        select e.id, e.created_at, e.event_timestamp from headrace.events e
        where {" and ".join((*places.conditions, *of_window))} order by e.{other} limit %(collected_max)s + 1
    ) found limit %(collected_max)s + 1
),
wide (yes) as materialized (select count(*) > %(collected_max)s from collected),
narrow as (
    select e.id, e.{order.column} as instant from collected e
    where {" and ".join(("not (select yes from wide)", *others, *behind))}
)"""  # noqa: S608 - of literals


def _by_created_at(
    order: Order, kinds: Places, windows: tuple[LiteralString, ...], spans: list[LiteralString], *, paged: bool
) -> LiteralString:
    """The spans that may hold events of the window, from the order's beginning until the page is full."""
    direction = order.direction
    within: tuple[LiteralString, ...] = ("e.created_at >= span.created_from", "e.created_at < span.created_to")
    if paged:
        within = (_INTO_SPAN[direction], *within)
    walk = first(kinds, (*within, *windows), order)
    asked: LiteralString = " and ".join(("(select yes from wide)", *spans))
    # In ascending order they come last: not before they are needed.
    needed: LiteralString = "" if direction == "desc" else " and (select count(*) from walked) < %(rows)s"
    return f"""
walked as ({_walked("headrace.spans", asked, walk, direction)}),
newest as ({_walked("fresh", f"{asked}{needed}", walk, direction)}),
page as (
    select id, instant from narrow
    union all select id, instant from walked
    union all select id, instant from newest"""  # noqa: S608 - of literals


def _walked(spans: LiteralString, asked: LiteralString, walk: LiteralString, direction: LiteralString) -> LiteralString:
    """The first events of those spans, one span after the other."""
    return f"""
    select found.id, found.instant from (
        select span.created_from, span.created_to from {spans} span where {asked} order by span.created_from {direction}
    ) span
    cross join lateral ({walk}) found
    order by span.created_from {direction}, found.instant {direction}, found.id {direction} limit %(rows)s"""  # noqa: S608 - of literals
