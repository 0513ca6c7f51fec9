"""The list route's query: parameters, their errors, and that the SQL finds what a plain filter over all rows finds."""

import re
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.cursors import Position, Signer
from gateway.pages import page_sql
from gateway.problems import ApiError
from gateway.queries import FILTERS, ListQuery, read_query
from tests.gateway.rows import T0, copies, event_row

SIGNER = Signer(b"secret")
UUID = "550e8400-e29b-41d4-a716-446655440000"


def read(**parameters: str) -> ListQuery:
    return read_query(urlencode(parameters).encode(), SIGNER)


def refused(query_string: bytes) -> list[tuple[str, str]]:
    with pytest.raises(ApiError) as caught:
        read_query(query_string, SIGNER)
    assert caught.value.code.code == "invalid_request"
    for error in caught.value.errors:
        assert error["field"] in caught.value.message
        assert error["message"] in caught.value.message
    return [(error["field"], error["message"]) for error in caught.value.errors]


def test_defaults() -> None:
    assert read() == ListQuery((), "created_at", "desc", 50, None)


def test_values_take_their_canonical_form() -> None:
    query = read(program_id=UUID.upper(), to="2026-01-01T01:00:00.50+01:00", limit="200", sort_dir="asc")
    assert query.filters == (("program_id", UUID), ("to", "2026-01-01T00:00:00.5Z"))
    assert (query.limit, query.sort_dir) == (200, "asc")


def test_an_unescaped_plus_is_understood() -> None:
    assert read_query(b"from=2026-01-01T01:00:00+01:00", SIGNER).filters == (("from", "2026-01-01T00:00:00Z"),)


@pytest.mark.parametrize(
    ("query", "field", "message"),
    [
        (b"colour=red", "colour", "is not a parameter of this route"),
        (b"limit=1&limit=1", "limit", "is given twice"),
        (b"limit=0", "limit", "must be a whole number from 1 to 200"),
        (b"limit=201", "limit", "must be a whole number from 1 to 200"),
        (b"limit=1.0", "limit", "must be a whole number from 1 to 200"),
        (b"limit=%D9%A1", "limit", "must be a whole number from 1 to 200"),
        (b"limit=99999999999999999999", "limit", "must be a whole number from 1 to 200"),
        (b"program_id=x", "program_id", "must be a UUID"),
        (b"participant_id=550e8400e29b41d4a716446655440000", "participant_id", "must be a UUID"),
        (b"recipient_id=", "recipient_id", "must be a UUID"),
        (b"status=completed", "status", "must be one of PENDING, PROCESSING, COMPLETED, FAILED"),
        (b"event_type=INTERNAL", "event_type", "must be one of EXTERNAL, SYSTEM"),
        (b"external_id=", "external_id", "must be 1 to 255 characters"),
        (b"external_id=%00", "external_id", "contains a NUL character, which no event has"),
        (b"idempotency_key=" + b"k" * 256, "idempotency_key", "must be 1 to 255 characters"),
        (b"from=2026-01-01", "from", "must be RFC 3339 with an offset, such as 2024-01-15T10:30:00Z"),
        (b"event_to=2026-01-01T00:00:00", "event_to", "must be RFC 3339 with an offset, such as 2024-01-15T10:30:00Z"),
        (b"sort_by=status", "sort_by", "must be one of created_at, event_timestamp"),
        (b"sort_dir=up", "sort_dir", "must be one of desc, asc"),
        (b"cursor=abc", "cursor", "is not a cursor"),
        (b"cursor=", "cursor", "is not a cursor"),
    ],
)
def test_wrong_parameters_are_named(query: bytes, field: str, message: str) -> None:
    assert refused(query) == [(field, message)]


def test_all_wrong_parameters_are_named_at_once() -> None:
    assert [field for field, _ in refused(b"limit=0&status=x&x=1")] == ["limit", "status", "x"]


@pytest.mark.parametrize("query", [b"external_id=%FF", b"external_id=\xff", b"a=1&" * 101, b"external_id=%ED%A0%80"])
def test_what_cannot_be_read_at_all_is_refused(query: bytes) -> None:
    assert len(refused(query)) == 1


@given(st.binary(max_size=60))
def test_any_query_string_is_read_or_refused(query: bytes) -> None:
    try:
        read_query(query, SIGNER)
    except ApiError as error:
        assert error.code.code == "invalid_request"  # noqa: PT017 - both ways are good


def test_a_cursor_goes_with_its_filters_order_and_no_other() -> None:
    position = Position(T0, bytes(16))
    query = read(status="FAILED", sort_by="event_timestamp")
    cursor = SIGNER.encode(position, query.digest)
    assert read(status="FAILED", sort_by="event_timestamp", cursor=cursor, limit="7").after == position
    for other in ({"sort_by": "event_timestamp"}, {"status": "FAILED"}, {"status": "FAILED", "sort_dir": "asc"}):
        wrong = refused(urlencode({**other, "cursor": cursor}).encode())
        assert wrong == [("cursor", "belongs to a query with other filters or another order")]


