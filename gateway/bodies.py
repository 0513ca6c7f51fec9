"""Request bodies: read within a limit and a time, whatever the client sends.

The limit counts after decompression, while the body streams in: a bomb is refused when it has grown to the limit, not
when memory is full. The deadline is for the body; slow headers are the business of :mod:`gateway.protocol`, since an
application only hears of a request when its headers are complete.
"""

import asyncio
import sys
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from gateway.problems import ApiError
from schemas.errors import INVALID_JSON, PAYLOAD_TOO_LARGE, REQUEST_TIMEOUT, UNSUPPORTED_MEDIA_TYPE

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BODY_IS_HERE = "headrace.body_is_here"
"""In a request's scope where its whole body has arrived: then there is nothing to wait for."""

_BOM = b"\xef\xbb\xbf"
_GZIP_WINDOW_BITS = 31  # 15 for the largest window, 16 for gzip's own header and checksum
_ZSTD_WINDOW_LOG_MAX = 23  # 8 MiB, what RFC 8878 asks of every decoder; a frame can ask for 2 GiB


class _Stream(Protocol):
    """One gzip member or zstd frame being decompressed."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _gzip_stream() -> _Stream:
    return zlib.decompressobj(_GZIP_WINDOW_BITS)


def _zstd_stream() -> _Stream:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG_MAX})


_STREAMS: dict[bytes, Callable[[], _Stream] | None] = {
    b"": None,
    b"identity": None,
    b"gzip": _gzip_stream,
    b"x-gzip": _gzip_stream,
    b"zstd": _zstd_stream,
}


async def read_body(request: Request, max_body_bytes: int) -> bytes:
    """The whole body, decompressed, without a byte-order mark.

    Raises ApiError: `unsupported_media_type`, `payload_too_large`, `request_timeout`, or `invalid_json` where the
    compressed stream is corrupt or cut short; and starlette's ClientDisconnect where the client left.
    """
    new_stream = _read_headers(request, max_body_bytes)
    body = _Plain(max_body_bytes) if new_stream is None else _Compressed(max_body_bytes, new_stream)
    if BODY_IS_HERE in request.scope:
        content = await _receive_all(request.receive, body)
    else:
        content = await _receive_in_time(request.receive, body, request.app.state.settings.body_timeout_s)
    return content.removeprefix(_BOM)


async def _receive_in_time(receive: Receive, body: "_Plain", timeout_s: float) -> bytes:
    try:
        async with asyncio.timeout(timeout_s):
            return await _receive_all(receive, body)
    except TimeoutError:
        message = f"the body did not arrive within {timeout_s:g} s"
        raise ApiError(REQUEST_TIMEOUT, message, headers={"Connection": "close"}) from None


def _read_headers(request: Request, max_body_bytes: int) -> Callable[[], _Stream] | None:
    content_type = encoding = b""
    length = 0
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-encoding":
            encoding = encoding + b"," + value if encoding else value
        elif name == b"content-length":
            length = int(value)  # the server has checked it
    if not _is_json(content_type):
        raise ApiError(UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json in UTF-8")
    encoding = encoding.strip().lower()
    if encoding not in _STREAMS:
        raise ApiError(
            UNSUPPORTED_MEDIA_TYPE,
            "the content encoding must be gzip, zstd or identity",
            headers={"Accept-Encoding": "gzip, zstd, identity"},
        )
    if length > max_body_bytes:
        raise _too_large(max_body_bytes)
    return _STREAMS[encoding]


@lru_cache(maxsize=256)
def _is_json(content_type: bytes) -> bool:
    media_type, *parameters = content_type.lower().split(b";")
    kind, _, subtype = media_type.strip().partition(b"/")
    if kind != b"application" or not (subtype == b"json" or subtype.endswith(b"+json")):
        return False
    for parameter in parameters:
        name, _, value = parameter.strip().partition(b"=")
        if name == b"charset" and value.strip(b'"') not in (b"utf-8", b"utf8"):
            return False
    return True


class _Plain:
    """A body that is not compressed."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit_bytes:
            raise _too_large(self._limit_bytes)
        self._pieces.append(data)

    def finish(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


class _Compressed(_Plain):
    """A compressed body: one gzip member or zstd frame after another."""

    def __init__(self, limit_bytes: int, new_stream: Callable[[], _Stream]) -> None:
        super().__init__(limit_bytes)
        self._new_stream = new_stream
        self._stream = new_stream()
        self._started = False
        self._received = 0

    def feed(self, data: bytes) -> None:
        self._received += len(data)  # frames can be empty: what comes in needs a limit as well
        if self._received > self._limit_bytes:
            raise _too_large(self._limit_bytes)
        while data:
            if self._stream.eof:
                self._stream = self._new_stream()
            self._started = True
            try:
                # One byte over the limit is enough to know that there is too much.
                super().feed(self._stream.decompress(data, self._limit_bytes - self._size + 1))
            except (zlib.error, zstd.ZstdError) as error:
                raise ApiError(INVALID_JSON, "the compressed body is corrupt") from error
            data = self._stream.unused_data

    def finish(self) -> bytes:
        if self._started and not self._stream.eof:
            raise ApiError(INVALID_JSON, "the compressed body is cut short")
        return super().finish()


async def _receive_all(receive: Receive, body: _Plain) -> bytes:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        data = message.get("body", b"")
        if data:
            body.feed(data)
        if not message.get("more_body", False):
            return body.finish()


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(PAYLOAD_TOO_LARGE, f"the body is larger than {limit_bytes} bytes")
