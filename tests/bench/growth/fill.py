"""Fills Postgres up to a number of events, as the processors would have left them, but within the server.

A thousand programs and 200,000 participants, both skewed (a tenth of the events are of one program in a thousand);
random ids and idempotency keys; `event_timestamp` some minutes before `created_at`; 2 % not COMPLETED, 1 % SYSTEM.
"""

import time

import psycopg

from gateway.spans import EVENTS_PER_SPAN
from tests.bench.growth.world import PARTICIPANTS, PARTITIONS, PROGRAMS, World

_PIECE = 500_000
_SPANS_A_TURN = 20

_INSERT = f"""
insert into headrace.events
       (id, program_id, idempotency_key, fingerprint, event_timestamp, external_id, participant_id, recipient_id,
        event_data, status, event_type, error_code, attempts, received_at, created_at, updated_at, processed_at,
        kafka_partition, kafka_offset, counted_offset)
select gen_random_uuid(), md5('program ' || program)::uuid, gen_random_uuid()::text, gen_random_uuid(),
       at + ln(1 - d4) * interval '10 minutes',
       case when d2 < 0.75 then 'user-' || person end, case when d2 >= 0.5 then md5('participant ' || person)::uuid end,
       case when d3 < 0.25 then md5('recipient ' || floor(d3 * 400000)::integer)::uuid end,
       jsonb_build_object('amount', n, 'currency', 'EUR', 'note', repeat(md5(n::text), 4)),
       status, case when d6 < 0.01 then 'SYSTEM' else 'EXTERNAL' end::headrace.event_type,
       case when status = 'FAILED' then 'card_declined' end, 1, at, at, at,
       case when status in ('COMPLETED', 'FAILED') then at end,
       program %% {PARTITIONS}, (n - last) / {PARTITIONS}, (n - last) / {PARTITIONS}
from (select n, last, d2, d3, d4, d6, floor({PROGRAMS} * d1 * d1 * d1)::integer as program,
             floor({PARTICIPANTS} * d7 * d7 * d7)::integer as person,
             case when d5 < 0.98 then 'COMPLETED' when d5 < 0.995 then 'FAILED' when d5 < 0.998 then 'PENDING'
                  else 'PROCESSING' end::headrace.status as status,
             timestamptz '2026-01-01' + (n / 500) * interval '50 milliseconds' as at
      from (select n, %s::bigint as last, random() as d1, random() as d2, random() as d3, random() as d4,
                   random() as d5, random() as d6, random() as d7
            from generate_series(%s::bigint, %s::bigint) n) diced) numbered
"""  # noqa: S608 - of literals

_INDEXES = """
select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index
where indrelid = 'headrace.events'::regclass and not indisprimary
"""

# What is in no span is in fresh ones, as workers would have said.
_NOTE_THE_REST = """
delete from headrace.fresh_spans where created_from > '-infinity';
insert into headrace.fresh_spans
select date_bin('250 ms', created_at, '2000-01-01+00'), 0, min(event_timestamp), max(event_timestamp), count(*)
from headrace.events where created_at >= coalesce((select max(created_to) from headrace.spans), '-infinity') group by 1
"""


def fill(world: World, events: int, last: int) -> float:
    """Have `events` events in the table at least; the seconds that it took. Secondary indexes are made afterwards.

    Kafka's offsets go up to 0 with event number `last`, so that what is processed later follows on them. Spans are made
    of all events, as gateways would have done meanwhile.
    """
    begun = time.monotonic()
    (held,) = world.ask("select count(*) from headrace.events")
    with psycopg.connect(world.url) as connection:  # one transaction: cut short, it leaves the indexes as they were
        connection.execute("set maintenance_work_mem = '512MB'")
        connection.execute("select setseed(0.5)")
        indexes = connection.execute(_INDEXES).fetchall() if events > held else []
        for name, _ in indexes:
            connection.execute(f"drop index {name}".encode())
        # What is filled in is older than the spans of what was processed before: all of them are made anew.
        connection.execute("truncate headrace.spans")
        connection.execute("alter table headrace.events disable trigger user")
        for first in range(held, events, _PIECE):
            connection.execute(_INSERT.encode(), [last, first, min(first + _PIECE, events) - 1])
        for _, definition in indexes:
            connection.execute(definition.encode())
        connection.execute("alter table headrace.events enable trigger user")
    with psycopg.connect(world.url, autocommit=True) as connection:
        connection.execute("vacuum (analyze) headrace.events")
    _make_spans(world)
    return time.monotonic() - begun


def _make_spans(world: World) -> None:
    turns_left = 2  # the first turn notes what there is, the second knows that it is all there
    while turns_left:
        (made,) = world.ask("select headrace.make_spans(%s, %s)", EVENTS_PER_SPAN, _SPANS_A_TURN)
        turns_left -= made == 0
    with psycopg.connect(world.url, autocommit=True) as connection:
        connection.execute(_NOTE_THE_REST)


def sizes(world: World) -> dict[str, float]:
    """Bytes an event takes on disk: in the table, and in each index."""
    with psycopg.connect(world.url) as connection:
        rows = connection.execute(
            """select relname, pg_relation_size(c.oid)::float8 / (select count(*) from headrace.events)
               from pg_class c where c.oid = 'headrace.events'::regclass
                  or c.oid in (select indexrelid from pg_index where indrelid = 'headrace.events'::regclass)
               order by relkind desc, relname"""
        ).fetchall()
    return dict(rows)
