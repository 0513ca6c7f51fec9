"""What a page costs: for every filter, value and order the right index, and no more rows than a page needs."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

import psycopg
import pytest

from gateway import names, reaches, windows
from gateway.cursors import Position, Signer
from gateway.pages import page_sql
from gateway.queries import ListQuery, read_query
from tests.gateway.rows import copies
from tests.gateway.test_queries import on_the_copy

EVENTS = 100_000
ERAS = 4
LIMIT = 50
START = datetime(2026, 1, 1, tzinfo=UTC)
ABSENT = "00000000-0000-4000-8000-000000000000"
COMMON_PROGRAM, RARE_PROGRAM = (f"10000000-0000-4000-8000-{number:012}" for number in (1, 7))
COMMON_PERSON, RARE_PERSON = (f"20000000-0000-4000-8000-{number:012}" for number in (1, 7))

ONE_PROGRAM = f"case when n % 1000 = 1 then '{RARE_PROGRAM}'::uuid else '{COMMON_PROGRAM}' end"

# One event in a thousand is rare in each respect; all the others are common.
FILL = f"""
insert into pg_temp.events
       (id, program_id, idempotency_key, fingerprint, event_timestamp, external_id, participant_id, recipient_id,
        event_data, status, event_type, attempts, received_at, created_at, updated_at, kafka_partition, kafka_offset,
        counted_offset)
select gen_random_uuid(), {ONE_PROGRAM},
       'key-' || n, gen_random_uuid(), at - make_interval(mins => n % 7),
       case when n % 1000 = 2 then 'rare' else 'common' end,
       case when n % 1000 = 3 then '{RARE_PERSON}'::uuid else '{COMMON_PERSON}' end,
       case when n % 1000 = 4 then '{RARE_PERSON}'::uuid else '{COMMON_PERSON}' end,
       '{{}}', case when n % 1000 = 5 then 'FAILED'::headrace.status else 'COMPLETED' end,
       case when n % 1000 = 6 then 'SYSTEM'::headrace.event_type else 'EXTERNAL' end, 1, at, at, at, 0,
       n * {ERAS}::bigint * 65536 / {EVENTS}, 0
from (select n, timestamptz '{START.isoformat()}' + n * interval '1 second' as at
      from generate_series(0, {EVENTS - 1}) n) numbered
"""  # noqa: S608 - of literals

MIDDLE = EVENTS // 60 // 2  # minutes
SPAN = 500  # events
MINUTES_APART = 7  # the two times, at the most
# Of all but the newest events.
SPANS = f"""
insert into pg_temp.spans
select lag(created_to, 1, '-infinity') over (order by created_to), created_to, event_min, event_max
from (select max(created_at) + interval '1 microsecond' as created_to,
             min(event_timestamp) as event_min, max(event_timestamp) as event_max
      from (select *, row_number() over (order by created_at) - 1 as number from pg_temp.events) numbered
      group by number / {SPAN}) spans
