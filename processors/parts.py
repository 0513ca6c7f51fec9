"""A chunk in parts, where Postgres refuses it whole: one event that cannot be written must not hold up the others."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from psycopg import DatabaseError

from processors.handling import TransactionEndedError
from processors.written import Written

log = structlog.get_logger(__name__)

Item = TypeVar("Item")
Write = Callable[[Sequence[Item], Exception | None], Awaitable[Written]]

REFUSED = (DatabaseError, TransactionEndedError)
"""What a write fails with when an event is to blame: transient faults are waited out further down."""


async def write_in_parts(items: Sequence[Item], write: Write[Item]) -> Written:
    """Write `items`; where that is refused, write them by halves, in order.

    ``write(part, blame)`` is one transaction; `blame` is None, or what the one item of `part` was refused with. After
    parts, an empty part closes the chunk.
    """
    try:
        return await write(items, None)
    except REFUSED as error:
        if not items:
            raise
        log.warning("postgres refuses a chunk", events=len(items), reason=repr(error))
        written = await _refused(items, write, error)
    written.add(await write((), None))
    return written


async def _refused(items: Sequence[Item], write: Write[Item], error: Exception) -> Written:
    if len(items) == 1:
        return await write(items, error)
    written = Written()
    middle = len(items) // 2
    for part in (items[:middle], items[middle:]):
        try:
            written.add(await write(part, None))
        except REFUSED as again:
            written.add(await _refused(part, write, again))
    return written
