"""Headrace with one thing broken, to show that the checker sees it: ``python -m tests.chaos.broken NAME worker``.

Each breach takes away one of the steps on which exactness rests, and then starts the ordinary program.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

from deploy import cli

ACKNOWLEDGED_FIRST = "acknowledged-first"
"""A worker acknowledges a chunk, and commits its offset, before Postgres has it."""
FORGETFUL = "forgetful"
"""A worker asks neither its table nor Postgres who owns a key; the test drops the unique key besides."""
COMMITS_WHAT_IS_FETCHED = "commits-what-is-fetched"
"""A worker commits the offset up to which it was given records, not the end of the last chunk that is done."""
WAITS_FOR_NO_ACKS = "waits-for-no-acks"
"""A gateway answers without waiting for Kafka."""

# Longer than the pause between commits: what is given to the agent is committed while it is in work.
_LONG_WORK_S = 0.9


def _acknowledged_first() -> None:
    from processors.drain import Drain  # noqa: PLC0415 - a worker's parts, for a worker only

    process = Drain._process_bundle  # noqa: SLF001 - where the order of the steps stands

    async def broken(self: Drain, processor: Any, bundle: Any) -> None:  # noqa: ANN401 - passed on
        source: Any = self._source()
        for chunk in bundle:
            source.acknowledge(chunk)
        await source.commit()
        await process(self, processor, bundle)

    _replace(Drain, "_process_bundle", broken)


def _forgetful() -> None:
    from processors.table import DedupeTable  # noqa: PLC0415 - as above

    _replace(DedupeTable, "lookup", lambda _, __, ids: [None] * len(ids))


def _commits_what_is_fetched() -> None:
    from processors.commit import Ledger  # noqa: PLC0415 - as above
    from processors.drain import Drain  # noqa: PLC0415 - as above

    process = Drain._process_bundle  # noqa: SLF001 - to be slowed down

    async def slow(self: Drain, processor: Any, bundle: Any) -> None:  # noqa: ANN401 - passed on
        await asyncio.sleep(_LONG_WORK_S)
        await process(self, processor, bundle)

    _replace(Ledger, "committable", Ledger.positions)
    _replace(Drain, "_process_bundle", slow)


def _waits_for_no_acks() -> None:
    from gateway import intake  # noqa: PLC0415 - a gateway's parts, for a gateway only

    async def broken(*_: object) -> set[Any]:
        await asyncio.sleep(0)
        return set()

    _replace(intake, "_unacknowledged", broken)


BREACHES: dict[str, Callable[[], None]] = {
    ACKNOWLEDGED_FIRST: _acknowledged_first,
    FORGETFUL: _forgetful,
    COMMITS_WHAT_IS_FETCHED: _commits_what_is_fetched,
    WAITS_FOR_NO_ACKS: _waits_for_no_acks,
}


def _replace(owner: object, name: str, new: object) -> None:
    """Put `new` in the place of what must be there: a breach of something that is gone would break nothing."""
    mock.patch.object(owner, name, new).start()


if __name__ == "__main__":
    BREACHES[sys.argv.pop(1)]()
    cli.main()