order by created_to limit {EVENTS // SPAN - 1}
"""  # noqa: S608 - of literals
# Of these, as a worker would have told.
FRESH = """
insert into pg_temp.fresh_spans select created_at, 0, event_timestamp, event_timestamp, 1 from pg_temp.events
where created_at >= (select max(created_to) from pg_temp.spans)
"""


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection with a full copy of the table, indexes included, and what the planner should know of it."""
    with copies(database_url) as connection:
        connection.execute(FILL.encode())
        connection.execute(SPANS.encode())
        connection.execute(FRESH)
        connection.execute("vacuum (analyze) pg_temp.events, pg_temp.spans")
        yield connection


class Cost(NamedTuple):
    """What a statement did: rows that its scans looked at, blocks of 8 kB, and the indexes (their columns) it used.

    Rows of events and spans: fresh spans are far more here than where quarters of a second hold many events.
    Entries that an index is read past, since their condition is the index' own, are among the blocks alone.
    """

    rows: int
    blocks: int
    indexes: set[str]
    plan: str


def explained(database: psycopg.Connection, query: ListQuery, programs: frozenset[bytes] | None = None) -> Cost:
    statement, params = page_sql(query, "id, event_data", programs)
    copied = on_the_copy(statement)
    row = database.execute(b"explain (analyze, buffers, format json) " + copied, params).fetchone()
    assert row is not None
    nodes = list(_nodes(row[0][0]["Plan"]))
    plan = json.dumps(row[0], indent=1)
    assert not [each for each in nodes if each["Node Type"] == "Seq Scan" and each["Relation Name"] == "events"], plan
    fresh = [each for each in nodes if each.get("Relation Name") == "fresh_spans"]
    scans = [each for each in nodes if each.get("Relation Name") == "events" or "Index Name" in each]
    scans = [each for each in scans if each not in fresh]
    looked_at = sum(
        node["Actual Loops"]
        * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0))
        for node in scans
    )
    used = {node["Index Name"] for node in scans if "Index Name" in node and node["Actual Loops"]}
    blocks = nodes[0]["Local Hit Blocks"] + nodes[0]["Local Read Blocks"]
    return Cost(int(looked_at), blocks, {_columns(database, name) for name in used}, plan)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _columns(database: psycopg.Connection, index: str) -> str:
    (definition,) = database.execute("select pg_get_indexdef(%s::regclass)", [index]).fetchone() or ("",)
    return str(definition).split(" btree ")[1].split(" INCLUDE ")[0]


def query(**parameters: str) -> ListQuery:
    return read_query(urlencode({"limit": str(LIMIT), **parameters}).encode(), Signer(b"secret"))


BY_KIND = {
    "created_at": "(status, event_type, created_at, id)",
    "event_timestamp": "(era, status, event_type, event_timestamp, id)",
}
BY_PROGRAM = {
    "created_at": "(program_id, status, event_type, created_at, id)",
    "event_timestamp": "(era, program_id, status, event_type, event_timestamp, id)",
}
CASES: list[tuple[dict[str, str], dict[str, str]]] = [
    ({}, BY_KIND),
    *(({"status": status}, BY_KIND) for status in ("COMPLETED", "FAILED", "PENDING")),
    *(({"event_type": event_type}, BY_KIND) for event_type in ("EXTERNAL", "SYSTEM")),
    *(({"program_id": program}, BY_PROGRAM) for program in (COMMON_PROGRAM, RARE_PROGRAM, ABSENT)),
    *(
        ({"program_id": program, "status": status, "event_type": event_type}, BY_PROGRAM)
        for program in (COMMON_PROGRAM, RARE_PROGRAM)
        for status in ("COMPLETED", "FAILED")
        for event_type in ("EXTERNAL", "SYSTEM")
    ),
]


@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("sort_by", ["created_at", "event_timestamp"])
@pytest.mark.parametrize("page", [1, 100])
@pytest.mark.parametrize(("parameters", "indexes"), CASES)
def test_lists_by_kind_read_a_page_from_each_place(
    database: psycopg.Connection,
    parameters: dict[str, str],
    indexes: dict[str, str],
    page: int,
    sort_by: str,
    sort_dir: str,
) -> None:
    wanted = query(**parameters, sort_by=sort_by, sort_dir=sort_dir)
    if page > 1:
        wanted = ListQuery(wanted.filters, sort_by, sort_dir, LIMIT, Position(START + timedelta(hours=9), bytes(16)))
    cost = explained(database, wanted)
    assert indexes[sort_by] in cost.indexes, cost.plan
    places = 3 * (1 if sort_by == "created_at" else ERAS)  # that hold anything
    assert cost.rows <= (places + 1) * (LIMIT + 1) + ERAS + 1, cost.plan


