"""A page of one participant's, external id's or recipient's events by `event_timestamp`. Pure: no I/O.

Its index is sorted by `created_at` within each era, and has the event timestamps beside. Some events of each era are
looked at first: where these fill a page, its last one tells how far a better event must reach, and so which spans
(migration 0005) may hold one. Where the two times go together that is a short stretch; where they do not, it is
everything, and sorting only what reaches far enough saves a third.
"""

from typing import LiteralString

from gateway.places import MADE, OF_ERA, Order, Places, first

_LOOKED_AT = 200
"""Events of each era: four pages."""

_BETTER: dict[str, tuple[LiteralString, LiteralString]] = {
    "desc": ("e.event_timestamp >=", "span.event_max >="),
    "asc": ("e.event_timestamp <=", "span.event_min <="),
}
_BEHIND: dict[str, LiteralString] = {
    "desc": "span.event_min <= %(instant)s",
    "asc": "span.event_max >= %(instant)s",
}


def params() -> dict[str, int]:
    """The limits, as parameters of the statement."""
    return {"looked_at": _LOOKED_AT}


def page(party: LiteralString, conditions: tuple[LiteralString, ...], order: Order, *, paged: bool) -> LiteralString:
    """The common table expressions up to `page` (id, instant), which follow on `eras`.

    `party` is the condition that names whose events they are, `conditions` are all others; `paged`: there is a cursor.
    """
    direction = order.direction
    better, reaching = _BETTER[direction]
    behind = (order.behind,) if paged else ()
    spans: list[LiteralString] = [f"{reaching} (select instant from filled)"]  # noqa: S608 - of literals
    if paged:
        spans.append(_BEHIND[direction])
    end: LiteralString = "-infinity" if direction == "desc" else "infinity"
    within: tuple[LiteralString, ...] = (
        "e.created_at >= stretches.created_from",
        "e.created_at < stretches.created_to",
        f"{better} (select coalesce(instant, '{end}') from filled)",  # noqa: S608 - of literals
    )
    places = Places("eras cross join stretches", (OF_ERA, party))
    return f"""{MADE},
filled (instant) as materialized (
    select (
        select e.event_timestamp from eras cross join lateral (
            select e.* from headrace.events e where {OF_ERA} and {party}
            order by e.created_at {direction} limit %(looked_at)s
        ) e where {" and ".join((*conditions, *behind)) or "true"}
        order by e.event_timestamp {direction} offset %(rows)s - 1 limit 1
    )
),
stretches as materialized (
    select min(span.created_from) as created_from, max(span.created_to) as created_to
    from headrace.spans span where (select instant is not null from filled) and {" and ".join(spans)}
    union all
    select case when (select instant is null from filled) then '-infinity' else made_to end, 'infinity' from made
),
page as ({first(places, (*within, *conditions, *behind), order)})"""  # noqa: S608 - of literals
