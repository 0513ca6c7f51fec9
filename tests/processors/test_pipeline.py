"""Whatever the cuts, replays and lost table entries: rows, counts and winners are those of the log read once."""

import asyncio
import random
import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors import store
from processors.pipeline import Owner, decide, needs_postgres, table_owner, table_value
from processors.records import Arrival, read_record
from schemas.reader import EventReader
from tests.processors.lab import LEDGER, Bench, Partition, bench, ledger_of, payload, record, rows

PROGRAM = "11111111-2222-4333-8444-555555555555"
READER = EventReader(65_536)
KEYS = 4
PAYLOADS = 3

logs = st.lists(st.tuples(st.integers(0, KEYS - 1), st.integers(0, PAYLOADS - 1)), min_size=1, max_size=25)


class Told(NamedTuple):
    """What the log says of a key: which payload and offset won, and how many repeats and other payloads followed."""

    payload: int
    offset: int
    duplicates: int
    conflicts: int


def sequential(log: Sequence[tuple[int, int]]) -> dict[int, Told]:
    """The model: the log read once, record by record."""
    told: dict[int, Told] = {}
    for offset, (key, number) in enumerate(log):
        first = told.get(key)
        if first is None:
            told[key] = Told(number, offset, 0, 0)
        elif first.payload == number:
            told[key] = first._replace(duplicates=first.duplicates + 1)
        else:
            told[key] = first._replace(conflicts=first.conflicts + 1)
    return told


def chunks(log_length: int, seed: int) -> list[tuple[int, int]]:
    """Chunks as workers may read them that crash between commit and acknowledgement: cuts, and steps back."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    read: list[tuple[int, int]] = []
    committed = 0
    while committed < log_length:
        start = committed
        while start < log_length:
            end = min(log_length, start + rng.randint(1, 8))
            read.append((start, end))
            if rng.random() < 0.35:
                break
            start = end
            if rng.random() < 0.6:
                committed = end
        else:
            committed = log_length
    return read


def arrivals_of(log: Sequence[tuple[int, int]]) -> list[Arrival]:
    made = []
    for offset, (key, number) in enumerate(log):
        arrival = read_record(READER, record(payload(PROGRAM, f"k{key}", {"n": number}), PROGRAM.encode(), offset))
        assert isinstance(arrival, Arrival)
        made.append(arrival)
    return made


class Rows:
    """Postgres in ten lines: rows by id, and the checks of :func:`processors.store.count_repeats`."""

    def __init__(self) -> None:
        self.owners: dict[bytes, Owner] = {}
        self.counts: dict[bytes, tuple[int, int]] = {}

    def apply(self, arrivals: Sequence[Arrival], owners: Mapping[bytes, Owner]) -> bool:
        """One transaction; False where a row differs and nothing was changed."""
        plan = decide(arrivals, owners)
        new = {arrival.event.id for arrival in plan.new}
        if new & self.owners.keys():
            return False
        for id_, repeat in plan.repeats.items():
            if id_ not in new:
                row = self.owners.get(id_)
                if row is None or row.fingerprint != repeat.fingerprint or row.counted_offset >= repeat.first_offset:
                    return False
        for arrival in plan.new:
            self.owners[arrival.event.id] = Owner(arrival.event.fingerprint, arrival.offset, arrival.offset)
            self.counts[arrival.event.id] = (0, 0)
        for id_, repeat in plan.repeats.items():
            duplicates, conflicts = self.counts[id_]
            self.counts[id_] = (duplicates + repeat.duplicates, conflicts + len(repeat.conflicts))
            self.owners[id_] = self.owners[id_]._replace(counted_offset=repeat.counted_offset)
        return True


@given(logs, st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=400, deadline=None)
def test_decisions_equal_the_sequential_model(log: list[tuple[int, int]], seed: int, lost: float) -> None:
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    arrivals = arrivals_of(log)
    kept, table = Rows(), dict[bytes, bytes]()
    for start, end in chunks(len(log), seed):
        part = arrivals[start:end]
        known = {one.event.id: table_owner(table[one.event.id]) for one in part if one.event.id in table}
        if needs_postgres(part, known) or not kept.apply(part, known):
            assert kept.apply(
                part, {one.event.id: kept.owners[one.event.id] for one in part if one.event.id in kept.owners}
            )
        for one in part:
            owner = kept.owners[one.event.id]
            if rng.random() >= lost:
                table[one.event.id] = table_value(owner.fingerprint, owner.offset)
    model = {arrivals[told.offset].event.id: told for told in sequential(log).values()}
    assert kept.owners.keys() == model.keys()
    for id_, told in model.items():
        winner = arrivals[told.offset]
        assert kept.owners[id_][:2] == (winner.event.fingerprint, told.offset)
        assert kept.counts[id_] == (told.duplicates, told.conflicts)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**63 - 1))
def test_a_table_value_says_who_owns_the_key(fingerprint: bytes, offset: int) -> None:
    assert table_owner(table_value(fingerprint, offset)) == Owner(fingerprint, offset, -1)


def _stored(database_url: str, program: str) -> dict[str, tuple[object, ...]]:
    found = rows(
        database_url,
        """select idempotency_key, (event_data->>'n')::int, kafka_offset, duplicate_count,
                  jsonb_array_length(coalesce(conflicts, '[]')), status::text
           from headrace.events where program_id = %s""",
        program,
    )
    return {key: tuple(rest) for key, *rest in found}


def _check(database_url: str, program: str, partition: Partition, log: Sequence[tuple[int, int]]) -> None:
    """Rows, effects and dead letters are the model's."""
    model = sequential(log)
    assert _stored(database_url, program) == {f"k{key}": (*told, "COMPLETED") for key, told in model.items()}
    ids = [uuid.uuid5(uuid.UUID(program), f"k{key}") for key in model]
    assert ledger_of(database_url, program) == ids, "each effect once, in log order"
    conflicts = [offset for offset, (key, number) in enumerate(log) if model[key].payload != number]
    letters = "select kafka_offset from headrace.dead_letters where topic = %s order by 1"
    assert [offset for (offset,) in rows(database_url, letters, partition.topic)] == conflicts


