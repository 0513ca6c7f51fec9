"""Lists within windows: whatever the spans, the two times and the eras are, pages hold what a plain filter finds."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import names, reaches, windows
from gateway.cursors import Position
from gateway.pages import page_sql
from tests.gateway.rows import T0, copies, event_row
from tests.gateway.test_queries import MODEL, PROGRAMS, SIGNER, on_the_copy, put, read, text_of

SECONDS = 12
ERAS = 3
ONE = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection with empty copies of the tables."""
    with copies(database_url) as connection:
        yield connection


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so small that some twenty events are a wide window over many spans."""
    monkeypatch.setattr(windows, "COLLECTED_MAX", 1)
    monkeypatch.setattr(reaches, "_SPANS_READ", 1)
    monkeypatch.setattr(reaches, "_SPANS_READ_MORE", 1)
    monkeypatch.setattr(reaches, "_SPANS_PASSED_MAX", 0)
    monkeypatch.setattr(reaches, "_NEWEST_MAX", 3)
    monkeypatch.setattr(names, "_LOOKED_AT", 3)


def moment(second: float) -> datetime:
    """A moment of the tests' little history."""
    return T0 + timedelta(seconds=second)


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events of several eras whose two times are the same, apart by a constant, or unrelated; some are far off."""
    related = draw(st.sampled_from(["equal", "late", "unrelated"]))
    some_far_off = draw(st.sampled_from([False, False, True]))
    rows = []
    for _ in range(draw(st.integers(0, 30))):
        created = draw(st.integers(0, SECONDS))
        event = {"equal": created, "late": created - 5, "unrelated": draw(st.integers(0, SECONDS))}[related]
        if some_far_off and draw(st.integers(0, 9)) == 0:
            event = draw(st.sampled_from([-1_000, 1_000]))
        rows.append(
            event_row(
                program_id=draw(st.sampled_from(PROGRAMS[:2])),
                status=draw(st.sampled_from(["COMPLETED", "COMPLETED", "FAILED"])),
                external_id=draw(st.sampled_from(["user_1", "user_1", "user_2"])),
                created_at=moment(created),
                event_timestamp=moment(event),
                # Eras are borders of creation time, blurred, as they are for partitions of different loads.
                kafka_offset=max(0, created * ERAS // SECONDS + draw(st.integers(-1, 1))) << 16,
            )
        )
    return rows


@st.composite
def spans_of(draw: st.DrawFn, rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Any spans that hold for these events: cut anywhere, ending anywhere, wider than need be."""
    cuts = sorted(draw(st.sets(st.integers(0, SECONDS + 1), max_size=8)))
    spans: list[tuple[Any, ...]] = []
    begin: datetime | None = None
    for cut in cuts:
        end = moment(cut)
        times = [
            row["event_timestamp"]
            for row in rows
            if (begin is None or row["created_at"] >= begin) and row["created_at"] < end
        ]
        if times:
            slack = timedelta(seconds=draw(st.sampled_from([0, 0, 1])))
            spans.append((begin or "-infinity", end, min(times) - slack, max(times) + slack))
            begin = end
    return spans


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[tuple[Any, ...]]]:
    """Events, and spans of them."""
    rows = draw(histories())
    return rows, draw(spans_of(rows))


