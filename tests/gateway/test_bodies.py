"""Request bodies: what is accepted, what is refused, and at what cost."""

import asyncio
import gzip
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from gateway import problems
from gateway.bodies import read_body
from gateway.boundary import RequestBoundary
from schemas.settings import Settings
from tests.gateway.asgi import Answer, Client, make_scope

pytestmark = pytest.mark.anyio

LIMIT = 100_000
JSON = {"Content-Type": "application/json"}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "zstd": zstd.compress,
    "GZIP": gzip.compress,
    " identity": bytes,
}


async def echo(request: Request) -> Response:
    return Response(await read_body(request, LIMIT))


def make_app(body_timeout_s: float = 5.0) -> Starlette:
    app = Starlette(
        routes=[Route("/", echo, methods=["POST"])],
        middleware=[Middleware(RequestBoundary)],
        exception_handlers={problems.ApiError: problems.on_api_error},
    )
    app.state.settings = Settings(body_timeout_s=body_timeout_s)
    return app


APP = make_app()


async def post(body: bytes | list[bytes] | AsyncIterator[bytes] = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await Client(APP).request("POST", "/", JSON | named, body)


def in_pieces(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/cloudevents+json",
        "application/json; profile=x; charset=utf8",
    ],
)
async def test_json_types_are_accepted(content_type: str) -> None:
    answer = await post(b"{}", Content_Type=content_type)
    assert (answer.status, answer.body) == (200, b"{}")


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/json; charset=latin-1", "application/jsonl", "text/json", "application/x-www-form"],
)
async def test_other_types_are_refused(content_type: str) -> None:
    answer = await post(b"{}", Content_Type=content_type)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "gzip,zstd", "compress", "*"])
async def test_other_encodings_are_refused(encoding: str) -> None:
    answer = await post(b"{}", Content_Encoding=encoding)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")
    assert answer.headers["accept-encoding"] == "gzip, zstd, identity"


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_compressed_bodies_arrive_as_they_were(encoding: str, size: int) -> None:
    body = b'{"a":' + b"[1,2,3]" * 2_000 + b"}"
    answer = await post(in_pieces(COMPRESS[encoding](body), size), Content_Encoding=encoding)
    assert (answer.status, answer.body) == (200, body)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_members_follow_each_other(encoding: str) -> None:
    compress = COMPRESS[encoding]
    parts = [compress(b'{"a":'), compress(b""), compress(b"1}")]
    for body in ([b"".join(parts)], parts, in_pieces(b"".join(parts), 3)):
        answer = await post(body, Content_Encoding=encoding)
        assert (answer.status, answer.body) == (200, b'{"a":1}')


@given(st.binary(max_size=2_000), st.sampled_from(["gzip", "zstd"]), st.integers(1, 50))
async def test_any_bytes_survive(body: bytes, encoding: str, size: int) -> None:
    answer = await post(in_pieces(COMPRESS[encoding](body), size), Content_Encoding=encoding)
    assert (answer.status, answer.body) == (200, body.removeprefix(b"\xef\xbb\xbf"))


@given(st.binary(min_size=1, max_size=200), st.sampled_from(["gzip", "zstd"]))
async def test_corrupt_streams_are_refused(body: bytes, encoding: str) -> None:
    answer = await post(body, Content_Encoding=encoding)
    if answer.status != 200:  # a few short texts are empty frames
        assert (answer.status, answer.code) == (400, "invalid_json")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("cut", [1, 8, 20])
async def test_streams_cut_short_are_refused(encoding: str, cut: int) -> None:
    whole = COMPRESS[encoding](b'{"a":"' + bytes(range(65, 91)) * 10 + b'"}')
    answer = await post(whole[:-cut], Content_Encoding=encoding)
    assert (answer.status, answer.code) == (400, "invalid_json")
    assert "cut short" in answer.json["message"]


async def test_a_wrong_checksum_is_refused() -> None:
    whole = bytearray(gzip.compress(b'{"a":1}'))
    whole[-6] ^= 1
    answer = await post(bytes(whole), Content_Encoding="gzip")
    assert (answer.status, answer.code) == (400, "invalid_json")


@pytest.mark.parametrize("encoding", ["gzip", "zstd", " identity"])
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
async def test_the_limit_is_exact(encoding: str, size: int, status: int) -> None:
    answer = await post(in_pieces(COMPRESS[encoding](b" " * size), 1_000), Content_Encoding=encoding)
    assert answer.status == status
    if status == 413:
        assert answer.code == "payload_too_large"
        assert str(LIMIT) in answer.json["message"]


async def never() -> AsyncIterator[bytes]:
    pytest.fail("the body was asked for")
    yield b""


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    answer = await post(never(), Content_Length=str(LIMIT + 1))
    assert (answer.status, answer.code) == (413, "payload_too_large")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_costs_bounded_memory_and_stops_early(encoding: str) -> None:
    bomb = COMPRESS[encoding](bytes(200_000_000))
    fed = 0

    async def feeding() -> AsyncIterator[bytes]:
        nonlocal fed
        for piece in in_pieces(bomb, 512):
            fed += len(piece)
            yield piece

    tracemalloc.start()
    answer = await post(feeding(), Content_Encoding=encoding)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (answer.status, answer.code) == (413, "payload_too_large")
    assert peak < 5 * LIMIT
    assert fed <= 2 * 512


async def test_a_zstd_frame_cannot_ask_for_a_huge_window() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    compressor = zstd.ZstdCompressor(options=options)
    frame = compressor.compress(bytes(10)) + compressor.flush()
    answer = await post(frame, Content_Encoding="zstd")
    assert (answer.status, answer.code) == (400, "invalid_json")


def empty_members() -> Iterator[bytes]:
    while True:
        yield gzip.compress(b"") * 1_000


async def test_endless_emptiness_ends() -> None:
    members = empty_members()
    answer = await Client(APP).request("POST", "/", JSON | {"Content-Encoding": "gzip"}, members)
    assert (answer.status, answer.code) == (413, "payload_too_large")


async def test_a_byte_order_mark_is_taken_off() -> None:
    assert (await post(b"\xef\xbb\xbf{}")).body == b"{}"


async def test_a_slow_body_is_given_up() -> None:
    async def slow() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    begun_at = time.monotonic()
    answer = await Client(make_app(body_timeout_s=0.3)).request("POST", "/", JSON, slow())
    assert 0.25 <= time.monotonic() - begun_at < 1.5  # the loop's timers are exact to some milliseconds
    assert (answer.status, answer.code) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"


async def test_nobody_is_answered_where_the_client_left() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await APP(make_scope("POST", "/", JSON), receive, send)
    assert sent == []
    request = Request({**make_scope("POST", "/", JSON), "app": APP}, receive)
    with pytest.raises(ClientDisconnect):
        await read_body(request, LIMIT)


def test_raw_deflate_is_not_gzip() -> None:
    with pytest.raises(zlib.error):
        zlib.decompressobj(31).decompress(zlib.compress(b"{}"))
