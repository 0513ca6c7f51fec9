"""A small application behind the server's protocol, and a client that speaks to it byte by byte."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway import problems
from gateway.bodies import read_body
from gateway.boundary import RequestBoundary
from gateway.protocol import BoundedProtocol
from schemas.settings import Settings

HEADERS_TIMEOUT_S = 0.5
KEEP_ALIVE_S = 2
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def hello(_: Request) -> Response:
    return Response(b"hello")


async def slow(_: Request) -> Response:
    await asyncio.sleep(3 * HEADERS_TIMEOUT_S)
    return Response(b"slow")


async def refuse(_: Request) -> Response:
    return Response(b"no", 413)


async def large(_: Request) -> Response:
    return Response(bytes(50_000_000))


async def echo(request: Request) -> Response:
    return Response(await read_body(request, 1_000))


async def empty(_: Request) -> Response:
    return Response(status_code=204)


class _Broken(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        raise RuntimeError("made up")


async def broken(_: Request) -> Response:
    return _Broken()


async def broken_late(_: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"begun"
        raise RuntimeError("made up")

    return StreamingResponse(pieces(), headers={"Content-Length": "10"})


async def smuggle(_: Request) -> Response:
    return Response(b"hello", headers={"X-One": "a\r\nX-Other: b"})


APP = Starlette(
    routes=[
        Route("/", hello, methods=["GET"]),
        Route("/empty", empty, methods=["GET"]),
        Route("/broken", broken, methods=["GET"]),
        Route("/broken/late", broken_late, methods=["GET"]),
        Route("/smuggle", smuggle, methods=["GET"]),
        Route("/slow", slow, methods=["GET"]),
        Route("/refuse", refuse, methods=["POST"]),
        Route("/large", large, methods=["GET"]),
        Route("/echo", echo, methods=["POST"]),
    ],
    middleware=[Middleware(RequestBoundary)],
    exception_handlers={problems.ApiError: problems.on_api_error},
)
APP.state.settings = Settings(body_timeout_s=0.5)


class Connection:
    """A client's connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send without waiting for an answer. Raises ConnectionError where the server has ended the connection."""
        if self.writer.is_closing():
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body."""
        async with asyncio.timeout(8):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.splitlines()
            headers = {name.lower(): value for name, value in re.findall(r"(?m)^([^:\r\n]+): (.*?)\r?$", head)}
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(lines[0].split()[1]), headers, body

    async def refusal(self) -> tuple[int, str]:
        """The next answer, which is an error after which the connection ends: its status and code."""
        status, headers, body = await self.answer()
        said = msgspec.json.decode(body)
        assert headers["connection"] == "close"
        assert said["request_id"] == headers["x-request-id"]
        assert await self.ended_within(3)
        return status, said["code"]

    async def ended_within(self, seconds: float) -> bool:
        """Whether the server ends the connection, and says nothing before."""
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[uvicorn.Server]:  # noqa: ANN401 - uvicorn's
    """The application behind the protocol, with uvicorn's options."""
    config = uvicorn.Config(APP, port=0, http=BoundedProtocol, lifespan="off", log_config=None, **options)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    server.lifespan.state["settings"] = Settings(headers_timeout_s=HEADERS_TIMEOUT_S)
    await server.startup()
    try:
        yield server
    finally:
        server.force_exit = True
        await server.shutdown()