EARLY = st.integers(-1, SECONDS // 2).map(moment) | st.sampled_from([moment(3) + ONE, moment(-2_000)])
LATE = st.integers(SECONDS // 2, SECONDS + 1).map(moment) | st.sampled_from([moment(9) - ONE, moment(2_000)])
# Mostly wide windows, on either time or both, open at either end or none.
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "from": EARLY,
        "to": LATE,
        "event_from": EARLY,
        "event_to": LATE,
        "program_id": st.sampled_from(PROGRAMS[:2]),
        "status": st.sampled_from(["COMPLETED", "FAILED"]),
        "external_id": st.sampled_from(["user_1", "user_2"]),
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=cases(),
    filters=FILTERS,
    sort_by=st.sampled_from(["created_at", "event_timestamp"]),
    sort_dir=st.sampled_from(["asc", "desc"]),
    limit=st.integers(1, 4),
)
@pytest.mark.usefixtures("small")
def test_pages_of_windows_hold_what_a_filter_finds(
    database: psycopg.Connection,
    case: tuple[list[dict[str, Any]], list[tuple[Any, ...]]],
    filters: dict[str, Any],
    sort_by: str,
    sort_dir: str,
    limit: int,
) -> None:
    rows, spans = case
    expected = [row for row in rows if all(MODEL[name](row, value) for name, value in filters.items())]
    expected.sort(key=lambda row: (row[sort_by], row["id"]), reverse=sort_dir == "desc")
    database.execute("truncate pg_temp.events, pg_temp.spans")
    put(database, rows or [event_row(created_at=moment(-3_000), event_timestamp=moment(-3_000))])
    if not rows:
        database.execute("delete from pg_temp.events")
    for span in spans:
        database.execute("insert into pg_temp.spans values (%s, %s, %s, %s)", span)
    parameters = {name: text_of(value) for name, value in filters.items()}
    parameters |= {"sort_by": sort_by, "sort_dir": sort_dir, "limit": str(limit)}
    assert all_pages(database, parameters, limit, len(expected)) == [row["id"] for row in expected]


def all_pages(database: psycopg.Connection, parameters: dict[str, str], limit: int, events_max: int) -> list[str]:
    """The ids of all pages; stops with too many where pages repeat themselves."""
    found: list[str] = []
    while len(found) <= events_max:
        query = read(**parameters)
        statement, params = page_sql(query, f"id::text, {query.sort_by}, uuid_send(id)", None)
        page = database.execute(on_the_copy(statement), params).fetchall()
        found += [row[0] for row in page[:limit]]
        if len(page) <= limit:
            break
        parameters = parameters | {
            "cursor": SIGNER.encode(Position(page[limit - 1][1], page[limit - 1][2]), query.digest)
        }
    return found


def some_event(second: int) -> dict[str, Any]:
    """An event of that second, its event timestamp some other second."""
    return event_row(
        created_at=moment(second),
        event_timestamp=moment((second * 5) % SECONDS),
        kafka_offset=(second // 4) << 16,
    )


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sort_by", ["created_at", "event_timestamp"])
@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
def test_events_and_spans_that_come_between_pages_hide_and_repeat_nothing(
    database: psycopg.Connection, sort_by: str, sort_dir: str
) -> None:
    old = [some_event(second) for second in range(2 * SECONDS)]
    database.execute("truncate pg_temp.events, pg_temp.spans")
    put(database, old)
    window = {"from": moment(0), "to": moment(100), "event_from": moment(-100), "event_to": moment(100)}
    parameters = {name: text_of(value) for name, value in window.items()}
    parameters |= {"sort_by": sort_by, "sort_dir": sort_dir, "limit": "2"}
    found: list[str] = []
    for number in range(3 * SECONDS):
        query = read(**parameters)
        statement, params = page_sql(query, f"id::text, {sort_by}, uuid_send(id)", None)
        page = database.execute(on_the_copy(statement), params).fetchall()
        found += [row[0] for row in page[:2]]
        if len(page) <= 2:
            break
        parameters["cursor"] = SIGNER.encode(Position(page[1][1], page[1][2]), query.digest)
        if number < SECONDS:  # each second two events arrive, and a span more is made
            put(database, [some_event(2 * SECONDS + number), event_row(created_at=moment(50), event_timestamp=T0)])
            begin = moment(2 * number) if number else "-infinity"
            span = [begin, moment(2 * number + 2), moment(0), moment(SECONDS)]
            database.execute("insert into pg_temp.spans values (%s, %s, %s, %s)", span)
    old.sort(key=lambda row: (row[sort_by], row["id"]), reverse=sort_dir == "desc")
    assert len(found) == len(set(found))
    assert [each for each in found if each in {row["id"] for row in old}] == [row["id"] for row in old]
