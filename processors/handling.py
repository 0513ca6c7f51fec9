"""The user's handlers: their form, and how they are found. How they are called: :mod:`processors.runner`.

A handler is ``async def handler(events, connection)`` or an object with an async method ``handle`` of that form and,
if it likes, ``finished``, which sees every event with its final status. Both run in the transaction that writes the
status rows: what they write stands exactly if the status does. The transaction is not theirs to end, and an error of
their SQL that they mean to survive needs a savepoint of their own (``async with connection.transaction()``) around it.

`events` are :class:`Job`; the result is None, or a list with, per event, None, anything that JSON can hold (kept under
the handler's name in ``result``), or an exception: :class:`Reject` is final, any other is tried again later. Raising
does the same for the events of the call; which of them was to blame is found by halving. An event at which
``finished`` fails keeps its status: what that call wrote for it is undone, and the log has it.
"""

import importlib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
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
    """The setting `handlers` names something that is no handler, or a handler does what none may."""


class TransactionEndedError(HandlersError):
    """A handler has committed or rolled back the chunk's transaction."""


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
        return self.event.idempotency_key

    @property
    def event_timestamp(self) -> datetime:
        """The event's own time, in UTC."""
        return self.event.timestamp

    @property
    def external_id(self) -> str | None:
        """The producer's name for the participant."""
        return self.event.external_id

    @property
    def participant_id(self) -> UUID | None:
        """The participant, where the producer knows its id."""
        told = self.event.participant_id
        return None if told is None else UUID(told)

    @property
    def event_data(self) -> dict[str, Any]:
        """What the producer sent. Handlers share it: read it, do not change it."""
        return self.event.event_data


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
    usable = [method for method in (handle, finished) if method is not None]
    if not usable or not all(map(inspect.iscoroutinefunction, usable)):
        raise HandlersError(f"handler {item!r} is neither an async function nor has async handle or finished")
    return Handler(name, handle, finished)


def describe(error: BaseException) -> str:
    """An exception as the status row shows it: its type and message, shortened, without what Postgres cannot store."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - an exception's own code may fail as any other
        message = ""
    return storable_text(f"{type(error).__name__}: {message}" if message else type(error).__name__)


def storable_text(text: object) -> str:
    """`text` as Postgres can store it, shortened."""
    return str(text).replace("\0", "\\0").encode(errors="replace").decode()[:ERROR_MESSAGE_CHARACTERS_MAX]
