"""The outermost layer, and how errors leave: one form, one id, no secrets."""

import asyncio

import msgspec
import pytest
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from gateway import problems
from gateway.boundary import RequestBoundary
from gateway.metrics import exposition
from gateway.problems import ApiError, field_error, unavailable
from schemas.errors import HTTP_ERRORS, INVALID_EVENT, ErrorCode
from tests.gateway.asgi import Client

pytestmark = pytest.mark.anyio

Lines = list[structlog.typing.EventDict]
SECRET = "select secret from somewhere"


async def refuse(request: Request) -> Response:
    codes = {code.code: code for code in HTTP_ERRORS}
    raise ApiError(codes[request.path_params["code"]])


async def refuse_fields(_: Request) -> Response:
    raise ApiError(INVALID_EVENT, "two are wrong", [field_error("a", "is b"), {"field": "c", "message": "is d"}])


async def break_down(_: Request) -> Response:
    raise LookupError(SECRET)


async def break_down_late(_: Request) -> Response:
    def pieces() -> "list[bytes]":
        raise LookupError(SECRET)

    async def streaming() -> "object":
        yield b"begun"
        pieces()

    return StreamingResponse(streaming())  # type: ignore[arg-type]  # an iterator of bytes


async def fine(_: Request) -> Response:
    return Response(b"fine")


async def hang(_: Request) -> Response:
    await asyncio.Event().wait()
    return Response(b"never")


async def hang_late(_: Request) -> Response:
    async def streaming() -> "object":
        yield b"begun"
        await asyncio.Event().wait()

    return StreamingResponse(streaming())  # type: ignore[arg-type]  # an iterator of bytes


async def busy(_: Request) -> Response:
    raise unavailable("come back", 7)


APP = Starlette(
    routes=[
        Route("/refuse/all", fine, methods=["POST"]),
        Route("/refuse/{code}", refuse, methods=["GET"]),
        Route("/fields", refuse_fields, methods=["GET"]),
        Route("/break", break_down, methods=["GET"]),
        Route("/late", break_down_late, methods=["GET"]),
        Route("/hang", hang, methods=["GET"]),
        Route("/hang/late", hang_late, methods=["GET"]),
        Route("/fine", fine, methods=["GET"]),
        Route("/fine", fine, methods=["POST"]),
        Route("/busy", busy, methods=["GET"]),
    ],
    middleware=[Middleware(RequestBoundary)],
    exception_handlers={ApiError: problems.on_api_error, HTTPException: problems.on_http_exception},
)
APP.router.redirect_slashes = False
CLIENT = Client(APP)


@pytest.mark.parametrize("code", HTTP_ERRORS, ids=lambda code: code.code)
async def test_each_error_of_the_catalogue_has_its_status_and_body(code: ErrorCode) -> None:
    answer = await CLIENT.get(f"/refuse/{code.code}")
    assert answer.status == code.status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "code": code.code,
        "message": code.meaning,
        "request_id": answer.headers["x-request-id"],
    }


async def test_fields_are_named() -> None:
    answer = await CLIENT.get("/fields")
    assert answer.status == 422
    assert answer.json["message"] == "two are wrong"
    assert answer.json["errors"] == [{"field": "a", "message": "is b"}, {"field": "c", "message": "is d"}]


@pytest.mark.parametrize("accept", ["application/problem+json", "text/html, application/problem+json;q=0.9"])
async def test_problem_json_where_it_is_asked_for(accept: str) -> None:
    answer = await CLIENT.get("/fields", {"Accept": accept})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json == {
        "type": "urn:headrace:error:invalid_event",
        "title": INVALID_EVENT.meaning,
        "status": 422,
        "detail": "two are wrong",
        "code": "invalid_event",
        "message": "two are wrong",
        "request_id": answer.headers["x-request-id"],
        "errors": [{"field": "a", "message": "is b"}, {"field": "c", "message": "is d"}],
    }


async def test_headers_of_an_error() -> None:
    assert (await CLIENT.get("/busy")).headers["retry-after"] == "7"


async def test_a_defect_shows_nothing_but_its_request_id(logged: Lines) -> None:
    answer = await CLIENT.get("/break")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert b"secret" not in answer.body
    assert b"LookupError" not in answer.body
    (line,) = [line for line in logged if line["event"] == "unexpected error"]
    assert str(line["exc_info"]) == SECRET