def _fill(log: Sequence[tuple[int, int]]) -> tuple[str, Partition]:
    program, partition = str(uuid.uuid4()), Partition()
    for key, number in log:
        partition.put(payload(program, f"k{key}", {"n": number}), program.encode())
    return program, partition


@pytest.mark.parametrize("lost", [0.0, 0.5, 1.0])
def test_a_processor_on_postgres_equals_the_sequential_model(tables: str, lost: float) -> None:
    async def process(log: list[tuple[int, int]], seed: int, lab: Bench) -> None:
        rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        program, partition = _fill(log)
        for start, end in chunks(len(log), seed):
            await lab.process(partition, partition.log[start:end])
            lab.table = {key: value for key, value in lab.table.items() if rng.random() >= lost}
        await asyncio.to_thread(_check, tables, program, partition, log)

    @given(logs, st.integers(0, 2**32))
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def run(log: list[tuple[int, int]], seed: int) -> None:
        async def whole() -> None:
            async with bench(tables, LEDGER) as lab:
                await process(log, seed, lab)

        asyncio.run(whole())

    run()


def test_two_workers_on_one_partition_have_each_effect_once(tables: str) -> None:
    """A zombie does not know that it is one: both process the same records, in cuts of their own."""

    async def work(lab: Bench, partition: Partition, seed: int) -> None:
        for start, end in chunks(len(partition.log), seed):
            await lab.process(partition, partition.log[start:end])

    @given(logs, st.integers(0, 2**32))
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def run(log: list[tuple[int, int]], seed: int) -> None:
        async def both() -> None:
            program, partition = _fill(log)
            async with bench(tables, LEDGER) as one, bench(tables, LEDGER) as two:
                await asyncio.gather(work(one, partition, seed), work(two, partition, seed + 1))
            await asyncio.to_thread(_check, tables, program, partition, log)

        asyncio.run(both())

    run()


@pytest.mark.anyio
async def test_a_table_that_is_wrong_misleads_nobody(tables: str) -> None:
    """Entries of another life: other payloads, other offsets, events that Postgres does not have."""
    log = [(0, 0), (1, 0), (0, 1), (1, 0), (2, 2)]
    program, partition = _fill(log)
    async with bench(tables, LEDGER) as lab:
        for key in range(3):
            id_ = uuid.uuid5(uuid.UUID(program), f"k{key}").bytes
            lab.table[partition.number, id_] = table_value(b"another payload!", key - 1 if key else 0)
        for at in range(len(log)):
            await lab.process(partition, partition.log[at : at + 1])
    _check(tables, program, partition, log)


@pytest.mark.anyio
async def test_a_row_keeps_so_many_conflicts_and_the_dead_letters_keep_all(tables: str, program_id: str) -> None:
    partition = Partition()
    for number in range(1 + 2 * store.CONFLICTS_KEPT_MAX):
        partition.put(payload(program_id, "one", {"n": number}), program_id.encode())
    async with bench(tables, LEDGER) as lab:
        await lab.process(partition, partition.log[:1])
        await lab.process(partition, partition.log[1:])
        await lab.process(partition, partition.log[1:])
    ((kept,),) = rows(tables, "select conflicts from headrace.events where program_id = %s", program_id)
    first = partition.log[1]
    assert len(kept) == store.CONFLICTS_KEPT_MAX
    assert kept[0] == {
        "received_at": "2023-11-14T22:13:20Z",
        "fingerprint": READER.read(first.value or b"").fingerprint.hex(),
        "reason": "idempotency_conflict",
    }
    letters = rows(tables, "select count(*) from headrace.dead_letters where program_id = %s", program_id)
    assert letters == [(2 * store.CONFLICTS_KEPT_MAX,)]


@pytest.mark.anyio
async def test_a_repeat_in_another_partition_is_counted_once(tables: str, program_id: str) -> None:
    """Partitioners differ between clients, and topics get more partitions."""
    here, there = Partition(), Partition()
    there.topic = here.topic
    for _ in range(5):
        here.put(payload(program_id, "one"), program_id.encode())
    there.put(payload(program_id, "other"), program_id.encode())
    there.put(payload(program_id, "one"), program_id.encode())
    there.put(payload(program_id, "one", {"n": 2}), program_id.encode())
    async with bench(tables, LEDGER) as lab:
        await lab.process(here)
        for _ in range(2):
            await asyncio.wait_for(lab.process(there), 20)
    assert rows(
        tables,
        """select duplicate_count, jsonb_array_length(conflicts) from headrace.events
           where program_id = %s and idempotency_key = 'one'""",
        program_id,
    ) == [(5, 1)]
    assert len(ledger_of(tables, program_id)) == 2