# A model of the filters: what each asks of a row, in plain Python.
PROGRAMS = [str(uuid.UUID(int=number, version=4)) for number in (1, 2, 3)]
PEOPLE = [str(uuid.UUID(int=number, version=4)) for number in (11, 12)]
NAMES = ["a", "a ", "A", "%", "ü", "'; --"]
INSTANTS = [T0 + timedelta(microseconds=number) for number in (0, 1, 2, 1_000_000)]
OFFSETS = [0, 65_535, 65_536, 2**40]  # in three eras
MODEL: dict[str, Any] = {
    "program_id": lambda row, value: row["program_id"] == value,
    "status": lambda row, value: row["status"] == value,
    "event_type": lambda row, value: row["event_type"] == value,
    "participant_id": lambda row, value: row["participant_id"] == value,
    "external_id": lambda row, value: row["external_id"] == value,
    "recipient_id": lambda row, value: row["recipient_id"] == value,
    "idempotency_key": lambda row, value: row["idempotency_key"] == value,
    "from": lambda row, value: row["created_at"] >= value,
    "to": lambda row, value: row["created_at"] < value,
    "event_from": lambda row, value: row["event_timestamp"] >= value,
    "event_to": lambda row, value: row["event_timestamp"] < value,
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "program_id": st.sampled_from(PROGRAMS),
    "status": st.sampled_from(["PENDING", "PROCESSING", "COMPLETED", "FAILED"]),
    "event_type": st.sampled_from(["EXTERNAL", "SYSTEM"]),
    "participant_id": st.sampled_from(PEOPLE),
    "external_id": st.sampled_from(NAMES),
    "recipient_id": st.sampled_from(PEOPLE),
    "idempotency_key": st.sampled_from(NAMES),
    "from": st.sampled_from(INSTANTS),
    "to": st.sampled_from(INSTANTS),
    "event_from": st.sampled_from(INSTANTS),
    "event_to": st.sampled_from(INSTANTS),
}


def test_the_model_knows_every_filter() -> None:
    assert MODEL.keys() == FILTERS.keys() == VALUES.keys()


@st.composite
def some_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    def row() -> dict[str, Any]:
        return event_row(
            program_id=draw(st.sampled_from(PROGRAMS)),
            idempotency_key=draw(st.sampled_from(NAMES)),
            status=draw(VALUES["status"]),
            event_type=draw(VALUES["event_type"]),
            participant_id=draw(st.none() | st.sampled_from(PEOPLE)),
            external_id=draw(st.none() | st.sampled_from(NAMES)),
            recipient_id=draw(st.none() | st.sampled_from(PEOPLE)),
            created_at=draw(st.sampled_from(INSTANTS)),
            event_timestamp=draw(st.sampled_from(INSTANTS)),
            kafka_offset=draw(st.sampled_from(OFFSETS)),
        )

    return [row() for _ in range(draw(st.integers(1, 20)))]


def text_of(value: Any) -> str:  # noqa: ANN401 - any filter's value
    return value.isoformat() if isinstance(value, datetime) else str(value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=some_rows(),
    filters=st.lists(st.sampled_from(sorted(FILTERS)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: VALUES[name] for name in names})
    ),
    sort_by=st.sampled_from(["created_at", "event_timestamp"]),
    sort_dir=st.sampled_from(["asc", "desc"]),
    limit=st.integers(1, 6),
    allowed=st.none() | st.sets(st.sampled_from(PROGRAMS)),
)
def test_pages_hold_what_the_model_holds(  # noqa: PLR0913, PLR0917 - one argument per generated input
    database: psycopg.Connection,
    rows: list[dict[str, Any]],
    filters: dict[str, Any],
    sort_by: str,
    sort_dir: str,
    limit: int,
    allowed: set[str] | None,
) -> None:
    expected = [
        row
        for row in rows
        if all(MODEL[name](row, value) for name, value in filters.items())
        and (allowed is None or row["program_id"] in allowed)
    ]
    expected.sort(key=lambda row: (row[sort_by], row["id"]), reverse=sort_dir == "desc")
    database.execute("truncate pg_temp.events")
    put(database, rows)
    parameters = {name: text_of(value) for name, value in filters.items()}
    parameters |= {"sort_by": sort_by, "sort_dir": sort_dir, "limit": str(limit)}
    programs = None if allowed is None else frozenset(uuid.UUID(each).bytes for each in allowed)
    found: list[str] = []
    while True:
        query = read(**parameters)
        statement, params = page_sql(query, f"id::text, {sort_by}, uuid_send(id)", programs)
        page = database.execute(on_the_copy(statement), params).fetchall()
        found += [row[0] for row in page[:limit]]
        assert len(found) <= len(expected)
        if len(page) <= limit:
            break
        parameters["cursor"] = SIGNER.encode(Position(page[limit - 1][1], page[limit - 1][2]), query.digest)
    assert found == [row["id"] for row in expected]


def put(database: psycopg.Connection, rows: list[dict[str, Any]]) -> None:
    with database.cursor() as cursor, cursor.copy(f"copy pg_temp.events ({', '.join(rows[0])}) from stdin") as copy:
        for row in rows:
            copy.write_row(list(row.values()))


def on_the_copy(statement: str) -> bytes:
    return re.sub(r"headrace\.(events|spans|fresh_spans)\b", r"pg_temp.\1", statement).encode()


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection with empty copies of the tables, indexes included: other tests' events stay out of it."""
    with copies(database_url) as connection:
        yield connection