async def test_a_defect_amid_an_answer_cuts_it_off() -> None:
    with pytest.raises(LookupError):
        await CLIENT.get("/late")


async def test_a_request_that_the_server_gives_up_is_told_to_come_back(logged: Lines) -> None:
    request = asyncio.create_task(CLIENT.get("/hang"))
    await asyncio.sleep(0.01)
    request.cancel()
    answer = await request
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "unavailable", "1")
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert [(line["event"], line["status"]) for line in logged] == [("request failed", 503)]


async def test_an_answer_that_has_begun_is_cut_off_when_the_server_gives_it_up() -> None:
    request = asyncio.create_task(CLIENT.get("/hang/late"))
    await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request


@pytest.mark.parametrize(("method", "path"), [("GET", "/none"), ("GET", "/fine/"), ("POST", "/"), ("OPTIONS", "/none")])
async def test_unknown_routes(method: str, path: str) -> None:
    answer = await CLIENT.request(method, path)
    assert (answer.status, answer.code) == (404, "not_found")


async def test_other_methods_are_told_all_that_are_allowed() -> None:
    answer = await CLIENT.request("DELETE", "/fine")
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"


async def test_a_route_that_takes_the_same_path_for_an_id_is_not_meant() -> None:
    answer = await CLIENT.request("OPTIONS", "/refuse/all")
    assert answer.headers["allow"] == "OPTIONS, POST"


async def test_options() -> None:
    answer = await CLIENT.request("OPTIONS", "/fine")
    assert (answer.status, answer.headers["allow"], answer.body) == (204, "GET, HEAD, OPTIONS, POST", b"")


@pytest.mark.parametrize("own", ["a", "550e8400-e29b-41d4-a716-446655440000", "x" * 128, "a.b:c_d"])
async def test_a_sane_request_id_is_kept(own: str) -> None:
    answer = await CLIENT.get("/busy", {"X-Request-Id": own})
    assert answer.headers["x-request-id"] == own
    assert answer.json["request_id"] == own


@pytest.mark.parametrize("own", ["", "x" * 129, "a b", "a\tb", "\u00fc", "<script>"])
async def test_any_other_request_id_is_replaced(own: str) -> None:
    answer = await CLIENT.get("/busy", {"X-Request-Id": own})
    assert answer.headers["x-request-id"] != own
    assert answer.headers["x-request-id"].isalnum()


async def test_request_ids_differ() -> None:
    assert len({(await CLIENT.get("/fine")).headers["x-request-id"] for _ in range(50)}) == 50


async def test_only_errors_are_logged(logged: Lines) -> None:
    await CLIENT.get("/fine")
    assert logged == []
    await CLIENT.get("/none%0Aline")
    await CLIENT.get("/busy")
    refused, failed = logged
    assert (refused["event"], refused["log_level"], refused["path"]) == ("request refused", "info", "/none%0Aline")
    assert (failed["event"], failed["log_level"]) == ("request failed", "warning")
    assert (failed["code"], failed["reason"], failed["route"]) == ("unavailable", "come back", "/busy")


async def test_requests_are_counted_by_route_and_status() -> None:
    def counted(line: str) -> float:
        lines = exposition().decode().splitlines()
        return sum(float(each.rsplit(" ", 1)[1]) for each in lines if each.startswith(line))

    total = 'headrace_http_requests_total{method="GET",route="/refuse/{code}",status="404"}'
    before = counted(total)
    for _ in range(3):
        await CLIENT.get("/refuse/not_found")
    assert counted(total) == before + 3
    await CLIENT.request("BREW", "/nowhere")
    assert counted('headrace_http_requests_total{method="other",route="none",status="404"}') > 0
    assert counted("headrace_http_requests_in_flight") == 0
    assert counted('headrace_http_request_duration_seconds_count{method="GET",route="/refuse/{code}"}') >= 3


def test_error_answers_decode_as_their_own_types() -> None:
    body = msgspec.json.encode(problems.ErrorAnswer("a", "b", "c"))
    assert body == b'{"code":"a","message":"b","request_id":"c"}'
