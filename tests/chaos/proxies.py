"""TCP proxies that can refuse, cut off, be slow or go deaf, on an event loop in a thread of their own."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import uvloop

from deploy.local import ports

_PIECE_BYTES = 65_536
_CALL_S = 10.0


class Wire:
    """One proxy: passes what comes to `port` on to `target`, unless told otherwise. Lives on the proxies' loop."""

    def __init__(self, target: tuple[str, int]) -> None:
        (self.port,) = ports.pick(1)
        self.delay_s = 0.0
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._hearing = asyncio.Event()
        self._hearing.set()

    async def listen(self) -> None:
        """Accept connections, on the same port each time."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)

    async def refuse(self) -> None:
        """Cut every connection off, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def set_deaf(self, *, deaf: bool) -> None:
        """Pass nothing on any more, while every connection stays open; or pass all on again."""
        self._hearing.clear() if deaf else self._hearing.set()

    async def set_delay(self, delay_s: float) -> None:
        """Hold each piece back for so long."""
        self.delay_s = delay_s

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):  # the target is down, or this proxy is told to cut off
            return
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, server_writer))
                group.create_task(self._pass_on(server_reader, writer))
        finally:
            server_writer.close()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the other end is gone: so is this one
            while data := await source.read(_PIECE_BYTES):
                await self._hearing.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(data)
                await sink.drain()
        sink.close()


class Proxies:
    """Proxies by name, and the thread that they run in."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self._wires: dict[str, list[Wire]] = {}

    def add(self, name: str, target: tuple[str, int]) -> int:
        """A new proxy in front of `target`, under a name that several may share; the port that it listens on."""

        async def make() -> Wire:
            wire = Wire(target)
            await wire.listen()
            return wire

        wire: Wire = self._call(make())
        self._wires.setdefault(name, []).append(wire)
        return wire.port

    def refuse(self, name: str) -> None:
        """Cut the connections off and take no new ones."""
        self._each(name, Wire.refuse)

    def listen(self, name: str) -> None:
        """Take connections again."""
        self._each(name, Wire.listen)

    def set_deaf(self, name: str, *, deaf: bool) -> None:
        """Go deaf, or hear again."""
        self._each(name, lambda wire: wire.set_deaf(deaf=deaf))

    def set_delay(self, name: str, delay_s: float) -> None:
        """Be slow; 0: no more."""
        self._each(name, lambda wire: wire.set_delay(delay_s))

    def stop(self) -> None:
        """Cut everything off and end."""
        for name in self._wires:
            self.set_deaf(name, deaf=False)
            self.refuse(name)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    def _each(self, name: str, do: Callable[[Wire], Awaitable[None]]) -> None:
        async def all_of(wires: Iterable[Wire]) -> None:
            for wire in wires:
                await do(wire)

        self._call(all_of(self._wires[name]))

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever `work` gives
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_S)
