"""Spans hold for every event, whenever and by whom it is inserted; and a gateway makes them."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import spans
from gateway.spans import Spans
from tests.conftest import own_database
from tests.gateway.rows import T0, event_row, insert_events
from tests.gateway.test_database import database_at

Row = tuple[Any, ...]

EMPTY = """
truncate headrace.events, headrace.spans; delete from headrace.fresh_spans where created_from > '-infinity'
"""
ANEW = "update headrace.spans_progress set ripe_to = '-infinity', next_to = '-infinity', next_xid = '0'"
# What spans may be made of in the next turn, if the clock had gone on for an hour.
LATER = """
update headrace.spans_progress
set next_to = now() + interval '1 hour', next_xid = pg_snapshot_xmax(pg_current_snapshot())
"""


def moment(second: int) -> datetime:
    return T0 + timedelta(seconds=second)


def some_event(second: int, event_second: int = 0, status: str = "COMPLETED") -> dict[str, Any]:
    return event_row(created_at=moment(second), event_timestamp=moment(event_second), status=status)


def insert(connection: psycopg.Connection, row: dict[str, Any]) -> None:
    columns, values = ", ".join(row), ", ".join(["%s"] * len(row))
    statement = f"insert into headrace.events ({columns}) values ({values})"  # noqa: S608 - of literals
    connection.execute(statement.encode(), list(row.values()))


def make(connection: psycopg.Connection, events: int = 2, spans_max: int = 100) -> int:
    """Make spans, of what was inserted before the call too: only the second turn knows that it is all there."""
    made = 0
    for _ in range(2):
        row = connection.execute("select headrace.make_spans(%s, %s)", [events, spans_max]).fetchone()
        made += row[0] if row else 0
    return made


def made(connection: psycopg.Connection) -> list[Row]:
    """All spans in order; what has no beginning begins at year 1."""
    return connection.execute(
        "select greatest(created_from, '0001-01-01'), created_to, event_min, event_max from headrace.spans order by 1"
    ).fetchall()


def one(connection: psycopg.Connection, statement: str) -> Any:  # noqa: ANN401 - any column's value
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture(scope="module")
def url(database_url: str) -> str:
    """A database of this file's own."""
    return own_database(database_url)


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection]:
    """A connection to a database without events."""
    with psycopg.connect(url, autocommit=True) as opened:
        opened.execute(EMPTY)
        opened.execute(ANEW)
        yield opened


STEPS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(-50, 50), st.sampled_from(["COMPLETED", "FAILED", "PENDING"]))
    | st.none(),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, events=st.integers(1, 4))
def test_every_event_lies_within_the_times_of_its_span(
    connection: psycopg.Connection, steps: list[tuple[int, int, str] | None], events: int
) -> None:
    """Events come at any moment, also within spans that are there; `None`: spans are made meanwhile."""
    connection.execute(EMPTY)
    connection.execute(ANEW)
    inserted: list[tuple[datetime, datetime]] = []
    for step in steps:
        if step is None:
            make(connection, events)
            continue
        insert(connection, some_event(*step))
        inserted.append((moment(step[0]), moment(step[1])))
    make(connection, events)
    found = made(connection)
    assert [span[0] for span in found[1:]] == [span[1] for span in found[:-1]]
    assert not found or found[0][0].year == 1
    for begin, end, event_min, event_max in found:
        times = [event for created, event in inserted if begin <= created < end]
        assert times
        assert event_min == min(times)
        assert event_max == max(times)
    # What is left is less than a span in each of the three statuses, or of one moment.
    left = [created for created, _ in inserted if not found or created >= found[-1][1]]
    assert len(left) <= 3 * events


def test_events_of_one_moment_are_one_span(connection: psycopg.Connection) -> None:
    for second in (1, 1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 6):
        insert(connection, some_event(second, -second))
    make(connection, events=2)
    after = timedelta(microseconds=1)
    assert [(end, event_min, event_max) for _, end, event_min, event_max in made(connection)] == [
        (moment(1) + after, moment(-1), moment(-1)),
        (moment(3), moment(-2), moment(-2)),
        (moment(3) + after, moment(-3), moment(-3)),
        (moment(6), moment(-5), moment(-4)),
    ]


def test_as_many_spans_are_made_as_are_asked_for(connection: psycopg.Connection) -> None:
    for second in range(10):
        insert(connection, some_event(second))
    assert make(connection, events=1, spans_max=3) == 3
    assert make(connection, events=1) == 6
    assert make(connection, events=1) == 0


