"""Handlers that do what events tell them to, for the tests of how handlers are run. Loaded through HEADRACE_HANDLERS.

An event says in ``event_data`` what is to happen: ``{"do": "raise"}``. Nothing there: all goes well.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
from psycopg import AsyncConnection, errors

from processors.handling import Finish, Job, Reject

Connection = AsyncConnection[Any]

SCHEMA = """
create schema if not exists tests;
create table if not exists tests.ledger (
    number bigint generated always as identity,
    event_id uuid not null, program_id uuid not null, attempt integer not null
);
create table if not exists tests.finished (event_id uuid not null, status text not null);
create table if not exists tests.unique_late (word text, unique (word) deferrable initially deferred);
create table if not exists tests.words (word text primary key);
"""

calls: list[int] = []
"""The number of events of each call of :func:`act` in this process."""
met: Counter[str] = Counter()
"""How often :func:`act` met an event that is told to do something, by what it is told."""


async def ledger(jobs: Sequence[Job], connection: Connection) -> None:
    """Write a line per event: written twice, it shows."""
    await connection.execute(
        """insert into tests.ledger (event_id, program_id, attempt)
           select * from unnest(%s::uuid[], %s::uuid[], %s::int[])""",
        ([job.id for job in jobs], [job.program_id for job in jobs], [job.attempt for job in jobs]),
    )


async def act(jobs: Sequence[Job], connection: Connection) -> object:
    """Do what the events say."""
    calls.append(len(jobs))
    results: list[Any] = [None] * len(jobs)
    for at, job in enumerate(jobs):
        do = job.event_data.get("do")
        if do is None:
            continue
        met[do] += 1
        if do in _WHOLE:
            return _WHOLE[do](jobs)
        results[at] = _RESULTS[do](job) if do in _RESULTS else await _ACTS[do](job, connection)
    return results


class Watching:
    """Sees finished events; some it cannot stand."""

    async def finished(self, finishes: Sequence[Finish], connection: Connection) -> None:
        """Write each down."""
        for job, status in finishes:
            await connection.execute("insert into tests.finished values (%s, %s)", (job.id, status))
            if job.event_data.get("finish") == "raise":
                raise ValueError("cannot be shown this")
            if job.event_data.get("finish") == "sql":
                await connection.execute("select 1 / 0")


watching = Watching()


class Unspeakable(Exception):  # noqa: N818 - it cannot even be told
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("not even this")


async def _raise(job: Job, _: Connection) -> None:
    raise ValueError(job.event_data.get("text", "told to raise"))


async def _until(job: Job, _: Connection) -> None:
    if job.attempt < job.event_data["attempt"]:
        raise ValueError(f"attempt {job.attempt} is too early")


async def _transient(job: Job, connection: Connection) -> None:
    if met["transient"] <= job.event_data["times"]:
        raise (
            errors.DeadlockDetected("deadlock detected") if job.event_data.get("raised") else await _wrapped(connection)
        )


async def _wrapped(connection: Connection) -> Exception:
    try:
        await connection.execute("do $$ begin raise sqlstate '40001'; end $$")
    except errors.SerializationFailure as error:
        wrapped = RuntimeError("the handler's own word for it")
        wrapped.__cause__ = error
        return wrapped
    raise AssertionError("no error")


async def _sql(job: Job, connection: Connection) -> None:
    await connection.execute(job.event_data["sql"])


async def _swallow(_: Job, connection: Connection) -> None:
    with contextlib.suppress(errors.DivisionByZero):
        await connection.execute("select 1 / 0")


async def _late(_: Job, connection: Connection) -> None:
    await connection.execute("insert into tests.unique_late values ('same'), ('same')")


async def _too_long(_: Job, connection: Connection) -> None:
    await connection.execute(
        "insert into tests.words select string_agg(md5(n::text), '') from generate_series(1, 1000) n"
    )


async def _hang(_: Job, __: Connection) -> None:
    await asyncio.sleep(3_600)


async def _cancelled(_: Job, __: Connection) -> None:
    raise asyncio.CancelledError


async def _exit(_: Job, __: Connection) -> None:
    raise SystemExit(3)


async def _unspeakable(_: Job, __: Connection) -> None:
    raise Unspeakable


async def _reject(job: Job, _: Connection) -> None:
    raise Reject("not_wanted", job.event_data.get("text", "told to reject"))


def _nested(_: Job) -> list[Any]:
    inner: list[Any] = []
    for _level in range(100_000):
        inner = [inner]
    return inner


_ACTS: dict[str, Callable[[Job, Connection], Awaitable[Any]]] = {
    "raise": _raise,
    "until": _until,
    "transient": _transient,
    "sql": _sql,
    "swallow": _swallow,
    "late": _late,
    "too_long": _too_long,
    "hang": _hang,
    "cancelled": _cancelled,
    "exit": _exit,
    "unspeakable": _unspeakable,
    "raise_reject": _reject,
}
_RESULTS: dict[str, Callable[[Job], Any]] = {
    "return": lambda job: job.event_data["value"],
    "error": lambda job: ValueError("returned as an error"),  # noqa: ARG005
    "reject": lambda job: Reject("not_wanted", job.event_data.get("text", "told to reject")),
    "odd_reject": lambda job: Reject(404, ValueError("a\0b")),  # type: ignore[arg-type]  # noqa: ARG005
    "object": lambda job: object(),  # noqa: ARG005
    "nul": lambda job: {"text": "a\0b"},  # noqa: ARG005
    "surrogate": lambda job: "\ud800",  # noqa: ARG005
    "no_json": lambda job: msgspec.Raw(b'{"'),  # noqa: ARG005
    "no_number": lambda job: Decimal("1e200000"),  # noqa: ARG005
    "nested": _nested,
}
_WHOLE: dict[str, Callable[[Sequence[Job]], Any]] = {
    "too_few": lambda jobs: [None] * (len(jobs) - 1),
    "too_many": lambda jobs: [None] * (len(jobs) + 1),
    "number": lambda jobs: 5,  # noqa: ARG005
    "letters": lambda jobs: "x" * len(jobs),
}
