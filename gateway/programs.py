"""The program registry: which programs may be written to, where the installation keeps a list of them.

With ``HEADRACE_PROGRAMS=registered`` every gateway holds the list in memory and asks every two seconds for what has
changed. While Postgres is down the list stays as it was; a gateway that has never seen it accepts nothing.
"""

import asyncio
from datetime import UTC, datetime

import structlog

from gateway.database import DATABASE_FAULTS, Database
from gateway.problems import unavailable

REFRESH_S = 2.0

_TIMEOUT_S = 5.0
_OVERLAP = "interval '10 seconds'"  # a change commits a little after the moment that it carries
_CHANGED = f"""
select uuid_send(program_id), disabled_at is not null, updated_at from headrace.programs
where updated_at > %s::timestamptz - {_OVERLAP}
"""  # noqa: S608 - of literals

_log = structlog.get_logger("headrace.gateway")


class Programs:
    """The registered programs; :meth:`may_use` of an open installation says yes to all."""

    def __init__(self, database: Database, *, registered: bool) -> None:
        self._database = database
        self._registered = registered
        self._active: set[bytes] = set()
        self._seen_until: datetime | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to follow the list, where there is one."""
        if self._registered:
            await self._refresh()
            self._task = asyncio.create_task(self._refresh_forever(), name="programs-refresh")

    async def stop(self) -> None:
        """End the background task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def is_open(self) -> bool:
        """Whether any program may be written to."""
        return not self._registered

    def may_use(self, program_packed: bytes) -> bool:
        """Whether a program (16 bytes) may be written to. Raises ApiError `unavailable` before the list is known."""
        if not self._registered:
            return True
        if self._seen_until is None:
            raise unavailable("the list of programs is not known yet, since Postgres does not answer")
        return program_packed in self._active

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            await self._refresh()

    async def _refresh(self) -> None:
        since = self._seen_until or datetime(1970, 1, 1, tzinfo=UTC)
        try:
            rows = await self._database.rows(_CHANGED, [since], timeout_s=_TIMEOUT_S)
        except DATABASE_FAULTS as error:
            _log.warning("the list of programs could not be refreshed", reason=" ".join(str(error).split()))
            return
        for packed, disabled, updated_at in rows:
            (self._active.discard if disabled else self._active.add)(bytes(packed))
            since = max(since, updated_at)
        self._seen_until = since
