"""The load generator: a process of its own that gets orders on its input, a line of JSON each, and answers so.

Run as ``python -m tests.bench.load``. The first line says where to send (:class:`Target`), each further one what
(:class:`Order`); each order is answered by a line (:class:`Outcome`).

An open order sends at fixed intended moments whatever the answers do, and every time is counted from the intended
moment: a server that stalls pays for all requests that should have gone out meanwhile.
"""

import asyncio
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable

import msgspec
import uvloop

from tests.bench.client import Answer, Connection, connect
from tests.bench.payloads import Payloads
from tests.bench.statuses import Statuses

_ANSWER_TIMEOUT_S = 30.0
_TICK_S = 0.001
_CONNECTIONS_AT_FIRST = 16
_BEHIND_S_MAX = 5.0  # an open order whose requests wait longer than this for a connection has failed
_PERCENTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}


class Target(msgspec.Struct):
    """Where to send, from which event number on, and the Kafka whose status records are watched (empty: none)."""

    host: str
    port: int
    api_key: str
    first: int
    kafka: str = ""


class Order(msgspec.Struct):
    """What to send: `batch` events a request, for `seconds`, through at most so many `connections`.

    `rate` is in events/s, or 0 for as fast as answers come.
    """

    seconds: float
    batch: int
    connections: int
    rate: float = 0.0
    drain_s: float = 0.0  # how long to wait for the last status record


class Outcome(msgspec.Struct):
    """What came of an order. Times in ms by percentile; `wrong` is the first answer that was not a success."""

    events: int
    seconds: float
    failed: int
    post: dict[str, float]
    completed: dict[str, float]
    incomplete: int
    wrong: str = ""


def percentiles(times_s: "array[float]") -> dict[str, float]:
    """The percentiles of some times, in ms."""
    ordered = sorted(times_s)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {name: ordered[min(last, int(share * len(ordered)))] * 1000 for name, share in _PERCENTILES.items()}


class Load:
    """Carries out orders, one after another; event numbers go on from one to the next."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._payloads = Payloads()
        self._number = target.first
        self._statuses: Statuses | None = None
        self._post: array[float] = array("d")
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._connections: list[Connection] = []
        self._idle: list[Connection] = []
        self._events = self._failed = self._under_way = 0
        self._wrong = ""
        self._next: Callable[[Connection], None] = self._idle.append

    async def carry_out(self, order: Order) -> Outcome:
        """Send, wait for all answers and, where status records are watched, for those."""
        if self._target.kafka and self._statuses is None:
            self._statuses = Statuses(self._target.kafka)
            await self._statuses.start()
        self._post = array("d")
        self._events = self._failed = 0
        self._wrong = ""
        first = self._number
        if self._statuses:
            self._statuses.restart(first)
        # An open order opens more of them when it needs them.
        count = min(order.connections, _CONNECTIONS_AT_FIRST) if order.rate else order.connections
        self._connections = await connect(self._target.host, self._target.port, count, self._on_answer)
        self._idle = list(self._connections)
        start = time.perf_counter()
        try:
            await (self._open(order, start) if order.rate else self._closed(order, start))
            await self._all_answered()
        finally:
            for connection in self._connections:
                connection.close()
        seconds = time.perf_counter() - start
        completed: dict[str, float] = {}
        incomplete = 0
        if self._statuses:
            incomplete = await self._statuses.drain(self._events, order.drain_s)
            completed = percentiles(self._statuses.times_s)
        return Outcome(self._events, seconds, self._failed, percentiles(self._post), completed, incomplete, self._wrong)

    def _request(self, size: int, intended: float) -> bytes:
        if self._statuses:
            self._statuses.expect(size, intended)
        body = self._payloads.batch(self._number, size) if size > 1 else self._payloads.event(self._number)
        self._number += size
        path = b"/v1/events/batch" if size > 1 else b"/v1/events"
        head = b"POST %s HTTP/1.1\r\nHost: bench\r\nX-API-Key: %s\r\nContent-Type: application/json\r\n"
        return (head + b"Content-Length: %d\r\n\r\n%s") % (path, self._target.api_key.encode(), len(body), body)

    def _send(self, connection: Connection, request: bytes, intended: float, size: int) -> None:
        self._under_way += 1
        connection.send(request, intended, size)

    def _on_answer(self, connection: Connection, answer: Answer) -> None:
        self._under_way -= 1
        self._post.append(time.perf_counter() - connection.sent_at)
        size = connection.size
        self._events += size
        if answer.status != 200 or (size > 1 and b'"success_count":%d,' % size not in answer.beginning):
            self._failed += size
            self._wrong = self._wrong or f"{answer.status} {answer.beginning.decode(errors='replace')}"
        self._next(connection)

    async def _closed(self, order: Order, start: float) -> None:
        """Each connection sends its next request when it has its answer."""

        def send_next(connection: Connection) -> None:
            now = time.perf_counter()
            if now - start < order.seconds:
                self._send(connection, self._request(order.batch, now), now, order.batch)

        self._next = send_next
        for connection in self._idle:
            send_next(connection)
        await asyncio.sleep(order.seconds)

    async def _open(self, order: Order, start: float) -> None:
        """Requests go out at their intended moments, or wait for a connection, and the wait counts."""
        interval_s = order.batch / order.rate
        total = int(order.seconds / interval_s)
        self._waiting.clear()

        def send_waiting(connection: Connection) -> None:
            if self._waiting:
                intended, request = self._waiting.popleft()
                self._send(connection, request, intended, order.batch)
            else:
                self._idle.append(connection)

        self._next = send_waiting
        made = 0
        opening: asyncio.Task[None] | None = None
        while made < total or self._waiting:
            now = time.perf_counter()
            while made < total and start + made * interval_s <= now:
                intended = start + made * interval_s
                self._waiting.append((intended, self._request(order.batch, intended)))
                made += 1
                if (connection := self._idle_connection()) is not None:
                    send_waiting(connection)
            if self._waiting and len(self._connections) < order.connections and (opening is None or opening.done()):
                opening = asyncio.create_task(self._open_another())
            if self._waiting and now - self._waiting[0][0] > _BEHIND_S_MAX:
                self._failed += len(self._waiting) * order.batch
                self._wrong = self._wrong or f"{len(self._waiting)} requests found no connection in {_BEHIND_S_MAX} s"
                self._waiting.clear()
                return
            await asyncio.sleep(_TICK_S)

    def _idle_connection(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                return connection
            self._connections.remove(connection)  # the server closes what has been idle for a while
        return None

    async def _open_another(self) -> None:
        (connection,) = await connect(self._target.host, self._target.port, 1, self._on_answer)
        self._connections.append(connection)
        self._next(connection)

    async def _all_answered(self) -> None:
        deadline = time.perf_counter() + _ANSWER_TIMEOUT_S
        while self._under_way:
            if time.perf_counter() > deadline or all(connection.lost for connection in self._connections):
                self._failed += self._under_way
                self._wrong = self._wrong or f"{self._under_way} requests without an answer"
                self._under_way = 0
            await asyncio.sleep(_TICK_S)


def main() -> None:
    """Take orders until the input ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        lines = iter(sys.stdin.buffer)
        load = Load(msgspec.json.decode(next(lines), type=Target))
        for line in lines:
            outcome = runner.run(load.carry_out(msgspec.json.decode(line, type=Order)))
            sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
