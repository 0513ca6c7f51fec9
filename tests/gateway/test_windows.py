"""Lists within windows: whatever the spans, the two times and the eras are, pages hold what a plain filter finds."""

import operator
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import names, reaches, windows
from gateway.cursors import Position
from gateway.pages import page_sql
from gateway.places import FRESH, MADE
from gateway.places import UNTOLD as UNTOLD_YET
from tests.gateway.rows import T0, WHOLE, copies, event_row
from tests.gateway.test_queries import MODEL, PROGRAMS, SIGNER, on_the_copy, put, read, text_of

SECONDS = 12
ERAS = 3
ONE = timedelta(microseconds=1)
FRESH_ONLY = f"with {MADE}, {UNTOLD_YET}, {FRESH} select * from fresh order by created_from"  # noqa: S608 - of literals
EMPTY = "truncate pg_temp.events, pg_temp.spans, pg_temp.fresh_spans; " + WHOLE


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


# Of a second: a span may end within a quarter.
PARTS = st.sampled_from([0, 0, 0.1, 0.2, 0.3])


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
                created_at=moment(created + draw(PARTS)),
                event_timestamp=moment(event),
                # Eras are borders of creation time, blurred, as they are for partitions of different loads.
                kafka_offset=max(0, created * ERAS // SECONDS + draw(st.integers(-1, 1))) << 16,
            )
        )
    return rows


