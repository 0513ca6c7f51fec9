"""A TCP proxy in front of Postgres that can refuse, cut off, or go deaf: what a network does to a connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from deploy.local import ports

_PIECE_BYTES = 65_536


class Proxy:
    """Passes bytes on while `deaf` is not set. `url` is what the client connects to; `connections` counts them."""

    def __init__(self, database_url: str) -> None:
        kept = conninfo_to_dict(database_url)
        self._target = (str(kept["host"]), int(str(kept["port"])))
        self._database_url = database_url
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._hearing = asyncio.Event()
        self._hearing.set()
        self.port = ports.pick(1)[0]  # not one that the system may give to an outgoing connection while it is cut
        self.connections = 0

    @property
    def url(self) -> str:
        """The database, by way of this proxy."""
        return make_conninfo(self._database_url, host="127.0.0.1", port=self.port)

    def set_deaf(self, deaf: bool) -> None:  # noqa: FBT001 - one flag, and the name says it
        """Pass nothing on any more, while every connection stays open; or pass all on again."""
        if deaf:
            self._hearing.clear()
        else:
            self._hearing.set()

    async def listen(self) -> None:
        """Accept connections, on the same port each time."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def cut(self) -> None:
        """Cut every connection off, and refuse new ones."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, server_writer), (server_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(_PIECE_BYTES):
                await self._hearing.wait()
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass  # the other end is gone: so is this one
        finally:
            sink.close()


@asynccontextmanager
async def proxied(database_url: str) -> AsyncIterator[Proxy]:
    """A proxy that listens."""
    proxy = Proxy(database_url)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.set_deaf(False)
        await proxy.cut()
