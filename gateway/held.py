"""A connection of the pool that is kept from one statement to the next, as long as they follow each other."""

from gateway.database import Connection, Pool

_STATEMENTS_MAX = 1_000  # then the pool has its turn, to look at the connection and to replace an old one


class HeldConnection:
    """At most one connection. Not for use by several tasks at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Connection | None = None
        self._statements = 0

    async def get(self, timeout_s: float) -> Connection:
        """The connection; raises psycopg.OperationalError where there is none within `timeout_s`."""
        if self._statements >= _STATEMENTS_MAX:
            await self.give_back()
        if self._connection is None:
            self._connection = await self._pool.getconn(timeout_s)
        self._statements += 1
        return self._connection

    async def give_back(self) -> None:
        """Let the pool have it again, which throws it away if it is broken."""
        connection, self._connection, self._statements = self._connection, None, 0
        if connection is not None:
            await self._pool.putconn(connection)