@st.composite
def spans_of(draw: st.DrawFn, rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Any spans that hold for these events: cut anywhere, ending anywhere, wider than need be."""
    cuts = sorted(draw(st.sets(st.builds(operator.add, st.integers(0, SECONDS + 1), PARTS), max_size=8)))
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


UNTOLD = (moment(50 * SECONDS), 0, "-infinity", "infinity", 0)


class Case(NamedTuple):
    """Events, spans of them, and fresh spans of the others, or of some, and the word that there are more.

    `lost`: in place of that word, the row is missing that says that the table is whole.
    """

    rows: list[dict[str, Any]]
    spans: list[tuple[Any, ...]]
    fresh: list[tuple[Any, ...]]
    lost: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """What may be in the tables at any moment."""
    rows = draw(histories())
    spans = draw(spans_of(rows))
    all_told = draw(st.integers(0, 3)) > 0
    lost = draw(st.booleans())
    made_to = spans[-1][1] if spans else moment(-1)
    # Also of some that are in spans already. How many events are told of decides only which are put together.
    told = [row for row in rows if (all_told and row["created_at"] >= made_to) or draw(st.booleans())]
    noted = [fresh(row, draw(st.integers(0, 2)), draw(st.integers(0, 2))) for row in told]
    if all_told:
        return Case(rows, spans, noted, lost=False)
    return Case(rows, spans, noted if lost else [*noted, UNTOLD], lost=lost)


def fresh(row: dict[str, Any], writer: int = 0, events: int = 1) -> tuple[Any, ...]:
    """What a worker tells of a row."""
    quarter = row["created_at"].replace(microsecond=row["created_at"].microsecond // 250_000 * 250_000)
    return (quarter, writer, row["event_timestamp"], row["event_timestamp"], events)


def tell(database: psycopg.Connection, told: Iterable[tuple[Any, ...]]) -> None:
    """Put fresh spans into their table."""
    for each in told:
        database.execute(
            """insert into pg_temp.fresh_spans as f values (%s, %s, %s, %s, %s) on conflict (created_from, writer)
               do update set event_min = least(f.event_min, excluded.event_min),
               event_max = greatest(f.event_max, excluded.event_max), events = f.events + excluded.events""",
            each,
        )


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


NOTED = st.tuples(st.integers(0, 20), st.integers(0, 2), st.integers(-50, 50), st.integers(0, 9), st.integers(0, 4))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    noted=st.lists(NOTED, max_size=12, unique_by=lambda one: one[:2]),
    made_to=st.none() | st.floats(0, 5).map(moment),
    fresh_events=st.integers(1, 6),
)
def test_fresh_spans_are_put_together_without_a_gap_or_an_overlap(
    database: psycopg.Connection,
    noted: list[tuple[int, int, int, int, int]],
    made_to: datetime | None,
    fresh_events: int,
) -> None:
    database.execute(EMPTY)
    if made_to is not None:
        database.execute("insert into pg_temp.spans values ('-infinity', %s, %s, %s)", [made_to, T0, T0])
    told = [
        (moment(quarter / 4), writer, moment(event), moment(event + width), events)
        for quarter, writer, event, width, events in noted
    ]
    tell(database, told)
    found = database.execute(on_the_copy(FRESH_ONLY), {"fresh_events": fresh_events}).fetchall()
    quarter = timedelta(milliseconds=250)
    wanted = [each for each in told if made_to is None or each[0] + quarter > made_to]
    for created_from, created_to, event_min, event_max in found:
        within = [each for each in wanted if created_from - quarter < each[0] < created_to]
        wanted = [each for each in wanted if each not in within]
        begin = min(each[0] for each in within)
        assert created_from == (begin if made_to is None else max(begin, made_to))
        last = max(each[0] for each in within)
        assert created_to == last + quarter
        assert (event_min, event_max) == (min(each[2] for each in within), max(each[3] for each in within))
        # Without the last quarter they are less than what is put together.
        assert begin == last or sum(each[4] for each in within if each[0] < last) < fresh_events
    assert wanted == []
    assert all(before[1] <= after[0] for before, after in pairwise(found))
    enough = sum(each[4] for each in told) // fresh_events + 1
    assert len(found) <= enough


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
    case: Case,
    filters: dict[str, Any],
    sort_by: str,
    sort_dir: str,
    limit: int,
) -> None:
    rows, spans, told, lost = case
    expected = [row for row in rows if all(MODEL[name](row, value) for name, value in filters.items())]
    expected.sort(key=lambda row: (row[sort_by], row["id"]), reverse=sort_dir == "desc")
    database.execute(EMPTY)
    if lost:
        database.execute("truncate pg_temp.fresh_spans")
    tell(database, told)
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
@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("newest", [1, 2, 8])
@pytest.mark.parametrize("sort_by", ["created_at", "event_timestamp"])
@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
def test_the_newest_are_found_where_nothing_is_told_of_them(
    database: psycopg.Connection, newest: int, sort_by: str, sort_dir: str, *, lost: bool
) -> None:
    rows = [some_event(second) for second in range(SECONDS + newest)]
    database.execute(EMPTY)
    put(database, rows)
    if lost:
        database.execute("truncate pg_temp.fresh_spans")
    else:
        tell(database, [UNTOLD])
    for begin, end in pairwise(["-infinity", *map(moment, range(2, SECONDS + 1, 2))]):
        database.execute(
            "insert into pg_temp.spans values (%s, %s, %s, %s)", (begin, end, moment(0), moment(SECONDS - 1))
        )
    # The last one is far off: what is known of the spans does not reach it.
    far = moment(100 if sort_dir == "desc" else -100)
    database.execute("update pg_temp.events set event_timestamp = %s where id = %s", [far, rows[-1]["id"]])
    rows[-1]["event_timestamp"] = far
    rows.sort(key=lambda row: (row[sort_by], row["id"]), reverse=sort_dir == "desc")
    other = ("from", "to") if sort_by == "event_timestamp" else ("event_from", "event_to")
    parameters = dict(zip(other, (text_of(moment(-200)), text_of(moment(200))), strict=True))
    parameters |= {"sort_by": sort_by, "sort_dir": sort_dir, "limit": "2"}
    assert all_pages(database, parameters, 2, len(rows)) == [row["id"] for row in rows]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("sort_by", ["created_at", "event_timestamp"])
@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
def test_events_and_spans_that_come_between_pages_hide_and_repeat_nothing(
    database: psycopg.Connection, sort_by: str, sort_dir: str, *, told: bool
) -> None:
    def arrive(rows: list[dict[str, Any]]) -> None:
        put(database, rows)
        tell(database, map(fresh, rows) if told else [UNTOLD])

    old = [some_event(second) for second in range(2 * SECONDS)]
    database.execute(EMPTY)
    arrive(old)
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
            arrive([some_event(2 * SECONDS + number), event_row(created_at=moment(50), event_timestamp=T0)])
            begin = moment(2 * number) if number else "-infinity"
            span = [begin, moment(2 * number + 2), moment(0), moment(SECONDS)]
            database.execute("insert into pg_temp.spans values (%s, %s, %s, %s)", span)
    old.sort(key=lambda row: (row[sort_by], row["id"]), reverse=sort_dir == "desc")
    assert len(found) == len(set(found))
    assert [each for each in found if each in {row["id"] for row in old}] == [row["id"] for row in old]
