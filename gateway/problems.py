"""Errors on their way out: the one place that turns an exception into an answer.

Handlers raise :class:`ApiError` with an entry of the catalogue; nothing else decides on a status or a body.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from gateway.identify import REQUEST_ID
from schemas import errors as catalogue
from schemas.errors import ErrorCode

PROBLEM_TYPE_PREFIX = "urn:headrace:error:"

_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("headrace.gateway")


# One wrong field or parameter: its name as `field`, and what is wrong with it as `message`.
FieldError: TypeAlias = Mapping[str, str]


def field_error(field: str, message: str) -> FieldError:
    """Say what is wrong with one field or parameter."""
    return {"field": field, "message": message}


def in_one_line(wrong: Sequence[FieldError]) -> str:
    """What is wrong with all of them, for people."""
    return "; ".join(f"{each['field']}: {each['message']}" if each["field"] else each["message"] for each in wrong)


class ErrorAnswer(msgspec.Struct, omit_defaults=True):
    """The body of an error as ``application/json``."""

    code: str
    message: str
    request_id: str
    errors: list[FieldError] = []


class ProblemAnswer(ErrorAnswer, kw_only=True):
    """The body of an error as ``application/problem+json`` (RFC 9457), sent where ``Accept`` asks for it."""

    type: str
    title: str
    status: int
    detail: str


class ApiError(Exception):
    """A request ends with an error: an entry of the catalogue, a `message` for people, and what explains it further.

    `errors` names fields or parameters; `headers` go into the answer.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.code = code
        self.message = code.meaning if message is None else message
        self.errors = list(errors)
        self.headers = dict(headers or {})
        super().__init__(self.message)


def unavailable(message: str, retry_after_s: int = 1) -> ApiError:
    """A 503 that tells when to come back."""
    return ApiError(catalogue.UNAVAILABLE, message, headers={"Retry-After": str(retry_after_s)})


def error_response(request: Request, error: ApiError) -> Response:
    """The answer that `error` becomes, in the form that the request's ``Accept`` asks for."""
    code = error.code
    request.scope["headrace.problem"] = (code.code, error.message)  # for the log line of this request
    shared: dict[str, Any] = {
        "code": code.code,
        "message": error.message,
        "request_id": REQUEST_ID.get(),
        "errors": error.errors,
    }
    if "application/problem+json" in request.headers.get("accept", ""):
        media_type = "application/problem+json"
        body: ErrorAnswer = ProblemAnswer(
            **shared,
            type=PROBLEM_TYPE_PREFIX + code.code,
            title=code.meaning,
            status=code.status,
            detail=error.message,
        )
    else:
        media_type, body = "application/json", ErrorAnswer(**shared)
    return Response(_encode(body), code.status, error.headers, media_type)


async def on_api_error(request: Request, error: Exception) -> Response:
    """Answer an error that a handler raised on purpose."""
    if not isinstance(error, ApiError):
        raise error
    return error_response(request, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router itself raises: no such route, or not with this method."""
    status = error.status_code if isinstance(error, HTTPException) else None
    if status == HTTPStatus.NOT_FOUND:
        return error_response(request, ApiError(catalogue.NOT_FOUND, "there is no such route"))
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return _method_not_allowed(request)
    raise error  # the router has no other; a new one must not leave in a form of its own


def _method_not_allowed(request: Request) -> Response:
    matching = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    # Several routes can share a path, each with methods of its own. The first to match is the one that is meant:
    # further ones may take the path's end for an id.
    methods = {method for route in matching if route.path == matching[0].path for method in route.methods}
    allow = {"Allow": ", ".join(sorted(methods | {"OPTIONS"}))}
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=allow)
    message = f"{request.method} is not among this route's methods: {allow['Allow']}"
    return error_response(request, ApiError(catalogue.METHOD_NOT_ALLOWED, message, headers=allow))


def unexpected(request: Request, error: Exception) -> Response:
    """Answer a defect: the log gets the traceback, the client only the request's id."""
    _log.error("unexpected error", method=request.method, path=request.scope.get("raw_path"), exc_info=error)
    return error_response(request, ApiError(catalogue.INTERNAL_ERROR))
