"""Who is who: the first event that names an external id decides, whatever the chunks."""

import asyncio
import random
import uuid
from datetime import UTC, datetime

import psycopg
import pytest

from processors.handlers import participants as module
from processors.handlers.participants import participants
from processors.handling import Job
from schemas.reader import EventReader
from tests.processors.lab import payload, rows

pytestmark = pytest.mark.anyio

READER = EventReader(1_000)


@pytest.fixture(autouse=True, params=[1, 64], ids=["plainly", "few"])
def plain_min(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds as well where new ones are first added as if none of them were there."""
    monkeypatch.setattr(module, "_PLAIN_MIN", request.param)
    monkeypatch.setattr(module, "_SURE_AFTER", 0)


def _job(program: str, **fields: object) -> Job:
    return Job(READER.read(payload(program, str(uuid.uuid4()), **fields)), 1, datetime.now(UTC))


async def _handle(database_url: str, *jobs: Job) -> list[str | None]:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        results = await participants(jobs, connection)
    return [None if result is None else result["participant_id"] for result in results]


def _known(database_url: str, program: str) -> dict[str | None, str]:
    query = "select external_id, participant_id::text from headrace.participants where program_id = %s"
    return dict(rows(database_url, query, program))


async def test_an_external_id_alone_is_given_one_participant_for_good(database_url: str, program_id: str) -> None:
    one, two, *_ = await _handle(database_url, *(_job(program_id, external_id=name) for name in "aba"))
    assert one != two
    assert await _handle(database_url, _job(program_id, external_id="b"), _job(program_id, external_id="a")) == [
        two,
        one,
    ]
    other = str(uuid.uuid4())
    assert await _handle(database_url, _job(other, external_id="a")) != [one]
    assert _known(database_url, program_id) == {"a": one, "b": two}


async def test_the_first_event_with_both_decides(database_url: str, program_id: str) -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    both = [_job(program_id, external_id="a", participant_id=id_) for id_ in (first, second)]
    assert await _handle(database_url, *both, _job(program_id, external_id="a")) == [None, None, first]
    assert await _handle(database_url, both[1], _job(program_id, external_id="a")) == [None, first]
    assert _known(database_url, program_id)["a"] == first


async def test_a_participant_without_a_name_gets_the_first_that_it_is_called_by(
    database_url: str, program_id: str
) -> None:
    id_ = str(uuid.uuid4())
    assert await _handle(database_url, _job(program_id, external_id=None, participant_id=id_)) == [None]
    assert _known(database_url, program_id) == {None: id_}
    await _handle(database_url, _job(program_id, external_id="a", participant_id=id_))
    await _handle(database_url, _job(program_id, external_id="b", participant_id=id_))
    assert _known(database_url, program_id)["a"] == id_


async def test_who_is_who_does_not_depend_on_the_chunks(database_url: str) -> None:
    rng = random.Random(7)  # noqa: S311 - repeatable, not secret
    fields = []
    for _ in range(60):
        name = rng.choice("abcdef")
        fields.append({"external_id": name, "participant_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, name))})
        if rng.random() < 0.5:
            fields[-1]["participant_id"] = str(uuid.UUID(int=rng.getrandbits(128)))
        if rng.random() < 0.5:
            del fields[-1]["participant_id"]
    decided = []
    for size in (1, 7, 60):
        program = str(uuid.uuid4())
        jobs = [_job(program, **one) for one in fields]
        results: list[str | None] = []
        for at in range(0, len(jobs), size):
            results += await _handle(database_url, *jobs[at : at + size])
        known = {name: id_ for name, id_ in _known(database_url, program).items() if name is not None}
        named = {one["external_id"]: one.get("participant_id") for one in reversed(fields)}
        assert {name: id_ for name, id_ in known.items() if named[name]} == {k: v for k, v in named.items() if v}
        assert all(
            result == known[one["external_id"]]
            for one, result in zip(fields, results, strict=True)
            if "participant_id" not in one
        )
        decided.append({name: id_ for name, id_ in known.items() if named[name]})
    assert decided[0] == decided[1] == decided[2]


async def test_strange_names_are_kept(database_url: str, program_id: str) -> None:
    names = ['"', "\\", "{a,b}", "null", " ", "😀" * 255, "a'b", "%s"]
    await _handle(database_url, *(_job(program_id, external_id=name) for name in names))
    assert _known(database_url, program_id).keys() == set(names)


async def test_what_is_known_costs_no_statement(own_database_url: str, program_id: str) -> None:
    database_url = own_database_url  # whose tables nobody else has a lock on
    id_ = str(uuid.uuid4())
    jobs = [
        _job(program_id, external_id="a"),
        _job(program_id, external_id="b", participant_id=id_),
        _job(program_id, external_id=None, participant_id=str(uuid.uuid4())),
    ]
    first = await _handle(database_url, *jobs)
    assert await _handle(database_url, *jobs) == first
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("drop schema headrace cascade")  # rolled back: nothing there can be asked
        results = await participants(jobs, connection)
        await connection.rollback()
    assert [result and result["participant_id"] for result in results] == first


async def test_what_was_undone_is_not_remembered(database_url: str, program_id: str) -> None:
    id_ = str(uuid.uuid4())
    await _handle(database_url, _job(program_id, external_id=None, participant_id=id_))
    jobs = [_job(program_id, external_id="new"), _job(program_id, external_id="named", participant_id=id_)]
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("select 1")  # begins the transaction of the chunk
        for _ in range(3):  # as the halves of a chunk are handled, one after the other
            async with connection.transaction():
                await participants(jobs, connection)
        await connection.rollback()
    assert _known(database_url, program_id) == {None: id_}
    await _handle(database_url, *jobs)
    assert _known(database_url, program_id).keys() == {"new", "named"}
    assert _known(database_url, program_id)["named"] == id_


async def test_what_was_undone_is_not_remembered_though_another_adds_it(database_url: str, program_id: str) -> None:
    id_ = str(uuid.uuid4())
    await _handle(database_url, _job(program_id, external_id="before"))
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("select 1")
        async with connection.transaction() as savepoint:
            await participants([_job(program_id, external_id="undone", participant_id=id_)], connection)
            raise psycopg.Rollback(savepoint)
        await connection.commit()
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "insert into headrace.participants (program_id, participant_id, external_id, first_event_id, created_at)"
            " values (%s, %s, 'other', %s, now())",
            (program_id, id_, uuid.uuid4()),
        )
    named = await _handle(database_url, _job(program_id, external_id="undone"))
    assert named != [id_]
    assert _known(database_url, program_id).keys() == {"before", "other", "undone"}


async def test_what_is_remembered_is_bounded(
    database_url: str, program_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED_MAX", 2)
    monkeypatch.setattr(module, "_known", module._Known())  # noqa: SLF001 - what it holds is its own business
    jobs = [_job(program_id, external_id=name) for name in "abcd"]
    first = await _handle(database_url, *jobs)
    for _ in range(3):
        assert await _handle(database_url, *jobs) == first
    assert len(module._known.by_external) == 2  # noqa: SLF001


@pytest.mark.parametrize("often_new", [True, False])
async def test_many_new_ones_are_added_though_one_is_there(
    database_url: str, program_id: str, monkeypatch: pytest.MonkeyPatch, *, often_new: bool
) -> None:
    """The one is added by somebody else, in the meantime or long ago."""
    monkeypatch.setattr(module._known, "often_new", often_new)  # noqa: SLF001
    there = str(uuid.uuid4())
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "insert into headrace.participants (program_id, participant_id, external_id, first_event_id, created_at)"
            " values (%s, %s, '70', %s, now())",
            (program_id, there, uuid.uuid4()),
        )
    for names in (range(100), range(100, 200), range(50, 250)):
        jobs = [_job(program_id, external_id=str(name)) for name in names]
        said = await _handle(database_url, *jobs, *jobs)
        known = _known(database_url, program_id)
        assert said == [known[str(name)] for name in names] * 2
    assert known.keys() == {str(name) for name in range(250)}
    assert known["70"] == there


async def test_none_of_many_new_ones_is_looked_for_once_all_were_new_for_a_while(
    own_database_url: str, program_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`on conflict` would look for each."""
    url = own_database_url  # where a column can be added
    monkeypatch.setattr(module, "_SURE_AFTER", 2)
    monkeypatch.setattr(module, "_known", module._Known())  # noqa: SLF001
    hundreds = [[_job(program_id, external_id=str(100 * number + name)) for name in range(100)] for number in range(4)]
    with psycopg.connect(url) as connection:
        connection.execute("alter table headrace.participants add plain boolean default current_query() !~ 'conflict'")
    for jobs in hundreds:
        await _handle(url, *jobs)
    query = "select plain, count(*)::integer from headrace.participants where program_id = %s group by 1"
    assert dict(rows(url, query, program_id)) == {False: 200, True: 200}


async def test_two_workers_do_not_lock_each_other(database_url: str) -> None:
    programs = [str(uuid.uuid4()) for _ in range(20)]
    names = [(program, name) for program in programs for name in "abcdefghij"]
    orders = [names, names[::-1]]
    decided = await asyncio.gather(
        *(_handle(database_url, *(_job(program, external_id=name) for program, name in order)) for order in orders)
    )
    assert decided[0] == decided[1][::-1]