def test_new_events_are_in_no_span(connection: psycopg.Connection) -> None:
    now = datetime.now(UTC)
    for seconds in (0, 9, 19):
        insert(connection, event_row(created_at=now - timedelta(seconds=seconds)))
    assert make(connection, events=1) == 0
    assert one(connection, "select ripe_to < now() - interval '19 seconds' from headrace.spans_progress")


def test_a_transaction_that_inserts_holds_back_the_spans_of_its_time(connection: psycopg.Connection, url: str) -> None:
    """What is not seen yet may lie within: as if the clock had gone on for an hour since it was inserted."""
    with psycopg.connect(url) as inserting:
        now = datetime.now(UTC)
        insert(inserting, event_row(created_at=now, event_timestamp=moment(-77)))
        for _ in range(2):
            insert(connection, event_row(created_at=now, event_timestamp=moment(5)))
        insert(connection, event_row(created_at=now + timedelta(seconds=9)))
        connection.execute(LATER)
        assert make(connection) == 0
        assert one(connection, "select ripe_to = '-infinity' from headrace.spans_progress")
    assert make(connection) == 1
    assert made(connection)[0][2:] == (moment(-77), moment(5))


def test_a_late_event_and_the_making_of_spans_wait_for_each_other(connection: psycopg.Connection, url: str) -> None:
    for second in (1, 2, 3, 4):
        insert(connection, some_event(second))
    with psycopg.connect(url) as inserting:
        insert(inserting, some_event(2, -99))
        with pytest.raises(psycopg.errors.LockNotAvailable):
            make(connection)
    with psycopg.connect(url) as making, psycopg.connect(url, autocommit=True) as inserting:
        assert make(making) == 2
        inserting.execute("set lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            insert(inserting, some_event(1, 99))
        making.commit()
        insert(inserting, some_event(1, 99))
    assert [span[2:] for span in made(connection)] == [(moment(0), moment(99)), (moment(-99), moment(0))]


def test_a_late_event_is_refused_where_a_new_span_would_not_be_seen(connection: psycopg.Connection, url: str) -> None:
    with psycopg.connect(url) as inserting:
        inserting.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        insert(inserting, event_row(created_at=datetime.now(UTC) - timedelta(seconds=5)))
        with pytest.raises(psycopg.errors.RaiseException):
            insert(inserting, event_row(created_at=datetime.now(UTC) - timedelta(seconds=11)))
    assert one(connection, "select count(*) from headrace.events") == 0


def test_a_database_restored_elsewhere_goes_on(connection: psycopg.Connection) -> None:
    for second in (1, 2, 3, 4):
        insert(connection, some_event(second))
    connection.execute("update headrace.spans_progress set next_to = now(), next_xid = '999999999'")
    assert one(connection, "select headrace.make_spans(2, 100)") == 0
    assert make(connection) == 1


QUARTER = timedelta(milliseconds=250)
NOTE = "select headrace.note_fresh(%s, %s, %s, %s, %s)"


def fresh(connection: psycopg.Connection) -> list[Row]:
    """All fresh spans in order, whoever wrote them."""
    return connection.execute(
        """select created_from, event_min, event_max, events from headrace.fresh_spans
           where created_from > '-infinity' order by 1, 2"""
    ).fetchall()


def untold(connection: psycopg.Connection) -> list[timedelta]:
    """How far ahead the spans lie which say that events may lie anywhere."""
    return [
        ahead
        for (ahead,) in connection.execute(
            """select created_from - now() from headrace.fresh_spans
               where event_min = '-infinity' and event_max = 'infinity' and events = 0"""
        )
    ]


def test_what_is_noted_is_put_together_by_quarters_of_a_second(connection: psycopg.Connection, url: str) -> None:
    begin, end = moment(1) + timedelta(milliseconds=100), moment(1) + timedelta(milliseconds=499)
    connection.execute(NOTE, [begin, end, moment(5), moment(6), 7])
    connection.execute(NOTE, [end, end, moment(3), moment(4), 2])
    with psycopg.connect(url) as other:
        other.execute(NOTE, [end, end, moment(8), moment(9), 1])
    assert fresh(connection) == [
        (moment(1), moment(5), moment(6), 7),
        (moment(1) + QUARTER, moment(3), moment(6), 9),
        (moment(1) + QUARTER, moment(8), moment(9), 1),
    ]


def test_two_that_insert_at_one_moment_do_not_wait_for_each_other(connection: psycopg.Connection, url: str) -> None:
    with psycopg.connect(url) as other:
        other.execute(NOTE, [moment(1), moment(1), moment(8), moment(9), 1])
        connection.execute("set lock_timeout = '50ms'")
        connection.execute(NOTE, [moment(1), moment(1), moment(5), moment(6), 1])


@pytest.mark.parametrize("noted", [True, False])
def test_events_of_which_nothing_is_told_are_noticed(connection: psycopg.Connection, url: str, *, noted: bool) -> None:
    with psycopg.connect(url) as inserting:
        with inserting.transaction():
            # What another transaction has told, and what is undone, says nothing of these.
            inserting.execute(NOTE, [moment(1), moment(1), moment(0), moment(0), 1])
        with inserting.transaction(force_rollback=True):
            inserting.execute(NOTE, [moment(1), moment(1), moment(0), moment(0), 1])
        if noted:
            inserting.execute(NOTE, [moment(1), moment(1), moment(0), moment(0), 1])
        insert(inserting, some_event(1))
    assert len(untold(connection)) == (0 if noted else 1)


def test_what_a_copier_inserts_without_ordinary_triggers_is_noticed_too(connection: psycopg.Connection) -> None:
    """A subscriber of logical replication, a restore with triggers disabled; only a superuser can act as one."""
    assert one(connection, "select tgenabled from pg_trigger where tgname = 'events_untold'") == "A"


def test_it_is_noticed_once_in_a_while_that_nothing_is_told(connection: psycopg.Connection, url: str) -> None:
    """Whoever inserts without a word does not wait each time for another who does."""
    with psycopg.connect(url) as other:
        insert(other, some_event(1))
        connection.execute("set lock_timeout = '50ms'")
        insert(connection, some_event(2))
        insert(connection, some_event(3))
        assert len(untold(connection)) == 1
    connection.execute("update headrace.fresh_spans set created_from = created_from - interval '31 minutes'")
    insert(connection, some_event(4))
    assert sorted(round(ahead / timedelta(minutes=1)) for ahead in untold(connection)) == [29, 29, 60]


@pytest.mark.parametrize("removal", ["delete from headrace.spans", "truncate headrace.spans"])
def test_of_events_whose_spans_are_removed_nothing_is_told(connection: psycopg.Connection, removal: str) -> None:
    insert(connection, some_event(1))
    insert(connection, some_event(2))
    assert make(connection, events=1) == 1
    connection.execute("delete from headrace.fresh_spans where created_from > '-infinity'")
    connection.execute("update headrace.spans set event_max = event_max")
    assert untold(connection) == []
    connection.execute(removal.encode())
    assert len(untold(connection)) == 1


@pytest.mark.anyio
async def test_a_gateway_forgets_what_is_in_spans_and_nothing_else(connection: psycopg.Connection, url: str) -> None:
    for second in range(6):
        connection.execute(NOTE, [moment(second), moment(second) + QUARTER, moment(0), moment(0), 1])
    connection.execute("insert into headrace.spans values ('-infinity', %s, %s, %s)", [moment(3), moment(0), moment(0)])
    async with database_at(url) as database:
        with psycopg.connect(url) as inserting:  # one that is held is left
            inserting.execute("select from headrace.fresh_spans where created_from = %s for update", [moment(0)])
            assert await Spans(database).forget() == 5
        assert await Spans(database).forget() == 1
    left = [moment(3), moment(3) + QUARTER, moment(4), moment(4) + QUARTER, moment(5), moment(5) + QUARTER]
    assert [begin for begin, *_ in fresh(connection)] == left
    connection.execute("update headrace.spans set created_to = %s", [moment(3) + QUARTER - timedelta(microseconds=1)])
    async with database_at(url) as database:  # a part of the first quarter is in no span
        assert await Spans(database).forget() == 0


@pytest.mark.anyio
async def test_a_gateway_makes_spans_and_waits_where_it_cannot(
    connection: psycopg.Connection, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "EVENTS_PER_SPAN", 2)
    monkeypatch.setattr(spans, "_PAUSE_S", 0.05)
    insert_events(url, [some_event(second) for second in range(9)])
    async with database_at(url) as database:
        with psycopg.connect(url) as inserting:
            insert(inserting, some_event(0, 30))
            assert await Spans(database).make() == 0
        making = Spans(database)
        making.start()
        async with asyncio.timeout(10):
            while len(made(connection)) < 4:  # noqa: ASYNC110 - another process's work has no event
                await asyncio.sleep(0.02)
        await making.stop()
        assert made(connection)[0][3] == moment(30)
