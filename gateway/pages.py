"""A page's SQL: which index answers which list, chosen here and not left to the planner's guesses. Pure: no I/O.

Each statement visits *places*, of which every one is a stretch of an index that is sorted as the page is: it takes at
most a page from each, keeps the first of all, and reads the rows of these alone. The places are the combinations of
program, status and event type, or the eras (see migration 0004), so that a page costs the same whether a value is
common, rare or absent, and whatever the number of events.

A window (`from`, `to`, `event_from`, `event_to`) on the one column and an order by the other cannot both be an index'
order: :mod:`gateway.windows`.
"""

from typing import Any, LiteralString

from gateway import names, windows
from gateway.places import ERAS, OF_ERA, ORDERS, Order, Places, first, kinds, sorted_by
from gateway.queries import EVENT_TYPES, FILTERS, STATUSES, ListQuery

_PARTIES = ("participant_id", "external_id", "recipient_id")
_WINDOWS = {"created_at": ("from", "to"), "event_timestamp": ("event_from", "event_to")}
_OTHER = {"created_at": "event_timestamp", "event_timestamp": "created_at"}


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
        **windows.params(),
        **names.params(),
    }
    order = ORDERS[query.sort_by, query.sort_dir]
    behind: tuple[LiteralString, ...] = ()
    if query.after is not None:
        behind = (order.behind,)
        params |= {"instant": query.after.instant, "id": query.after.id.hex()}
    if "idempotency_key" in given or any(name in given for name in _PARTIES):
        page = _by_name(given, order, behind, limited=chosen is not None)
    else:
        page = _by_kind(given, order, behind, None if chosen is None else len(chosen))
    # Put together from literals of this code only; every value is a parameter.
    statement: LiteralString = (
        f"with recursive {ERAS}, {page}"  # noqa: S608
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


def _by_name(given: dict[str, str], order: Order, behind: tuple[LiteralString, ...], *, limited: bool) -> LiteralString:
    """A page of one participant's, recipient's or key's events: era by era."""
    conditions: list[LiteralString] = [
        FILTERS[name].condition for name in given if name not in {"program_id", "idempotency_key"}
    ]
    if limited:
        conditions.append("e.program_id = any(%(programs)s::uuid[])")
    if "idempotency_key" in given:
        conditions += [
            FILTERS["idempotency_key"].condition,
            "hashtext(e.idempotency_key) = hashtext(%(idempotency_key)s)",
        ]
    elif order.column == "event_timestamp":
        party = FILTERS[next(name for name in _PARTIES if name in given)].condition
        others = tuple(each for each in conditions if each != party)
        return names.page(party, others, order, paged=bool(behind))
    return f"page as ({first(Places('eras', (OF_ERA,)), (*behind, *conditions), order)})"


def _by_kind(
    given: dict[str, str], order: Order, behind: tuple[LiteralString, ...], programs: int | None
) -> LiteralString:
    """A page from the lists by program, status and event type; `programs` as in :func:`gateway.places.kinds`."""
    places = kinds(programs)
    if any(name in given for name in _WINDOWS[_OTHER[order.column]]):
        return windows.page(given, order, places, paged=bool(behind))
    conditions = (*behind, *(FILTERS[name].condition for names in _WINDOWS.values() for name in names if name in given))
    return f"page as ({first(sorted_by(order.column, places), conditions, order)})"
