"""The processors: a prepared backlog is drained by ours, by plain Faust, and by what does only a part of the work.

Ours twice: the default path, and the minimal one that does what the others do: dedupe and one row, a primary key and
one index, no handlers. Everything in turns, several times.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg
from psycopg import sql

from processors.rows import COLUMNS
from tests.bench import backlog
from tests.bench.bed import Bed, row
from tests.bench.cpu import beside
from tests.bench.drains import Drained, drain, drain_plainly, floor, together
from tests.bench.floors import write_streams
from tests.bench.payloads import key
from tests.bench.plain_faust import TABLE
from tests.bench.report import Goal, Row
from tests.bench.sizes import Sizes
from tests.stack import Backend

PART = "processors"
_TOPIC = "events"
_PLAIN_TOPIC = "bench.plain"
_PATHS: dict[str, dict[str, str]] = {"default": {}, "minimal": {"handlers": ""}}
_COPY_ROWS = 4_000  # as many as a chunk has
_FIND = sql.SQL("declare found no scroll cursor for select ctid from headrace.events limit {}")
# The hash of jsonb takes 400.0 and 400 for the same value, as the contract does; texts would differ.
_DIGEST = sql.SQL("""
select count(*), sum(hashtextextended(row(a.*)::text, 0))
from (select id, program_id, idempotency_key, event_timestamp, external_id, status::text,
             jsonb_hash_extended(event_data, 0) from {}) a
""")


class Round(NamedTuple):
    """Everything drained once, one after the other; by the name of the path what is ours and what COPY alone took."""

    consumed: Drained
    plain: Drained
    ours: dict[str, Drained]
    copied: dict[str, Drained]

    def limit_us(self, path: str) -> float:
        """What cannot be saved of a path's process, an event."""
        return self.consumed.us("process") + self.copied[path].us("process")


def measure(bed: Bed, sizes: Sizes) -> Iterator[Row]:
    """The rows of this part."""
    bed.new_topics()
    bed.new_database()
    backlog.make_topic(bed.kafka, _PLAIN_TOPIC)
    backlog.fill(bed.kafka, _TOPIC, sizes.backlog_records)
    backlog.fill(bed.kafka, _PLAIN_TOPIC, sizes.plain_records)
    rounds = [_round(bed, sizes, number) for number in range(sizes.drains)]
    yield _ours("processors, default path", rounds, "default", [20, 20])
    yield _ours("processors, minimal path", rounds, "minimal", [15, 12, 45_000])
    baseline = _other("baseline: plain Faust, minimal work", [each.plain for each in rounds])
    baseline.settings = {"acks": "all", "records": sizes.plain_records, "duplicates": backlog.DUPLICATES}
    baseline.details["same_rows"] = True
    yield baseline
    yield _other("limit: consume only", [each.consumed for each in rounds])
    for path in _PATHS:
        yield _other(f"limit: COPY only, {path} indexes", [each.copied[path] for each in rounds])


def _round(bed: Bed, sizes: Sizes, number: int) -> Round:
    records = sizes.backlog_records
    consumed = Drained(records, floor(bed, "consume", bed.kafka, _TOPIC, str(records)))
    plain, plain_database = _drain_plainly(bed, sizes)
    ours: dict[str, Drained] = {}
    copied: dict[str, Drained] = {}
    for path, settings in _PATHS.items():
        group = f"headrace-{path}-{number}"
        database = bed.new_database(group)
        if path == "minimal":
            _drop_indexes(database)
        bed.checkpoint()
        ours[path] = drain(bed, bed.stack(database, group, group=group, **settings), database, records)
        _check(database, records)
        _compare_rows(database, plain_database, sizes.plain_records)
        copied[path] = _copy_only(bed, database, sizes, minimal=path == "minimal")
        bed.drop_database(database)
    bed.drop_database(plain_database)
    return Round(consumed, plain, ours, copied)


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


def _copy_only(bed: Bed, database: Backend, sizes: Sizes, *, minimal: bool) -> Drained:
    """What it costs to COPY the same rows into the same, empty table."""
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
    bed.drop_database(empty)
    return Drained(copied, spent)


def _streams(database: Backend, rows: int) -> Iterator[bytes]:
    some = sql.SQL("copy (select {} from headrace.events where ctid = any({}::tid[])) to stdout (format binary)")
    # Not late: an event that is inserted long after its creation pays for a trigger, which live ones do not.
    fresh = sql.SQL("created_at + interval '1 hour'")
    columns = sql.SQL(", ").join(fresh if name == "created_at" else sql.Identifier(name) for name in COLUMNS)
    with psycopg.connect(database.database_url) as connection:
        connection.execute(_FIND.format(rows))
        while places := connection.execute(sql.SQL("fetch {} from found").format(_COPY_ROWS)).fetchall():
            chosen = "{" + ",".join(f'"{place}"' for (place,) in places) + "}"
            with connection.cursor() as cursor, cursor.copy(some.format(columns, chosen)) as copy:
                yield b"".join(map(bytes, copy))


def _ours(what: str, rounds: Sequence[Round], path: str, bounds: list[float]) -> Row:
    each = [one.ours[path] for one in rounds]
    row = _other(what, each)
    seen = together(each)
    row.goals = [
        Goal("µs process", seen.us("process"), bounds[0], "µs"),
        Goal("µs Postgres", seen.us("postgres"), bounds[1], "µs"),
    ]
    if bounds[2:]:
        row.goals.append(Goal("events/s", seen.per_s, bounds[2], "per s", at_least=True))
    process_us = [one.us("process") for one in each]
    postgres_us = [one.us("postgres") for one in each]
    row.to_baseline = beside(process_us, [one.plain.us("process") for one in rounds])
    row.to_limit = beside(process_us, [one.limit_us(path) for one in rounds])
    row.settings = {"acks": "all", "workers": 1, "duplicates": backlog.DUPLICATES, "rounds": len(rounds)}
    row.details["postgres_to_copy_only"] = beside(postgres_us, [one.copied[path].us("postgres") for one in rounds])
    row.details["postgres_to_plain_faust"] = beside(postgres_us, [one.plain.us("postgres") for one in rounds])
    return row


def _other(what: str, rounds: Sequence[Drained]) -> Row:
    seen = together(rounds)
    return Row(
        what,
        PART,
        events_per_s=seen.per_s,
        process_us=seen.us("process"),
        postgres_us=seen.us("postgres"),
        kafka_us=seen.us("kafka"),
        details={
            "records": seen.records,
            "process_us": [each.us("process") for each in rounds],
            "postgres_us": [each.us("postgres") for each in rounds],
            "events_per_s": [each.per_s for each in rounds],
            "seconds_with_start": [each.seconds_with_start for each in rounds],
            "peak_mb": seen.peak_mb,
        },
    )
