"""The short way to a route answers as the long one does."""

import re

import pytest
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from gateway import problems
from gateway.app import create_app
from gateway.boundary import RequestBoundary
from gateway.metrics import exposition
from gateway.problems import ApiError, unavailable
from gateway.shortcut import Shortcut
from tests.gateway.asgi import Client

pytestmark = pytest.mark.anyio


async def echo(request: Request) -> Response:
    return Response(await request.body(), headers={"X-Asked": request.headers.get("x-asked", "")})


async def refuse(_: Request) -> Response:
    raise unavailable("come back", 7)


async def break_down(_: Request) -> Response:
    raise LookupError


ROUTES = [
    Route("/echo", echo, methods=["POST"]),
    Route("/refuse", refuse, methods=["POST"]),
    Route("/break", break_down, methods=["POST"]),
]
ROUTED = ExceptionMiddleware(Router(ROUTES, redirect_slashes=False), {ApiError: problems.on_api_error})
SHORT = Client(RequestBoundary(Shortcut(ROUTED, ROUTES)))
LONG = Client(RequestBoundary(ROUTED))


@pytest.mark.parametrize("path", ["/echo", "/echo?x=1", "/refuse", "/break"])
async def test_both_ways_answer_alike(path: str) -> None:
    short, long = [
        await each.request("POST", path, {"X-Asked": "this", "X-Request-Id": "same"}, b"body") for each in (SHORT, LONG)
    ]
    assert short == long
    assert short.headers["x-request-id"] == "same"


async def test_requests_are_counted_by_their_route() -> None:
    counted = re.compile(rb'requests_total\{method="POST",route="/refuse",status="503"\} ([0-9.]+)')

    def count() -> float:
        found = counted.search(exposition())
        return float(found[1]) if found else 0.0

    before = count()
    await SHORT.request("POST", "/refuse")
    assert count() == before + 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/events/", 404),
        ("PUT", "/v1/events", 405),
        ("DELETE", "/v1/events/batch", 405),
        ("OPTIONS", "/v1/events/batch", 204),
        ("POST", "/v1//events", 404),
    ],
)
async def test_what_is_not_in_the_table_goes_the_long_way(method: str, path: str, status: int) -> None:
    assert (await Client(create_app()).request(method, path)).status == status
