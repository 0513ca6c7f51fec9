"""Drives an ASGI application in this process: as much of HTTP as a test needs, one message at a time."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from starlette.types import ASGIApp, Message, Scope


class Answer(msgspec.Struct):
    """What came back. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the body holds
        """The body, decoded."""
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The error's code."""
        code = self.json["code"]
        assert isinstance(code, str)
        return code


def make_scope(method: str, target: str, headers: Mapping[str, str] | None = None) -> Scope:
    """An HTTP request as uvicorn presents it; `target` is the path with its query."""
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": quote(path, safe="/%:").encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8080),
        "state": {},
    }


async def pieces_of(body: bytes | Iterable[bytes]) -> AsyncIterator[bytes]:
    """A body, whole or in pieces."""
    for piece in (body,) if isinstance(body, bytes) else body:
        yield piece


class Client:
    """A client of one application, with headers of its own."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str] | None = None) -> None:
        self.app = app
        self.headers = dict(headers or {})

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | AsyncIterator[bytes] = b"",
    ) -> Answer:
        """Send one request; returns when its answer is complete."""
        pieces = body if isinstance(body, AsyncIterator) else pieces_of(body)
        ended = False
        messages: list[Message] = []

        async def receive() -> Message:
            nonlocal ended
            if ended:
                await asyncio.Event().wait()
            try:
                return {"type": "http.request", "body": await anext(pieces), "more_body": True}
            except StopAsyncIteration:
                ended = True
                return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            messages.append(message)

        scope = make_scope(method, target, {"Host": "localhost", **self.headers, **(headers or {})})
        # A task of its own, as with uvicorn, so that context variables end with the request.
        await asyncio.create_task(self.app(scope, receive, send))  # type: ignore[arg-type]  # it is a coroutine
        return _answer(messages)

    async def get(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a GET."""
        return await self.request("GET", target, headers)


def _answer(messages: list[Message]) -> Answer:
    start, *bodies = messages
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
    assert len(headers) == len(start["headers"]), "a header is given twice"
    assert [message.get("more_body", False) for message in bodies] == [True] * (len(bodies) - 1) + [False]
    return Answer(start["status"], headers, b"".join(message.get("body", b"") for message in bodies))
