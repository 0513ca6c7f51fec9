"""One bad event among 2,000 costs neither the other 1,999 nor their speed: calls and transactions are counted."""

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest
from psycopg import AsyncConnection

from processors.database import Database
from tests import handlers_for_tests
from tests.processors.lab import ACT, LEDGER, Bench, Partition, bench, ledger_of, payload, rows, statuses_of

COUNT = 2_000
BAD_AT = 1_234
HALVINGS = 11  # of 2,000 down to one
LIMIT_S = 2.0

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Value = dict[str, Any]

HANDLED: dict[str, Value] = {
    "raises": {"do": "raise"},
    "returns too few results": {"do": "too_few"},
    "returns a number": {"do": "number"},
    "returns what is no JSON": {"do": "object"},
    "breaks a constraint": {"do": "sql", "sql": "insert into headrace.programs values (null, 'nobody')"},
    "breaks a constraint at the commit": {"do": "late"},
    "catches an error of its SQL": {"do": "swallow"},
    "hangs": {"do": "hang"},
}
RECORDS = {
    "cannot be decoded": ("unreadable_record", lambda program: b"\xff\xfe"),  # noqa: ARG005
    "is another program's": ("key_mismatch", lambda program: payload(str(uuid.uuid4()), "x")),  # noqa: ARG005
    "is too large": ("event_too_large", lambda program: payload(program, "x", {"text": "x" * 70_000})),
    "has unknown fields": ("invalid_event", lambda program: payload(program, "x", colour="red")),
}


class Counts:
    """What a chunk has cost."""

    transactions = 0
    seconds = 0.0


@asynccontextmanager
async def _counted(lab: Bench, partition: Partition) -> AsyncIterator[Counts]:
    counts, once = Counts(), Database.once

    async def counting(self: Database, work: Callable[[AsyncConnection[Any]], Awaitable[object]]) -> object:
        counts.transactions += 1
        return await once(self, work)

    handlers_for_tests.calls.clear()
    with mock.patch.object(Database, "once", counting):
        begun = time.perf_counter()
        await lab.process(partition)
        counts.seconds = time.perf_counter() - begun
    yield counts


async def _clean(lab: Bench) -> Counts:
    partition = Partition()
    partition.put_events(str(uuid.uuid4()), [{}] * COUNT)
    async with _counted(lab, partition) as counts:
        assert counts.transactions == 1
    return counts


@pytest.mark.parametrize("bad", HANDLED.values(), ids=HANDLED)
async def test_a_bad_event_costs_the_others_nothing(tables: str, program_id: str, bad: Value) -> None:
    partition = Partition()
    ids = partition.put_events(program_id, [bad if number == BAD_AT else {} for number in range(COUNT)])
    # Only what hangs is to meet the limit, however slow the machine is.
    limit_s = LIMIT_S if bad["do"] == "hang" else 30.0
    async with bench(tables, f"{LEDGER},{ACT}", handler_timeout_s=limit_s) as lab:
        clean = await _clean(lab)
        async with _counted(lab, partition) as counts:
            calls = list(handlers_for_tests.calls)
    good = [id_ for number, id_ in enumerate(ids) if number != BAD_AT]
    assert sorted(ledger_of(tables, program_id)) == sorted(good)
    assert statuses_of(tables, program_id) == dict.fromkeys(good, "COMPLETED") | {ids[BAD_AT]: "PROCESSING"}
    assert counts.transactions <= 2 * HALVINGS + 3
    assert len(calls) <= 2 * HALVINGS + 3
    # Generous: other processes share these cores.
    assert counts.seconds < 8 * clean.seconds + 1.0 + 4 * LIMIT_S


@pytest.mark.parametrize(("code", "make"), RECORDS.values(), ids=RECORDS)
async def test_a_bad_record_costs_the_others_nothing(
    tables: str, program_id: str, code: str, make: Callable[[str], bytes]
) -> None:
    partition = Partition()
    ids = partition.put_events(program_id, [{}] * BAD_AT)
    partition.put(make(program_id), program_id.encode())
    ids += partition.put_events(program_id, [{}] * (COUNT - BAD_AT - 1))
    async with bench(tables, f"{LEDGER},{ACT}") as lab:
        clean = await _clean(lab)
        async with _counted(lab, partition) as counts:
            calls = list(handlers_for_tests.calls)
    assert ledger_of(tables, program_id) == ids
    assert statuses_of(tables, program_id) == dict.fromkeys(ids, "COMPLETED")
    query = "select code, kafka_offset from headrace.dead_letter_records where topic = %s"
    assert rows(tables, query, partition.topic) == [(code, BAD_AT)]
    assert (counts.transactions, calls) == (1, [COUNT - 1])
    assert counts.seconds < 4 * clean.seconds + 1.5
