"""Makes spans (migration 0005) of what was processed: by them lists within windows know where to begin.

Any gateway makes them, a few at a time; of several, one does at a time. Nothing but the speed of lists depends on it.
"""

import asyncio
from typing import LiteralString

import psycopg
import structlog

from gateway.database import DATABASE_FAULTS, Database

EVENTS_PER_SPAN = 5_000
"""What reading one span costs: about a millisecond."""

_PAUSE_S = 5.0
_BETWEEN_S = 0.1
_SPANS_MAX = 20
"""Spans a statement: some 50 ms."""
_TIMEOUT_S = 5.0
_FAULTS = (*DATABASE_FAULTS, psycopg.errors.UndefinedFunction, psycopg.errors.ReadOnlySqlTransaction)

# Of fresh spans (migration 0007), those of what is in spans; not the row that says that the table is whole. One that
# somebody holds is left for the next turn.
_FORGET: LiteralString = """
delete from headrace.fresh_spans fresh using (
    select created_from, writer from headrace.fresh_spans
    where created_from > '-infinity'
      and created_from <= (select created_to from headrace.spans order by created_from desc limit 1) - interval '250 ms'
    order by created_from limit %s for update skip locked
) old where fresh.created_from = old.created_from and fresh.writer = old.writer returning 1
"""
_FORGOTTEN_MAX = 10_000

_log = structlog.get_logger("headrace.gateway")


class Spans:
    """The background task that makes spans."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to make spans."""
        self._task = asyncio.create_task(self._make_forever(), name="spans")

    async def stop(self) -> None:
        """End the background task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def make(self) -> int:
        """Make a few; how many were made. None are where Postgres is at fault, or somebody else makes some."""
        try:
            rows = await self._database.rows(
                "select headrace.make_spans(%s, %s)", [EVENTS_PER_SPAN, _SPANS_MAX], timeout_s=_TIMEOUT_S
            )
        except _FAULTS as error:
            _log.debug("no spans were made", reason=" ".join(str(error).split()))
            return 0
        return int(rows[0][0])

    async def forget(self) -> int:
        """Forget fresh spans of which nobody asks any more; how many. None are where Postgres is at fault."""
        try:
            return len(await self._database.rows(_FORGET, [_FORGOTTEN_MAX], timeout_s=_TIMEOUT_S))
        except _FAULTS as error:
            _log.debug("no fresh spans were forgotten", reason=" ".join(str(error).split()))
            return 0

    async def _make_forever(self) -> None:
        while True:
            made = await self.make()
            await self.forget()
            # A table full of events without spans takes its turns with whatever else Postgres does.
            await asyncio.sleep(_BETWEEN_S if made == _SPANS_MAX else _PAUSE_S)
