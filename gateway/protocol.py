"""HTTP/1.1 with a limit on everything that comes before a request or after its answer.

An application hears of a request when its headers are complete, so these limits belong into the server:
``uvicorn gateway.app:app --http gateway.protocol:BoundedProtocol`` (which is what ``headrace gateway`` runs). Without
it the gateway works the same, but a client can take as long as it likes to send its headers, and send as many.

Limits: time and size of the headers, connections of one process, time that the rest of a refused body may take to
arrive, and time that a client may take to read its answer. What breaks one is refused in the catalogue's form.
"""

import asyncio
import resource
from collections.abc import Callable
from typing import Any

import httptools
import msgspec
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway import metrics
from gateway.bodies import BODY_IS_HERE
from gateway.identify import new_request_id
from gateway.problems import ErrorAnswer
from schemas.errors import INVALID_REQUEST, REQUEST_TIMEOUT, UNAVAILABLE, ErrorCode
from schemas.settings import Settings

HEAD_BYTES_MAX = 65_536
CONNECTIONS_MAX = 10_000
DRAIN_S = 5.0  # for the rest of a body that was refused
READING_S = 60.0  # for a client to take its answer, whenever more of it waits than the buffers hold
LINGER_S = 1.0  # between a refusal and the end of its connection, so that the client can read it

_FILES_FOR_OTHERS = 100  # descriptors that are not a client's connection
_FIELD_OVERHEAD_BYTES = 4  # ": " and the line end

_FRAMING = frozenset({b"connection", b"transfer-encoding"})  # headers that change how the answer is sent

_log = structlog.get_logger("headrace.gateway")


class _HeadTooLargeError(Exception):
    """The headers are larger than `HEAD_BYTES_MAX`; httptools turns it into an error of its own."""


