"""What a worker does beside its chunks: due retries are sent, claims end when they may, progress is told."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import LiteralString

import psycopg
import pytest
from aiokafka import AIOKafkaProducer

from processors import claims
from processors.database import Database
from processors.ports import Context, Outgoing
from processors.producer import ProduceError
from processors.rows import COLUMNS
from processors.upkeep import Upkeep
from schemas import topics
from schemas.kafka import partition_of
from schemas.settings import Settings
from tests.conftest import PARTITIONS
from tests.processors.lab import LEDGER, Partition, Remembering, bench, make_tables, payload, rows
from tests.stack import Stack, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick")]

GRACE_S = 1.0
TTL_S = 600


class Failing(Remembering):
    """A producer that fails so many times before it works."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        super().__init__()
        self.errors = list(errors)

    async def send_many(self, topic: str, records: Sequence[Outgoing]) -> None:
        if records and self.errors:
            raise self.errors.pop(0)
        await super().send_many(topic, records)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops that do not rest, and a short grace."""
    for name in ("RETRIES", "PROGRESS", "SWEEP_LOST", "SWEEP_FINISHED"):
        monkeypatch.setattr(f"processors.upkeep._{name}_EVERY_S", 0.05)
    monkeypatch.setattr("processors.claims.CLAIM_GRACE_S", GRACE_S)
    monkeypatch.setattr("processors.claims._GRACE_TIMEOUTS", 0)


@asynccontextmanager
async def upkeep(kafka: str, database_url: str, producer: Remembering | None = None) -> AsyncIterator[Remembering]:
    """The upkeep of one worker; no other runs."""
    settings = Settings(kafka=kafka, database_url=database_url, claim_ttl_s=TTL_S, partitions=PARTITIONS)
    database = Database(settings)
    running = Upkeep(settings, database)
    producer = producer or Remembering()
    await database.start()
    await running.start(Context(lambda _, ids: [None] * len(ids), producer, lambda: None))
    try:
        yield producer
    finally:
        await running.stop()
        await database.stop()


async def _until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what, 15)


def _plan(database_url: str, due_in: str, sent: str = "null") -> str:
    id_ = str(uuid.uuid4())
    rows(
        database_url,
        f"""insert into headrace.retries (id, kafka_partition, program_id, attempt, not_before, sent_at, record)
            values (%s, 0, %s, 3, now() + interval '{due_in}', {sent}, %s)""",  # noqa: S608 - of this file's words
        id_,
        id_,
        id_.encode(),
    )
    return id_


@pytest.mark.parametrize(
    "errors", [[], [ProduceError("no"), RuntimeError("what nobody thought of"), ProduceError("no")]]
)
async def test_due_retries_are_sent_once_and_again_when_nothing_comes_of_it(
    bare_stack: Stack, errors: list[Exception]
) -> None:
    url = bare_stack.database_url
    rows(url, "delete from headrace.retries")
    due, _ = _plan(url, "-1 second"), _plan(url, "1 hour")
    lost, _ = (
        _plan(url, "-1 hour", "now() - interval '61 seconds'"),
        _plan(url, "-1 hour", "now() - interval '30 seconds'"),
    )
    async with upkeep(bare_stack.kafka, url, Failing(errors)) as producer:
        await _until(lambda: len(producer.sent.get(topics.RETRY, [])) >= 2, "due retries sent")
        await asyncio.sleep(0.3)
    sent = {one.value: one for one in producer.sent[topics.RETRY]}
    assert len(producer.sent[topics.RETRY]) == 2
    assert sent.keys() == {due.encode(), lost.encode()}
    for value, one in sent.items():
        assert one.key == value
        headers = dict(one.headers)
        assert headers["attempt"] == b"3"
        assert datetime.fromisoformat(headers["not-before"].decode()) < datetime.now(UTC)
    unsent = rows(url, "select count(*) from headrace.retries where sent_at is null")
    assert unsent == [(1,)]
    rows(url, "delete from headrace.retries")


async def test_a_retry_that_could_not_be_sent_stays_due(bare_stack: Stack) -> None:
    url = bare_stack.database_url
    rows(url, "delete from headrace.retries")
    id_ = _plan(url, "-1 second")
    failing = Failing([ProduceError("no")] * 1_000)
    async with upkeep(bare_stack.kafka, url, failing):
        await _until(lambda: len(failing.errors) < 995, "tried some times")
        assert rows(url, "select sent_at from headrace.retries where id = %s", id_) == [(None,)]
    rows(url, "delete from headrace.retries")


def _claim(url: str, id_: uuid.UUID, age: timedelta, partition: int) -> None:
    rows(
        url,
        """insert into headrace.claims (id, fingerprint, kafka_partition, claimed_at, record)
           values (%s, %s, %s, %s, '')""",
        id_,
        id_,
        partition,
        datetime.now(UTC) - age,
    )


def _claimed(url: str, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    return {id_ for (id_,) in rows(url, "select id from headrace.claims where id = any(%s)", list(ids))}


@contextlib.contextmanager
def _partition(url: str, caught_up_at: str) -> Iterator[int]:
    """A partition that Kafka does not have, whose progress only this test tells."""
    number = Partition().number
    rows(
        url,
        f"insert into headrace.progress values ('events', %s, 5, 9, now(), {caught_up_at}, now())",  # noqa: S608
        number,
    )
    yield number
    rows(url, "delete from headrace.progress where kafka_partition = %s", number)


async def test_a_claim_whose_event_never_came_is_freed_only_behind_the_processors(bare_stack: Stack) -> None:
    url = bare_stack.database_url
    old = timedelta(seconds=2 * TTL_S)
    freed, lagging, late, young, unknown = (uuid.uuid4() for _ in range(5))
    with (
        _partition(url, "now()") as caught_up,
        _partition(url, "'-infinity'") as behind,
        _partition(url, f"now() - interval '{TTL_S + 60} seconds'") as was_caught_up,
    ):
        _claim(url, freed, old, caught_up)
        _claim(url, lagging, old, behind)
        _claim(url, late, old, was_caught_up)
        _claim(url, young, timedelta(seconds=TTL_S - 60), caught_up)
        _claim(url, unknown, old, Partition().number)
        async with upkeep(bare_stack.kafka, url):
            await _until(lambda: freed not in _claimed(url, [freed]), "the lost claim freed")
            await asyncio.sleep(0.5)
        assert _claimed(url, [freed, lagging, late, young, unknown]) == {lagging, late, young, unknown}


async def test_a_claim_outlives_its_events_commit_by_the_grace(bare_stack: Stack, program_id: str) -> None:
    """A slow transaction's event appears long after the time it says: its claim must not end with its appearance."""
    url = bare_stack.database_url
    make_tables(url)
    partition = Partition()
    ids = partition.put_events(program_id, [{}, {}])
    for id_ in ids:
        _claim(url, id_, timedelta(minutes=5), partition.number)
    async with bench(url, LEDGER) as lab, upkeep(bare_stack.kafka, url):
        await lab.process(partition, partition.log[:1])
        await _until(lambda: ids[0] not in _claimed(url, ids), "the finished event's claim freed")
        assert ids[1] in _claimed(url, ids), "its event is not there yet"
        with psycopg.connect(url) as slow:
            columns = ", ".join(COLUMNS)
            first = f"select {columns} from headrace.events where id = %s"  # noqa: S608
            slow.execute(f"create temporary table copied as {first}", [ids[0]])
            slow.execute("update copied set id = %s, created_at = created_at - interval '1 hour'", [ids[1]])
            slow.execute(f"insert into headrace.events ({columns}) select * from copied")  # noqa: S608
            await asyncio.sleep(2 * GRACE_S)
            appeared = datetime.now(UTC)
            slow.commit()
        await _until(lambda: ids[1] not in _claimed(url, ids), "the slow event's claim freed")
        assert datetime.now(UTC) - appeared > timedelta(seconds=0.8 * GRACE_S)


