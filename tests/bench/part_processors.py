"""The processors: a prepared backlog is drained by ours, by plain Faust, and by what does only a part of the work.

Ours twice: the default path, and the minimal one that does what the others do: dedupe and one row, a primary key and
one index, no handlers.
"""

from collections.abc import Iterator

import psycopg
from psycopg import sql

from processors.rows import COLUMNS
from tests.bench import backlog
from tests.bench.bed import Bed, row
from tests.bench.cpu import ratio
from tests.bench.drains import Drained, drain, drain_plainly, floor
from tests.bench.floors import write_streams
from tests.bench.payloads import key
from tests.bench.plain_faust import TABLE
from tests.bench.report import Goal, Row
from tests.bench.sizes import Sizes
from tests.stack import Backend

PART = "processors"
_TOPIC = "events"
_PLAIN_TOPIC = "bench.plain"
_MINIMAL_GROUP = "headrace-minimal"
_COPY_ROWS = 4_000  # as many as a chunk has
_FIND = sql.SQL("declare found no scroll cursor for select ctid from headrace.events limit {}")
# The hash of jsonb takes 400.0 and 400 for the same value, as the contract does; texts would differ.
_DIGEST = sql.SQL("""
select count(*), sum(hashtextextended(row(a.*)::text, 0))
from (select id, program_id, idempotency_key, event_timestamp, external_id, status::text,
             jsonb_hash_extended(event_data, 0) from {}) a
""")


def measure(bed: Bed, sizes: Sizes) -> Iterator[Row]:
    """The rows of this part."""
    bed.new_topics()
    default = bed.new_database()
    minimal = bed.new_database(_MINIMAL_GROUP)
    _drop_indexes(minimal)
    backlog.make_topic(bed.kafka, _PLAIN_TOPIC)
    backlog.fill(bed.kafka, _TOPIC, sizes.backlog_records)
    backlog.fill(bed.kafka, _PLAIN_TOPIC, sizes.plain_records)

    consumed = floor(bed, "consume", bed.kafka, _TOPIC, str(sizes.backlog_records))
    fetching_us = consumed.us_per_event(sizes.backlog_records)
    plain, plain_database = _drain_plainly(bed, sizes)
    ours: dict[str, Drained] = {}
    copying: dict[str, dict[str, float]] = {}
    for name, database, settings in (
        ("default", default, {}),
        ("minimal", minimal, {"handlers": "", "group": _MINIMAL_GROUP}),
    ):
        bed.checkpoint()
        ours[name] = drain(bed, bed.stack(database, f"worker-{name}", **settings), database, sizes.backlog_records)
        _check(database, sizes.backlog_records)
        _compare_rows(database, plain_database, sizes.plain_records)
        copying[name] = _copy_only(bed, database, sizes, minimal=name == "minimal")

    yield _ours("processors, default path", ours["default"], plain, fetching_us, copying["default"], [20, 20])
    yield _ours("processors, minimal path", ours["minimal"], plain, fetching_us, copying["minimal"], [15, 12, 45_000])
    yield Row(
        "baseline: plain Faust, minimal work",
        PART,
        events_per_s=plain.records / plain.spent.seconds,
        process_us=plain.us("process"),
        postgres_us=plain.us("postgres"),
        kafka_us=plain.us("kafka"),
        settings={"acks": "all", "records": sizes.plain_records, "duplicates": backlog.DUPLICATES},
        details={"seconds_with_start": plain.seconds_with_start, "peak_mb": plain.peak_mb, "same_rows": True},
    )
    yield _floor_row("limit: consume only", fetching_us, sizes.backlog_records / consumed.seconds)
    for name, cost in copying.items():
        yield _floor_row(f"limit: COPY only, {name} indexes", cost, cost["per_s"])


def _drain_plainly(bed: Bed, sizes: Sizes) -> tuple[Drained, Backend]:
    database = bed.new_database()
    with psycopg.connect(database.database_url) as connection:
        connection.execute(TABLE)
    events = backlog.distinct(sizes.plain_records)
    return drain_plainly(bed, database, _PLAIN_TOPIC, events, sizes.plain_records), database