def connections_max() -> int:
    """Connections of one process: what the limit on open files allows, `CONNECTIONS_MAX` at the most."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(1, min(CONNECTIONS_MAX, soft - _FILES_FOR_OTHERS))


class _OneWrite(RequestResponseCycle):
    """uvicorn's way with one request; an answer whose body comes in one piece leaves in one write with its head."""

    _start: Any = None  # the head, until it is known what follows

    async def send(self, message: Any) -> None:  # noqa: ANN401 - uvicorn's types are private
        """Take a message of the application's."""
        start, self._start = self._start, None
        if start is None:
            if self.response_started or message["type"] != "http.response.start":
                await super().send(message)
            else:
                self._start = message
                self.response_started = True
            return
        content = None if self.flow.write_paused or self.disconnected else self._whole(start, message)
        if content is None:  # rare: uvicorn looks at it thoroughly
            self.response_started = False
            await super().send(start)
            await super().send(message)
            return
        self.waiting_for_100_continue = False
        self.response_complete = True
        self.transport.write(content)
        self.message_event.set()
        self.on_response()

    def _whole(self, start: Any, message: Any) -> bytes | None:  # noqa: ANN401 - as above
        """The answer as it travels; None where it is not as simple as answers are."""
        body = message.get("body", b"")
        if not self.keep_alive or message.get("more_body", False) or self.scope["method"] == "HEAD":
            return None
        headers = [*self.default_headers, *start["headers"]]
        parts = [STATUS_LINE[start["status"]]]
        length = None
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                length = value
            elif name in _FRAMING:
                return None
        parts.append(b"\r\n")
        head = b"".join(parts)
        # A line end within a value would be the beginning of another header.
        return head + body if length == b"%d" % len(body) and head.count(b"\n") == len(headers) + 2 else None


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, with the limits of this module."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        settings: Settings = app_state.get("settings") or Settings()  # the application's own, given at its start
        self._headers_timeout_s = settings.headers_timeout_s
        self._timer: asyncio.TimerHandle | None = None  # of the head, or of the rest of a body; never both
        self._reading_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None  # in the loop's time
        self._between_messages = True
        self._message_ended = False  # within what is being parsed
        self._in_head = True
        self._head_bytes = 0  # received
        self._field_bytes = 0  # parsed: a head that arrives in one piece is parsed before its size is looked at
        self._refused = False
        self._rereading = False  # a head that the application knows already

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in the parent
        """Begin to wait for the first request's head."""
        super().connection_made(transport)
        if len(self.connections) > connections_max():
            self._refuse(UNAVAILABLE, "this gateway has as many connections as it can take", retry_after_s=1)
            return
        self._start_timer(self._headers_timeout_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave no timer behind."""
        self._stop_timer()
        for timer in (self._reading_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, within the limits on the head."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        self._idle_since = None
        begins = self._between_messages
        self._message_ended = False
        self._parse(data)
        if not self._in_head or self._refused:
            return
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse_large_head()
        elif begins and not self._message_ended and self._timer is None:
            # Also for bytes that begin no message, such as line ends. Most heads come whole and need no timer.
            self._start_timer(self._headers_timeout_s, self._head_is_late)

    def on_message_begin(self) -> None:
        """A request's first byte is here."""
        if self._rereading:
            return
        self._between_messages = False
        self._in_head = True
        self._head_bytes = self._field_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count."""
        if self._rereading:
            return
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count, and keep."""
        if self._rereading:
            return
        self._count(len(name) + len(value) + _FIELD_OVERHEAD_BYTES)
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is here in time: from now on the application counts."""
        if self._rereading:
            return
        self._in_head = False
        self._head_bytes = 0
        self._stop_timer()
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.__class__ = _OneWrite  # uvicorn makes it: there is no other way to it

    def on_message_complete(self) -> None:
        """The request is here as a whole."""
        self._between_messages = True
        self._in_head = True
        self._message_ended = True
        super().on_message_complete()
        if not self.cycle.response_complete:
            self.scope[BODY_IS_HERE] = True  # type: ignore[literal-required]  # between ourselves
        elif not self.pipeline:
            # The answer was first, and the data after it have stopped the time that an idle connection has.
            self._stop_timer()
            self._begin_to_idle()

    def on_response_complete(self) -> None:
        """The answer is out, perhaps before the whole body was in; the next request begins, if it is here already."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._begin_to_idle()
        if not self._between_messages and not self._in_head and self._timer is None:
            self._start_timer(DRAIN_S, self.transport.close)

    def pause_writing(self) -> None:
        """The client does not read its answer fast enough: it gets a while for that, not for ever."""
        if self._reading_timer is None:
            self._reading_timer = self.loop.call_later(READING_S, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed; `msg` is uvicorn's."""
        if self._field_bytes > HEAD_BYTES_MAX:
            self._refuse_large_head()
        else:
            self._refuse(INVALID_REQUEST, msg.removesuffix(".").lower())

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            else:
                self._pass_over_upgrade(data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Read on in HTTP/1.1 where a client offered something else, as Java's does with every first request.

        The parser has taken the request as ended with its head. A new one is brought to where the body begins, by a
        head that says no more than how the body is framed.
        """
        framing = [
            name + b": " + value + b"\r\n"
            for name, value in self.headers
            if name in {b"content-length", b"transfer-encoding"}
        ]
        self.parser = httptools.HttpRequestParser(self)
        if framing and not self.cycle.response_complete:
            self.cycle.more_body = True  # the application has not run yet: it begins after this call
            del self.scope[BODY_IS_HERE]  # type: ignore[misc]  # as above
            self.cycle.message_event.clear()
            self._between_messages = self._in_head = False
            self._rereading = True
            self._parse(b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n"]))
            self._rereading = False
        if rest:
            self._parse(rest)

    def _count(self, size: int) -> None:
        self._field_bytes += size
        if self._field_bytes > HEAD_BYTES_MAX:
            raise _HeadTooLargeError

    def _refuse_large_head(self) -> None:
        self._refuse(INVALID_REQUEST, f"the request line and headers are larger than {HEAD_BYTES_MAX} bytes")

    def _head_is_late(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            # A pipelined request, which may take its time as long as the one before it does.
            self._start_timer(self._headers_timeout_s, self._head_is_late)
        elif self._between_messages:
            self.transport.close()  # nothing has begun: there is nobody to tell
        else:
            self._refuse(REQUEST_TIMEOUT, f"the headers did not arrive within {self._headers_timeout_s:g} s")

    def _refuse(self, code: ErrorCode, message: str, retry_after_s: int | None = None) -> None:
        """Answer without the application, and end the connection as soon as the client can have read it."""
        self._refused = True
        self._stop_timer()
        own_id = new_request_id()
        metrics.observe_request("none", "none", code.status, None)
        _log.info("connection refused", code=code.code, reason=message, client=self.client, request_id=own_id)
        if self.transport.is_closing():
            return
        body = msgspec.json.encode(ErrorAnswer(code.code, message, own_id))
        head = [
            STATUS_LINE[code.status],
            b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body),
            b"x-request-id: %s\r\n" % own_id.encode("ascii"),
            b"" if retry_after_s is None else b"retry-after: %d\r\n" % retry_after_s,
            b"\r\n",
        ]
        self.transport.write(b"".join([*head, body]))
        self._start_timer(LINGER_S, self.transport.close)

    def _begin_to_idle(self) -> None:
        """Give the client a while for its next request: one timer for many, which looks when the last one ended."""
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._end_if_idle)

    def _end_if_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since is None:
            return
        rest_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if rest_s > 0:
            self._idle_timer = self.loop.call_later(rest_s, self._end_if_idle)
        else:
            self.timeout_keep_alive_handler()

    def _start_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