MANY_PROGRAMS = (
    f"case when n % 10 = 0 then '{COMMON_PROGRAM}'::uuid else md5((hashtext(n::text) % 350)::text)::uuid end"
)


def test_a_heavy_program_among_many_light_ones_is_not_read_like_one_of_them(database_url: str) -> None:
    """While a table is small, a program has less than a page on average: reading all of it and sorting looks cheap."""
    with copies(database_url) as database:
        database.execute(FILL.replace(ONE_PROGRAM, MANY_PROGRAMS).encode())
        database.execute("analyze pg_temp.events")  # and not vacuumed yet, as under load
        for beside in ({}, {"status": "COMPLETED"}):
            for sort_dir in ("asc", "desc"):
                cost = explained(database, query(program_id=COMMON_PROGRAM, **beside, sort_dir=sort_dir))
                assert cost.rows <= 5 * (LIMIT + 1), cost.plan


@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("sort_by", ["created_at", "event_timestamp"])
@pytest.mark.parametrize("beside", [{}, {"program_id": COMMON_PROGRAM}, {"status": "COMPLETED"}])
@pytest.mark.parametrize(
    "parameters",
    [
        {"external_id": "common"},
        {"external_id": "rare"},
        {"external_id": "absent"},
        {"participant_id": COMMON_PERSON},
        {"participant_id": RARE_PERSON},
        {"participant_id": ABSENT},
        {"recipient_id": COMMON_PERSON},
        {"recipient_id": RARE_PERSON},
        {"recipient_id": ABSENT},
        {"idempotency_key": "key-77777"},
        {"idempotency_key": "absent"},
    ],
)
def test_lists_by_name_go_from_era_to_era(
    database: psycopg.Connection, parameters: dict[str, str], beside: dict[str, str], sort_by: str, sort_dir: str
) -> None:
    cost = explained(database, query(**parameters, **beside, sort_by=sort_by, sort_dir=sort_dir))
    (column, value), *_ = parameters.items()
    index = "(era, hashtext(idempotency_key))" if column == "idempotency_key" else f"(era, {column}, created_at, id)"
    assert index in cost.indexes, cost.plan
    if sort_by == "created_at" or value not in {"common", COMMON_PERSON}:
        assert cost.rows <= 2 * (ERAS + 1) * (LIMIT + 1), cost.plan
    else:  # a few of each era, and the spans that may hold better ones
        looked_at = names.params()["looked_at"]
        assert cost.rows <= ERAS * looked_at + 4 * SPAN + 3 * MINUTES_APART * 60 + (2 * ERAS + 1) * (LIMIT + 1), (
            cost.plan
        )
        assert '"Index Only Scan"' in cost.plan


def window(first_minute: int, minutes: int, *names: str) -> dict[str, str]:
    begin = START + timedelta(minutes=first_minute)
    return dict(zip(names, (begin.isoformat(), (begin + timedelta(minutes=minutes)).isoformat()), strict=True))


@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("sort_by", ["created_at", "event_timestamp"])
@pytest.mark.parametrize("beside", [{}, {"program_id": COMMON_PROGRAM}, {"status": "FAILED"}])
@pytest.mark.parametrize("names", [("from", "to"), ("event_from", "event_to")])
@pytest.mark.parametrize(("first_minute", "minutes"), [(800, 10), (800, 0), (90_000, 60), (-90_000, 60)])
def test_a_narrow_window_costs_its_own_events(  # noqa: PLR0913, PLR0917 - one argument per parameter
    database: psycopg.Connection,
    first_minute: int,
    minutes: int,
    names: tuple[str, str],
    beside: dict[str, str],
    sort_by: str,
    sort_dir: str,
) -> None:
    given = window(first_minute, minutes, *names)
    cost = explained(database, query(**given, **beside, sort_by=sort_by, sort_dir=sort_dir))
    assert cost.rows <= 10 * 60 + (3 * ERAS + 1) * (LIMIT + 1), cost.plan


