"""The server's protocol, over real sockets: slow, huge, broken and pipelined requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Any

import pytest

from gateway import protocol
from gateway.protocol import HEAD_BYTES_MAX, BoundedProtocol
from tests.gateway.wire import GET, HEADERS_TIMEOUT_S, KEEP_ALIVE_S, Connection, served

pytestmark = pytest.mark.anyio

Connect = Callable[[], Any]


@pytest.fixture
async def connect(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connect]:
    monkeypatch.setattr(protocol, "LINGER_S", 0.2)
    async with served(timeout_keep_alive=KEEP_ALIVE_S) as server:
        port = server.servers[0].sockets[0].getsockname()[1]
        opened: list[Connection] = []

        async def open_one() -> Connection:
            opened.append(Connection(*await asyncio.open_connection("127.0.0.1", port)))
            return opened[-1]

        yield open_one
        for connection in opened:
            connection.writer.close()


async def test_requests_follow_each_other(connect: Connect) -> None:
    connection = await connect()
    for _ in range(3):
        await connection.send(GET)
        status, headers, body = await connection.answer()
        assert (status, body) == (200, b"hello")
        assert "connection" not in headers


async def test_slow_headers_end_in_time(connect: Connect) -> None:
    begun_at = monotonic()
    connection = await connect()

    async def dribble() -> None:
        for byte in GET[:-2] + b"X: " + b"x" * 1_000:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    assert await connection.refusal() == (408, "request_timeout")
    # The loop's timers are exact to some milliseconds.
    assert HEADERS_TIMEOUT_S - 0.05 <= monotonic() - begun_at < HEADERS_TIMEOUT_S + 2
    dribbling.cancel()


@pytest.mark.parametrize("first", [b"", b"\r\n"])
async def test_a_silent_connection_is_closed_without_a_word(connect: Connect, first: bytes) -> None:
    connection = await connect()
    await connection.send(first)
    assert await connection.ended_within(HEADERS_TIMEOUT_S + 1)


async def test_line_ends_keep_no_connection(connect: Connect) -> None:
    connection = await connect()
    await connection.send(GET)
    await connection.answer()
    begun_at = monotonic()
    try:
        while monotonic() - begun_at < KEEP_ALIVE_S + 2:
            await connection.send(b"\r\n")
            await asyncio.sleep(0.05)
    except ConnectionError:
        pass
    assert monotonic() - begun_at < KEEP_ALIVE_S + 2


async def test_the_second_requests_headers_have_a_deadline_too(connect: Connect) -> None:
    connection = await connect()
    await connection.send(GET)
    await connection.answer()
    await connection.send(GET[:-2])
    assert await connection.refusal() == (408, "request_timeout")


async def test_a_request_in_work_is_not_touched(connect: Connect) -> None:
    connection = await connect()
    await connection.send(GET.replace(b"/", b"/slow", 1) + GET[:5])  # with the beginning of a next one
    assert (await connection.answer())[2] == b"slow"
    await connection.send(GET[5:])
    assert (await connection.answer())[2] == b"hello"


@pytest.mark.parametrize("size", [HEAD_BYTES_MAX, 4 * HEAD_BYTES_MAX])
@pytest.mark.parametrize("piece", [1_000, 10_000_000])
@pytest.mark.parametrize("where", ["one header", "many headers", "url"])
async def test_large_heads_are_refused(connect: Connect, size: int, piece: int, where: str) -> None:
    heads = {
        "one header": b"GET / HTTP/1.1\r\nX: " + b"x" * size + b"\r\n\r\n",
        "many headers": b"GET / HTTP/1.1\r\n" + b"X: yyyyyyyyyyyyyyyy\r\n" * (size // 17) + b"\r\n",
        "url": b"GET /" + b"x" * size + b" HTTP/1.1\r\n\r\n",
    }
    connection = await connect()
    head = heads[where]

    async def sending() -> None:
        for start in range(0, len(head), piece):
            await connection.send(head[start : start + piece])

    task = asyncio.create_task(sending())
    assert await connection.refusal() == (400, "invalid_request")
    task.cancel()


async def test_a_head_within_the_limit_is_served(connect: Connect) -> None:
    connection = await connect()
    await connection.send(b"GET / HTTP/1.1\r\nX: " + b"x" * (HEAD_BYTES_MAX - 1_000) + b"\r\n\r\n")
    assert (await connection.answer())[0] == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET \xff HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused(connect: Connect, raw: bytes) -> None:
    connection = await connect()
    await connection.send(raw)
    assert await connection.refusal() == (400, "invalid_request")


async def test_a_refused_body_is_taken_and_the_connection_goes_on(connect: Connect) -> None:
    connection = await connect()
    await connection.send(b"POST /refuse HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n")
    assert (await connection.answer())[0] == 413
    await connection.send(bytes(3_000_000) + GET)
    assert (await connection.answer())[2] == b"hello"


async def test_an_idle_connection_ends_also_after_a_refused_body(connect: Connect) -> None:
    connection = await connect()
    await connection.send(b"POST /refuse HTTP/1.1\r\nContent-Length: 3\r\n\r\n")
    assert (await connection.answer())[0] == 413
    await connection.send(b"abc")
    assert await connection.ended_within(KEEP_ALIVE_S + 2)


async def test_the_rest_of_a_refused_body_has_a_deadline(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "DRAIN_S", 0.3)
    connection = await connect()
    await connection.send(b"POST /refuse HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await connection.answer())[0] == 413
    begun_at = monotonic()
    try:
        while monotonic() - begun_at < 3:
            await connection.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.02)
    except ConnectionError:
        pass
    assert monotonic() - begun_at < 3


async def test_a_slow_body_ends_the_connection(connect: Connect) -> None:
    connection = await connect()
    await connection.send(b"POST /echo HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
    assert await connection.refusal() == (408, "request_timeout")


async def test_a_client_that_does_not_read_is_cut_off(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "READING_S", 0.3)
    connection = await connect()
    await connection.send(GET.replace(b"/", b"/large", 1))
    await asyncio.sleep(1)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await connection.answer()


async def test_more_connections_than_allowed_are_refused(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "connections_max", lambda: 2)
    first, second = [await connect() for _ in range(2)]
    for connection in (first, second):
        await connection.send(GET)
        assert (await connection.answer())[0] == 200
    third = await connect()
    await first.send(GET)
    assert (await first.answer())[0] == 200
    assert await third.refusal() == (503, "unavailable")


def test_connections_leave_files_for_others() -> None:
    assert 1 <= protocol.connections_max() <= 10_000


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
async def test_an_offer_to_upgrade_is_passed_over(connect: Connect, upgrade: bytes) -> None:
    connection = await connect()
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + upgrade + b"\r\nHTTP2-Settings: AAM\r\n"
    post = b"POST /echo HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    await connection.send(post + offer + b"\r\n{}")
    assert (await connection.answer())[2] == b"{}"
    await connection.send(post + b"\r\n[]")
    assert (await connection.answer())[2] == b"[]"
    await connection.send(b"GET / HTTP/1.1\r\n" + offer + b"\r\n")
    assert (await connection.answer())[2] == b"hello"
    await connection.send(GET)
    assert (await connection.answer())[2] == b"hello"


async def test_the_body_after_an_offer_has_its_deadline(connect: Connect) -> None:
    connection = await connect()
    post = b"POST /echo HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
    await connection.send(post + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n{")
    assert (await connection.answer())[0] == 408


async def test_an_idle_connection_has_its_time_after_each_answer(connect: Connect) -> None:
    connection = await connect()
    for _ in range(4):
        await connection.send(GET)
        assert (await connection.answer())[2] == b"hello"
        await asyncio.sleep(KEEP_ALIVE_S * 0.4)
    assert not await connection.ended_within(KEEP_ALIVE_S * 0.1)
    assert await connection.ended_within(KEEP_ALIVE_S)


async def test_a_client_that_asks_is_told_to_continue(connect: Connect) -> None:
    connection = await connect()
    post = b"POST /echo HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    await connection.send(post + b"Expect: 100-continue\r\n\r\n")
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.send(b"{}")
    assert (await connection.answer())[2] == b"{}"


async def raw_answer(connect: Connect, request: bytes) -> bytes:
    client = await connect()
    await client.send(request)
    return await asyncio.wait_for(client.reader.read(), 5)


async def test_an_answer_without_a_body_has_its_head(connect: Connect) -> None:
    close = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head = await raw_answer(connect, b"HEAD /" + close)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert head.endswith(b"\r\n\r\n")
    empty = await raw_answer(connect, b"GET /empty" + close)
    assert empty.startswith(b"HTTP/1.1 204 ")
    assert empty.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(("path", "beginning"), [("/broken", b""), ("/broken/late", b"HTTP/1.1 200 ")])
async def test_an_answer_that_breaks_off_is_cut_off(connect: Connect, path: str, beginning: bytes) -> None:
    """A head with nothing behind it has not left yet; with a piece of its body it has."""
    answer = await raw_answer(connect, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
    assert answer.startswith(beginning)
    assert answer.partition(b"\r\n\r\n")[2] == (b"begun" if beginning else b"")


async def test_a_header_cannot_smuggle_in_another(connect: Connect) -> None:
    answer = await raw_answer(connect, b"GET /smuggle HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"x-other" not in answer.lower()


async def test_head_and_body_leave_in_one_write(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    made = BoundedProtocol.connection_made

    class Counted:
        def __init__(self, transport: asyncio.Transport) -> None:
            self._transport = transport

        def write(self, data: bytes) -> None:
            written.append(data)
            self._transport.write(data)

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the transport has
            return getattr(self._transport, name)

    monkeypatch.setattr(
        BoundedProtocol,
        "connection_made",
        lambda self, transport: made(self, Counted(transport)),  # type: ignore[arg-type]  # as far as it is used
    )
    client = await connect()
    for _ in range(2):
        await client.send(GET)
        assert (await client.answer())[2] == b"hello"
    assert len(written) == 2
    assert all(data.startswith(b"HTTP/1.1 200 ") and data.endswith(b"hello") for data in written)