def _drop_indexes(database: Backend) -> None:
    """Leave the table of events its primary key and one index on `created_at`, as the others have."""
    with psycopg.connect(database.database_url) as connection:
        found = connection.execute(
            """select i.relname from pg_index x join pg_class i on i.oid = x.indexrelid
               where x.indrelid = 'headrace.events'::regclass and not x.indisprimary"""
        ).fetchall()
        for (name,) in found:
            connection.execute(sql.SQL("drop index headrace.{}").format(sql.Identifier(name)))
        connection.execute("create index on headrace.events (created_at)")


def _check(database: Backend, records: int) -> None:
    """Every event is there once, COMPLETED, and every duplicate is counted."""
    events = backlog.distinct(records)
    seen = row(
        database,
        "select count(*), count(*) filter (where status = 'COMPLETED'), sum(duplicate_count) from headrace.events",
    )
    assert seen == (events, events, records - events), f"{seen}, not {events} events of {records} records"


def _compare_rows(ours: Backend, plain: Backend, records: int) -> None:
    """Plain Faust's rows are ours, of the backlog that both had."""
    mine = sql.SQL("(select * from headrace.events where idempotency_key < {}) e").format(
        key(backlog.distinct(records))
    )
    here = row(ours, _DIGEST.format(mine))
    there = row(plain, _DIGEST.format(sql.SQL("plain.events")))
    assert here == there, f"ours {here}, plain Faust's {there}"


def _copy_only(bed: Bed, database: Backend, sizes: Sizes, *, minimal: bool) -> dict[str, float]:
    """What it costs to COPY the same rows into the same, empty table: µs an event of the client, Postgres, Kafka."""
    empty = bed.new_database()
    if minimal:
        _drop_indexes(empty)
    path = bed.folder / f"rows-{empty.database_url.rsplit('/', 1)[1]}"
    rows = min(sizes.copied_rows, backlog.distinct(sizes.backlog_records))
    write_streams(path, _streams(database, rows))
    bed.checkpoint()
    spent = floor(bed, "copy", empty.database_url, str(path))
    path.unlink()
    (copied,) = row(empty, "select count(*) from headrace.events")
    return spent.us_per_event(copied) | {"per_s": copied / spent.seconds}


def _streams(database: Backend, rows: int) -> Iterator[bytes]:
    some = sql.SQL("copy (select {} from headrace.events where ctid = any({}::tid[])) to stdout (format binary)")
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    with psycopg.connect(database.database_url) as connection:
        connection.execute(_FIND.format(rows))
        while places := connection.execute(sql.SQL("fetch {} from found").format(_COPY_ROWS)).fetchall():
            chosen = "{" + ",".join(f'"{place}"' for (place,) in places) + "}"
            with connection.cursor() as cursor, cursor.copy(some.format(columns, chosen)) as copy:
                yield b"".join(map(bytes, copy))


def _ours(
    what: str, seen: Drained, plain: Drained, fetching: dict[str, float], copying: dict[str, float], bounds: list[float]
) -> Row:
    goals = [
        Goal("µs process", seen.us("process"), bounds[0], "µs"),
        Goal("µs Postgres", seen.us("postgres"), bounds[1], "µs"),
    ]
    per_s = seen.records / seen.spent.seconds
    if bounds[2:]:
        goals.append(Goal("events/s", per_s, bounds[2], "per s", at_least=True))
    return Row(
        what,
        PART,
        events_per_s=per_s,
        process_us=seen.us("process"),
        postgres_us=seen.us("postgres"),
        kafka_us=seen.us("kafka"),
        to_baseline=ratio(seen.us("process"), plain.us("process")),
        to_limit=ratio(seen.us("process"), fetching["process"] + copying["process"]),
        goals=goals,
        settings={"acks": "all", "workers": 1, "duplicates": backlog.DUPLICATES},
        details={
            "records": seen.records,
            "seconds_with_start": seen.seconds_with_start,
            "peak_mb": seen.peak_mb,
            "postgres_to_copy_only": ratio(seen.us("postgres"), copying["postgres"]),
            "postgres_to_plain_faust": ratio(seen.us("postgres"), plain.us("postgres")),
        },
    )


def _floor_row(what: str, cost: dict[str, float], per_s: float) -> Row:
    return Row(
        what,
        PART,
        events_per_s=per_s,
        process_us=cost["process"],
        postgres_us=cost["postgres"],
        kafka_us=cost["kafka"],
    )
