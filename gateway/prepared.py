"""One statement, prepared once per connection, sent and answered in libpq's own terms.

A cursor looks at each parameter's type, at the statement's text and at each row's columns anew: for a statement that
never changes, and runs for every few events, that costs several times what the exchange with the server does.
"""

from collections.abc import Sequence
from weakref import WeakSet

from psycopg import errors, generators
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from gateway.database import Connection

Row = tuple[bytes | None, ...]


class PreparedStatement:
    """A statement with `$1` …; parameters travel as binary (bytes) or as text, columns come back as binary."""

    def __init__(self, name: str, statement: str, formats: Sequence[Format]) -> None:
        """`name` is unique among the connection's prepared statements; `formats` are those of the parameters."""
        self._name = name.encode()
        self._statement = statement.encode()
        self._formats = list(formats)
        self._known_to: WeakSet[PGconn] = WeakSet()

    async def rows(self, connection: Connection, parameters: Sequence[bytes]) -> list[Row]:
        """Run it, and give the rows in the bytes of the wire. Raises psycopg.Error."""
        pgconn = connection.pgconn
        if pgconn not in self._known_to:
            pgconn.send_prepare(self._name, self._statement)
            await self._result(connection, ExecStatus.COMMAND_OK)
            self._known_to.add(pgconn)
        pgconn.send_query_prepared(self._name, parameters, self._formats, result_format=Format.BINARY)
        result = await self._result(connection, ExecStatus.TUPLES_OK)
        value = result.get_value
        columns = range(result.nfields)
        return [tuple([value(number, column) for column in columns]) for number in range(result.ntuples)]

    @staticmethod
    async def _result(connection: Connection, expected: ExecStatus) -> PGresult:
        results: list[PGresult] = await connection.wait(generators.execute(connection.pgconn))
        result = results[-1]
        if result.status != expected:
            raise errors.error_from_result(result)
        return result