NOTE_SWEEPS = """
create table tests.swept (number bigint generated always as identity, claims bigint);
create function tests.note_sweep() returns trigger language plpgsql as $$
begin insert into tests.swept (claims) select count(*) from gone having count(*) > 0; return null; end $$;
create trigger note after delete on headrace.claims referencing old table as gone
    for each statement execute function tests.note_sweep();
"""


async def test_more_claims_than_a_statement_takes_are_freed_in_pieces(
    kafka: str, own_database_url: str, program_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processors.claims._STATEMENT_CLAIMS_MAX", 2)
    monkeypatch.setattr("processors.claims._PAUSE_S", 0.2)
    monkeypatch.setattr("processors.upkeep._SWEEP_FINISHED_EVERY_S", 60.0)
    monkeypatch.setattr("processors.claims.CLAIM_GRACE_S", 0.0)
    url = own_database_url
    make_tables(url)
    partition = Partition()
    ids = partition.put_events(program_id, [{}] * 5)
    async with bench(url, LEDGER) as lab:
        await lab.process(partition, partition.log)
    for number, id_ in enumerate(ids):
        _claim(url, id_, timedelta(minutes=5 - number), partition.number)
    rows(url, NOTE_SWEEPS)
    async with upkeep(kafka, url):
        await _until(lambda: _claimed(url, ids) == set(), "all freed in one round")
    assert rows(url, "select claims from tests.swept order by number") == [(2,), (2,), (1,)]


async def test_a_sweep_looks_at_no_more_claims_than_may_end(own_database_url: str) -> None:
    """Also by a plan that was made while the table was empty."""
    url = own_database_url
    rows(url, "insert into headrace.progress values ('events', 0, 5, 5, now(), now(), now())")
    rows(url, "alter table headrace.claims set (autovacuum_enabled = false)")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum analyze headrace.claims")
    looked_at = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'claims'"
    statements: dict[LiteralString, dict[str, object]] = {
        claims.SWEEP_LOST: {"topic": "events", "ttl": 199_405, "most": 2_000, "after": "-infinity"},
        claims.SWEEP_FINISHED: {"grace": 199_405, "seen": "3", "most": 2_000, "after": "-infinity"},
    }
    with psycopg.connect(url) as connection:
        connection.execute("set plan_cache_mode = force_generic_plan")
        for statement, values in statements.items():
            connection.execute(claims.BY_INDEX)
            connection.execute(statement, values, prepare=True)
            connection.commit()
        rows(
            url,
            """insert into headrace.claims (id, fingerprint, kafka_partition, claimed_at, record)
               select gen_random_uuid(), gen_random_uuid(), 0, now() - n * interval '10 seconds', ''
               from generate_series(1, 20000) n""",
        )
        for statement, values in statements.items():
            connection.execute(claims.BY_INDEX)
            connection.execute(statement, values, prepare=True)
            found = connection.execute(looked_at).fetchone()
            assert found is not None
            assert 60 <= found[0] <= 3 * 60, "each to be found, locked and deleted"
            connection.rollback()


async def test_progress_and_lag_are_told(bare_stack: Stack, program_id: str) -> None:
    url = bare_stack.database_url
    number = partition_of(program_id.encode(), PARTITIONS)
    lag = """select end_offset, processed_offset, lag, seconds_behind from headrace.pipeline_lag
             where topic = 'events' and kafka_partition = %s"""
    caught_up = """select extract(epoch from caught_up_at) from headrace.progress
                   where topic = 'events' and kafka_partition = %s"""
    bare_stack.start_worker()
    async with AIOKafkaProducer(bootstrap_servers=bare_stack.kafka, acks="all") as kafka:
        sent = [
            await kafka.send_and_wait(topics.EVENTS, payload(program_id, f"k{at}"), program_id.encode())
            for at in range(3)
        ]
        end = sent[-1].offset + 1
        await _until(lambda: rows(url, lag, number) == [(end, end, 0, 0.0)], "caught up")
        bare_stack.stop_worker()
        stopped_s = time.time()
        for at in range(3, 5):
            await kafka.send_and_wait(topics.EVENTS, payload(program_id, f"k{at}"), program_id.encode())
    async with upkeep(bare_stack.kafka, url):
        await _until(lambda: rows(url, lag, number)[0][:3] == (end + 2, end, 2), "lag of two records")
        ((before,),) = rows(url, caught_up, number)
        await asyncio.sleep(0.3)
        assert rows(url, caught_up, number) == [(before,)]
        assert rows(url, lag, number)[0][3] > 0
        assert rows(url, "select count(*) from headrace.pipeline_lag where kafka_partition < %s", PARTITIONS) == [
            (2 * PARTITIONS,)
        ]
    bare_stack.start_worker()
    await _until(lambda: rows(url, lag, number) == [(end + 2, end + 2, 0, 0.0)], "caught up again")
    await _until(lambda: rows(url, caught_up, number)[0][0] > stopped_s, "and says since when")