COLLECTED_MAX = 100


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that stand to these events as the real ones to some millions."""
    monkeypatch.setattr(windows, "COLLECTED_MAX", COLLECTED_MAX)
    monkeypatch.setattr(reaches, "_SPANS_READ", 2)


def window_cost(places: int, spans_read: int) -> int:
    """Rows that a page may look at: what tells that its window is wide, some spans, a page of each place."""
    at_edges = 3 * MINUTES_APART * 60  # events that are within the window by the one time and not by the other
    return COLLECTED_MAX + 1 + spans_read * SPAN + at_edges + (places + 1) * (LIMIT + 1) + ERAS + 1


# To enter an index for each kind in some spans and in each era takes most of them; all entries of an index are 800.
BLOCKS_MAX = 500
WIDE = {
    "an hour long ago": (200, 60),
    "an hour in the middle": (MIDDLE, 60),
    "to the middle": (-1_000_000, 1_000_000 + MIDDLE),
    "from the middle": (MIDDLE, 1_000_000),
    "everything": (-1_000_000, 2_000_000),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("sort_by", ["created_at", "event_timestamp"])
@pytest.mark.parametrize("beside", [{}, {"program_id": COMMON_PROGRAM}, {"status": "COMPLETED"}])
@pytest.mark.parametrize("page", ["first", "in the middle", "last"])
@pytest.mark.parametrize("name", WIDE)
def test_a_wide_window_costs_some_spans_wherever_it_lies(
    database: psycopg.Connection, name: str, page: str, beside: dict[str, str], sort_by: str, sort_dir: str
) -> None:
    names = ("event_from", "event_to") if sort_by == "created_at" else ("from", "to")
    first_minute, minutes = WIDE[name]
    wanted = query(**window(first_minute, minutes, *names), **beside, sort_by=sort_by, sort_dir=sort_dir)
    if page != "first":
        begin, end = max(0, first_minute), min(EVENTS // 60, first_minute + minutes)
        last = begin if sort_dir == "desc" else end
        minute = last if page == "last" else (begin + end) // 2
        position = Position(START + timedelta(minutes=minute), bytes(16))
        wanted = ListQuery(wanted.filters, sort_by, sort_dir, LIMIT, position)
    cost = explained(database, wanted)
    places = 3 * (1 if sort_by == "created_at" else ERAS)
    assert cost.rows <= window_cost(places, spans_read=3), cost.plan
    assert cost.blocks <= BLOCKS_MAX, cost.plan


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("beside", [{}, {"program_id": COMMON_PROGRAM}, {"status": "COMPLETED"}])
def test_a_page_of_the_oldest_does_not_look_at_the_newest(database: psycopg.Connection, beside: dict[str, str]) -> None:
    """Under load there are very many events that are in no span yet."""
    wanted = query(**window(200, 60, "event_from", "event_to"), **beside, sort_by="created_at", sort_dir="asc")
    with database.transaction(force_rollback=True):
        database.execute("delete from pg_temp.spans where created_to > %s", [START + timedelta(minutes=MIDDLE)])
        cost = explained(database, wanted)
    assert cost.rows <= window_cost(places=3, spans_read=3), cost.plan


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("beside", [{}, {"program_id": COMMON_PROGRAM}, {"status": "COMPLETED"}])
@pytest.mark.parametrize(
    ("sort_by", "names", "first_minute"),
    [
        (
            "created_at",
            ("event_from", "event_to"),
            200,
        ),  # all of the newest are later than the window
        ("created_at", ("event_from", "event_to"), EVENTS // 60 - 200),
        ("event_timestamp", ("from", "to"), EVENTS // 60 - 200),
    ],
)
def test_a_page_of_the_newest_does_not_look_at_all_that_are_in_no_span(
    database: psycopg.Connection, sort_by: str, names: tuple[str, str], first_minute: int, beside: dict[str, str]
) -> None:
    wanted = query(**window(first_minute, 60, *names), **beside, sort_by=sort_by, sort_dir="desc")
    with database.transaction(force_rollback=True):
        database.execute("delete from pg_temp.spans where created_to > %s", [START + timedelta(minutes=MIDDLE)])
        database.execute("delete from pg_temp.fresh_spans where created_from > '-infinity'")
        database.execute(FRESH)
        database.execute("analyze pg_temp.spans, pg_temp.fresh_spans")
        cost = explained(database, wanted)
        everything = explained(database, query(**window(*WIDE["everything"], *names), sort_by=sort_by, sort_dir="desc"))
        database.execute("insert into pg_temp.fresh_spans values ('9999-01-01', 0, '-infinity', 'infinity', 0)")
        blind = explained(database, wanted)
    assert cost.rows <= window_cost(places=3 * ERAS, spans_read=3), cost.plan
    # The first of them fill the page: the others are not begun.
    assert everything.rows <= COLLECTED_MAX + (3 if sort_by == "created_at" else 40) * (LIMIT + 1) + 4 * SPAN, (
        everything.plan
    )
    assert blind.rows > EVENTS // 4 or first_minute > MIDDLE


FAR_OFF = """
update pg_temp.events set event_timestamp = %(far)s where id in (
    select id from pg_temp.events where status = 'COMPLETED' and event_type = 'EXTERNAL'
    and created_at in (select %(begin)s + n * interval '20 minutes' from generate_series(1, %(events)s) n)
)
"""
WIDER = """
update pg_temp.spans set event_min = least(event_min, %(far)s), event_max = greatest(event_max, %(far)s)
where exists (select from generate_series(1, %(events)s) n
              where %(begin)s + n * interval '20 minutes' between created_from and created_to)
