"""The user's handlers: how they are found, called, and kept from harming each other's events.

A handler is ``async def handler(events, connection)`` or an object with an async method ``handle`` of that form and,
if it likes, ``finished``, which sees every event with its final status. Both run in the transaction that writes the
status rows: what they write stands exactly if the status does. `events` are :class:`Job`; the result is None, or a
list with, per event, None, anything that JSON can hold (kept under the handler's name in ``result``), or an exception:
:class:`Reject` is final, any other is tried again later. Raising does the same for the events of the call; which of
them was to blame is found by halving.
"""

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from psycopg import AsyncConnection

from schemas.event import Event

Handle = Callable[[Sequence["Job"], AsyncConnection[Any]], Awaitable[Sequence[Any] | None]]
Finished = Callable[[Sequence["Finish"], AsyncConnection[Any]], Awaitable[None]]

ERROR_MESSAGE_CHARACTERS_MAX = 1_000


class Reject(Exception):  # noqa: N818 - the handlers' word for it, as in `raise Reject(...)`
    """An event that can never succeed: it becomes FAILED with this `code` and `message`, and is not tried again."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class HandlersError(ValueError):
    """The setting `handlers` names something that is no handler."""


class Job(msgspec.Struct, frozen=True, gc=False):
    """An event as handlers see it. Numbers in `event_data` are int, or Decimal where they are not whole.

    `attempt` counts from 1; `failed_before`: the event was FAILED, and somebody asked for it to be tried again.
    """

    event: Event
    attempt: int
    received_at: datetime
    failed_before: bool = False

    @property
    def id(self) -> UUID:
        """The event's id."""
        return UUID(bytes=self.event.id)

    @property
    def program_id(self) -> UUID:
        """The program's id."""
        return UUID(bytes=self.event.program.packed)

    @property
    def idempotency_key(self) -> str:
        """The key under which the producer sent the event."""
        return self.event.fields.idempotency_key

    @property
    def event_timestamp(self) -> datetime:
        """The event's own time, in UTC."""
        return self.event.timestamp

    @property
    def external_id(self) -> str | None:
        """The producer's name for the participant."""
        return self.event.fields.external_id

    @property
    def participant_id(self) -> UUID | None:
        """The participant, where the producer knows its id."""
        return self.event.fields.participant_id

    @property
    def event_data(self) -> dict[str, Any]:
        """What the producer sent. Handlers share it: read it, do not change it."""
        return self.event.fields.event_data


class Finish(NamedTuple):
    """A job and the final status that it has got."""

    job: Job
    status: str


class Handler(NamedTuple):
    """One handler under its name in ``result``."""

    name: str
    handle: Handle | None
    finished: Finished | None


def load_handlers(setting: str) -> list[Handler]:
    """The handlers that `setting` names as ``module:name,…``. Raises :class:`HandlersError`."""
    return [_load(item.strip()) for item in setting.split(",") if item.strip()]


def _load(item: str) -> Handler:
    module_name, _, name = item.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise HandlersError(f"handler {item!r} cannot be loaded: {error}") from error
    if inspect.isclass(found):
        found = found()
    handle = found if inspect.iscoroutinefunction(found) else getattr(found, "handle", None)
    finished = getattr(found, "finished", None)
    if handle is None and finished is None:
        raise HandlersError(f"handler {item!r} is neither an async function nor has async handle or finished")
    return Handler(name, handle, finished)


Outcome = dict[str, Any] | Exception | None


class Runner:
    """Runs the handlers over jobs, at most `timeout_s` seconds a call of all of them."""

    def __init__(self, handlers: Sequence[Handler], timeout_s: float) -> None:
        self._handling = [(handler.name, handler.handle) for handler in handlers if handler.handle is not None]
        self._finishing = [handler.finished for handler in handlers if handler.finished is not None]
        self._timeout_s = timeout_s

    async def run(self, jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[Outcome]:
        """The outcome of each job: its results by handler, None, or the exception with which it failed.

        What a failed job's handlers wrote is undone. Raises :class:`psycopg.OperationalError` where Postgres is to
        blame, which no event is.
        """
        if not self._handling or not jobs:
            return [None] * len(jobs)
        outcomes: list[Outcome] = [None] * len(jobs)
        pending = [list(range(len(jobs)))]
        while pending:
            numbers = pending.pop()
            try:
                async with connection.transaction():
                    results = await self._call([jobs[number] for number in numbers], connection)
                    failed = [at for at, result in enumerate(results) if isinstance(result, Exception)]
                    if failed:
                        raise _Undo
            except _Undo:
                for at in failed:
                    outcomes[numbers[at]] = results[at]
                rest = [number for at, number in enumerate(numbers) if not isinstance(results[at], Exception)]
                pending.extend([rest] if rest else [])
            except (psycopg.OperationalError, psycopg.InterfaceError):
                raise
            except Exception as error:  # noqa: BLE001 - the handlers' code may raise anything; it becomes the outcome
                if len(numbers) == 1:
                    outcomes[numbers[0]] = error
                else:
                    middle = len(numbers) // 2
                    pending.extend([numbers[middle:], numbers[:middle]])
            else:
                for number, result in zip(numbers, results, strict=True):
                    outcomes[number] = result
        return outcomes

    async def _call(self, jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[Outcome]:
        """Call each handler with the jobs that none before it has failed."""
        merged: list[Outcome] = [None] * len(jobs)
        async with asyncio.timeout(self._timeout_s):
            for name, handle in self._handling:
                results = await handle(jobs, connection)
                if results is None:
                    continue
                if len(results) != len(jobs):
                    raise HandlersError(f"handler {name} returned {len(results)} results for {len(jobs)} events")
                for at, result in enumerate(results):
                    merged[at] = _merge(merged[at], name, result)
        return merged

    async def finish(self, finishes: Sequence[Finish], connection: AsyncConnection[Any]) -> None:
        """Show the handlers that ask for it which jobs have got a final status."""
        for finished in self._finishing if finishes else ():
            await finished(finishes, connection)


class _Undo(Exception):  # noqa: N818 - rolls a savepoint back; never leaves this module
    """Some of the jobs failed: undo the call, and call again without them."""


def _merge(before: Outcome, name: str, result: Any) -> Outcome:
    if isinstance(before, Exception) or result is None:
        return before
    if isinstance(result, Exception):
        return result
    return {**(before or {}), name: result}


def describe(error: Exception) -> str:
    """An exception as the status row shows it: its type and message, shortened, without what Postgres cannot store."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text.replace("\0", "\\0").encode(errors="replace").decode()[:ERROR_MESSAGE_CHARACTERS_MAX]
