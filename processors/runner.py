"""Runs the handlers over many events at once, and keeps what one event breaks from the others.

Each call has a savepoint and a time limit. A call that fails is undone and done again without the events that it names,
or, where it only raised, in two halves, until the event to blame is alone.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from processors.database import is_transient
from processors.handling import Finish, Finished, Handler, HandlersError, Job, Reject, TransactionEndedError
from processors.suspects import GIVEN_UP_AFTER, Suspects
from processors.watchdog import beating
from schemas.errors import HANDLER_CRASHED

log = structlog.get_logger(__name__)

Outcome = bytes | BaseException | None
"""A job's results by handler as JSON, None where there are none, or the exception with which it failed."""

_LEAST_LIMIT = 1 / 20  # of the first call's, for the smallest part
_SEARCH_LIMITS = 4  # the whole search for what hangs may take so many times the limit of one call

_CRASHED = f"{GIVEN_UP_AFTER} workers have ended one after the other while they were at this event alone"

_encoder = msgspec.json.Encoder(decimal_format="number")
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines
_BACKSLASH = ord("\\")
_escaped_nul = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search


class Runner:
    """Runs the handlers, at most `timeout_s` seconds a call of all of them.

    `alive` is called every few seconds meanwhile. A half of a call that hung has half its time.
    """

    def __init__(self, handlers: Sequence[Handler], timeout_s: float, suspects: Suspects | None = None) -> None:
        self.alive: Callable[[], None] = lambda: None
        self._suspects = suspects or Suspects(None)
        self._handling = [(handler.name, handler.handle) for handler in handlers if handler.handle is not None]
        self._finishing = [handler.finished for handler in handlers if handler.finished is not None]
        self._timeout_s = timeout_s

    async def run(self, jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[Outcome]:
        """The outcome of each job. What a failed job's handlers wrote is undone.

        Raises what psycopg raised where Postgres is to blame, which no event is, and :class:`TransactionEndedError`.
        """
        outcomes: list[Outcome] = [None] * len(jobs)
        if not self._handling or not jobs:
            return outcomes
        ids = [job.event.id for job in jobs]
        search = _Search(self._suspects.groups(ids), self._timeout_s)
        for number, id_ in enumerate(ids):
            if self._suspects.is_given_up(id_):
                outcomes[number] = Reject(HANDLER_CRASHED, _CRASHED)
        async with beating(self.alive):
            while search.pending:
                numbers, limit_s = search.next()
                if search.is_over():
                    late = TimeoutError("the time for this chunk was used up before this event had its turn")
                    _fill(outcomes, numbers, [late] * len(numbers))
                    continue
                try:
                    results = await self._call([jobs[number] for number in numbers], connection, limit_s)
                except _Undo as undo:
                    _fill(outcomes, numbers, undo.results)
                    search.again([n for n, result in zip(numbers, undo.results, strict=True) if not _failed(result)])
                except BaseException as error:  # noqa: BLE001 - the handlers' code may raise anything
                    _raise_what_is_no_events_fault(error)
                    if not search.halve(numbers, limit_s, error):
                        outcomes[numbers[0]] = error
                else:
                    _fill(outcomes, numbers, results)
        self._suspects.settled(ids)
        return outcomes

    async def _call(self, jobs: Sequence[Job], connection: AsyncConnection[Any], limit_s: float) -> list[Outcome]:
        """Call one handler after the other. Raises :class:`_Undo` as soon as one says that jobs have failed."""
        async with _savepoint(connection, limit_s):
            with self._suspects.under_way([job.event.id for job in jobs]):
                merged = await self._merged(jobs, connection)
            outcomes = _all_encoded(merged)
            _stop_at_failures(outcomes)
        return outcomes

    async def _merged(self, jobs: Sequence[Job], connection: AsyncConnection[Any]) -> list[dict[str, Any]]:
        """The results of each job, by handler."""
        merged: list[dict[str, Any]] = [{} for _ in jobs]
        for name, handle in self._handling:
            results = await handle(jobs, connection)
            if results is None:
                continue
            _check_shape(name, results, len(jobs))
            _stop_at_failures(results)
            for mine, result in zip(merged, results, strict=True):
                if result is not None:
                    mine[name] = result
        return merged

    @property
    def shows_finished(self) -> bool:
        """Whether there is a handler that asks for final statuses."""
        return bool(self._finishing)

    async def finish(self, finishes: Sequence[Finish], connection: AsyncConnection[Any]) -> None:
        """Show the handlers that ask for it which jobs have got a final status.

        A job at which one of them fails keeps its status; what failed is undone and logged.
        """
        for finished in self._finishing if finishes else ():
            async with beating(self.alive):
                await self._show(finished, finishes, connection)

    async def _show(self, finished: Finished, finishes: Sequence[Finish], connection: AsyncConnection[Any]) -> None:
        ids = [finish.job.event.id for finish in finishes]
        search = _Search(self._suspects.groups(ids), self._timeout_s)
        while search.pending:
            numbers, limit_s = search.next()
            try:
                async with _savepoint(connection, limit_s):
                    with self._suspects.under_way([ids[number] for number in numbers]):
                        await finished([finishes[number] for number in numbers], connection)
            except BaseException as error:
                _raise_what_is_no_events_fault(error)
                if search.is_over() or not search.halve(numbers, limit_s, error):
                    failed = [str(finishes[number].job.id) for number in numbers]
                    log.exception("a handler failed at finished events", ids=failed)


class _Undo(Exception):  # noqa: N818 - rolls a savepoint back; never leaves this module
    """Some of the jobs failed: undo the call, and call again without them."""

    def __init__(self, results: list[Outcome]) -> None:
        super().__init__()
        self.results = results


class _Search:
    """Which jobs are still to be called, in order, and how long a call may take."""

    def __init__(self, groups: Sequence[list[int]], limit_s: float) -> None:
        self.pending = [(numbers, limit_s) for numbers in reversed(groups)]
        self._limit_s = limit_s
        self._over_at = asyncio.get_running_loop().time() + _SEARCH_LIMITS * limit_s

    def next(self) -> tuple[list[int], float]:
        return self.pending.pop()

    def is_over(self) -> bool:
        return asyncio.get_running_loop().time() > self._over_at

    def again(self, numbers: list[int]) -> None:
        if numbers:
            self.pending.append((numbers, self._limit_s))

    def halve(self, numbers: list[int], limit_s: float, error: BaseException) -> bool:
        """Call the halves next; False where there is but one job."""
        if len(numbers) == 1:
            return False
        if isinstance(error, TimeoutError):
            limit_s = max(limit_s / 2, self._limit_s * _LEAST_LIMIT)
        middle = len(numbers) // 2
        self.pending += [(numbers[middle:], limit_s), (numbers[:middle], limit_s)]
        return True


@asynccontextmanager
async def _savepoint(connection: AsyncConnection[Any], limit_s: float) -> AsyncIterator[None]:
    async with connection.transaction(), asyncio.timeout(limit_s):
        yield
        status = connection.pgconn.transaction_status
        if status == TransactionStatus.INERROR:
            raise HandlersError(
                "a handler caught an error of its SQL and went on: it needs a savepoint of its own there"
            )
        if status == TransactionStatus.IDLE:
            raise TransactionEndedError("a handler ended the transaction, which is not its own")


def _raise_what_is_no_events_fault(error: BaseException) -> None:
    """Return where an event is to blame, rather than Postgres, or whoever stops this worker."""
    if isinstance(error, KeyboardInterrupt | GeneratorExit | TransactionEndedError):
        raise error
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():  # else the handler's own word, not a request to stop
            raise error
    transient = _transient_behind(error)
    if transient is not None:
        raise transient


def _transient_behind(error: BaseException) -> BaseException | None:
    """The fault of Postgres behind `error`, also where a handler wrapped it into an exception of its own."""
    seen: set[int] = set()
    around: list[BaseException | None] = [error]
    while around:
        one = around.pop()
        if one is None or id(one) in seen:
            continue
        if is_transient(one):
            return one
        seen.add(id(one))
        around += [one.__cause__, None if one.__suppress_context__ else one.__context__]
        around += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
    return None


def _check_shape(name: str, results: Any, jobs: int) -> None:
    if not isinstance(results, Sequence) or isinstance(results, str | bytes):
        raise HandlersError(f"handler {name} returned {type(results).__name__}, not a list with one result per event")
    if len(results) != jobs:
        raise HandlersError(f"handler {name} returned {len(results)} results for {jobs} events")


def _failed(result: Any) -> bool:
    return isinstance(result, BaseException)


def _stop_at_failures(results: Sequence[Any]) -> None:
    """Raise :class:`_Undo` where there are failures among the results; raise those that are no event's fault."""
    if not any(issubclass(kind, BaseException) for kind in set(map(type, results))):
        return
    failures = [result if _failed(result) else None for result in results]
    for failure in failures:
        if failure is not None:
            _raise_what_is_no_events_fault(failure)
    raise _Undo(failures)


def _fill(outcomes: list[Outcome], numbers: Sequence[int], results: Sequence[Outcome]) -> None:
    for number, result in zip(numbers, results, strict=True):
        outcomes[number] = result


def _all_encoded(results: Sequence[dict[str, Any]]) -> list[Outcome]:
    """The results as :func:`_encoded`, None for one that is empty; where all is well, encoded at once."""
    try:
        encoded = _encode_lines(results)
    except (TypeError, ValueError, OverflowError, RecursionError):
        encoded = b""
    lines = encoded.split(b"\n")[:-1]
    if _BACKSLASH in encoded or len(lines) != len(results):  # a msgspec.Raw may hold lines of its own
        return [_encoded(mine) if mine else None for mine in results]
    return [line if mine else None for mine, line in zip(results, lines, strict=True)]


def _encoded(result: dict[str, Any]) -> Outcome:
    """The result as JSON that Postgres can keep, or what is wrong with it."""
    try:
        encoded = _encode(result)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return error
    if b"\\u0000" in encoded and _escaped_nul(encoded):
        return ValueError("a handler's result contains a NUL character, which cannot be stored")
    return encoded