"""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize(("events", "spans_read"), [(1, 3), (10, 23)])
def test_single_events_far_from_all_others_make_no_walk_longer(
    database: psycopg.Connection, events: int, spans_read: int, sort_dir: str
) -> None:
    first_minute = MIDDLE if sort_dir == "asc" else MIDDLE - 400
    far = START + timedelta(days=365 if sort_dir == "desc" else -365)
    given = {"far": far, "begin": START + timedelta(minutes=first_minute), "events": events}
    wanted = query(**window(first_minute, 400, "from", "to"), sort_by="event_timestamp", sort_dir=sort_dir)
    with database.transaction(force_rollback=True):
        assert database.execute(FAR_OFF, given).rowcount >= events * 0.9
        database.execute(WIDER, given)
        cost = explained(database, wanted)
    assert cost.rows <= window_cost(3 * ERAS, spans_read), cost.plan


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("sort_dir", ["asc", "desc"])
@pytest.mark.parametrize("sort_by", ["created_at", "event_timestamp"])
def test_two_windows_together_cost_no_more(database: psycopg.Connection, sort_by: str, sort_dir: str) -> None:
    wide, narrow = (("from", "to"), ("event_from", "event_to"))
    if sort_by == "created_at":
        wide, narrow = narrow, wide
    given = {**window(0, 1_000_000, *wide), **window(MIDDLE, 5, *narrow)}
    cost = explained(database, query(**given, sort_by=sort_by, sort_dir=sort_dir))
    assert cost.rows <= window_cost(3 * ERAS, spans_read=3), cost.plan


def test_a_limited_key_reads_a_page_of_each_program(database: psycopg.Connection) -> None:
    programs = frozenset(bytes.fromhex(each.replace("-", "")) for each in (RARE_PROGRAM, ABSENT))
    cost = explained(database, query(), programs)
    assert BY_PROGRAM["created_at"] in cost.indexes
    assert cost.rows <= 2 * (LIMIT + 1) + ERAS + 1, cost.plan
    assert explained(database, query(program_id=COMMON_PROGRAM), programs).rows == 0
