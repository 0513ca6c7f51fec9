"""The outermost layer of the application: request id, metrics, the log line, and the last line of defence.

Plain ASGI, since it is on the hot path. A request that goes well costs no log line: only errors and slow requests do.
"""

import asyncio
import sys
from collections.abc import Awaitable
from http import HTTPStatus
from time import perf_counter

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics
from gateway.identify import REQUEST_ID, request_id
from gateway.problems import error_response, unavailable, unexpected
from gateway.ratelimits import ALLOWANCE
from schemas.settings import SettingsError

SLOW_REQUEST_S = 2.0
CLIENT_GONE = 499  # never sent: the status in metrics and log where the client left before its answer

_PATH_CHARACTERS_LOGGED = 200

_log = structlog.get_logger("headrace.gateway")


class RequestBoundary:
    """Wraps the application; see the module."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, _in_plain_words(send))
            return
        started_at = perf_counter()
        own_id = request_id(scope["headers"])
        REQUEST_ID.set(own_id)  # each request is a task with a context of its own: no need to set it back
        header = (b"x-request-id", own_id.encode("ascii"))
        status = 0

        def sending(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                allowance = scope.get(ALLOWANCE)
                told = [] if allowance is None else allowance.headers()
                message["headers"] = [*message["headers"], header, *told]
            return send(message)

        metrics.IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            status = CLIENT_GONE
        except asyncio.CancelledError:  # the server stops, and has waited for this request as long as it does
            if status:
                raise
            # Not raised on: the server would take it for a defect and put a 500 in words of its own beneath it.
            stopping = unavailable("this gateway stops before the outcome is known; send it again")
            await error_response(Request(scope), stopping)(scope, receive, sending)
        except Exception as error:  # whatever a handler did not expect must not reach the client
            if status:  # half of an answer is out: only cutting the connection tells the client
                raise
            await unexpected(Request(scope), error)(scope, receive, sending)
        finally:
            metrics.IN_FLIGHT.dec()
            _finish(scope, status, perf_counter() - started_at)


def _in_plain_words(send: Send) -> Send:
    """Have the server tell of settings that cannot be used without the traceback that starlette puts in their place."""

    async def sending(message: Message) -> None:
        error = sys.exc_info()[1]
        if message["type"] == "lifespan.startup.failed" and isinstance(error, SettingsError):
            message["message"] = str(error)
        await send(message)

    return sending


def _finish(scope: Scope, status: int, seconds: float) -> None:
    waited = b"wait=" in scope["query_string"]  # such a request is meant to take long
    route = getattr(scope.get("route"), "path", "none")
    metrics.observe_request(scope["method"], route, status, None if waited else seconds)
    if status >= HTTPStatus.BAD_REQUEST or (seconds > SLOW_REQUEST_S and not waited):
        _log_request(scope, route, status, seconds)


def _log_request(scope: Scope, route: str, status: int, seconds: float) -> None:
    code, message = scope.get("headrace.problem", (None, None))
    said = {} if code is None else {"code": code, "reason": message}
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log, event = _log.warning, "request failed"
    else:
        log, event = _log.info, "request refused" if status >= HTTPStatus.BAD_REQUEST else "slow request"
    log(
        event,
        method=scope["method"],
        route=route,
        path=scope.get("raw_path", b"")[:_PATH_CHARACTERS_LOGGED].decode("ascii", "backslashreplace"),
        status=status,
        duration_ms=round(seconds * 1000, 1),
        **said,
    )
