"""``/openapi.json``: the HTTP contract for machines (OpenAPI 3.1), made from the code's types and error catalogue."""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from gateway import metrics
from gateway.components import (
    EXAMPLES,
    Schema,
    components,
    example_of_error,
    example_of_problem,
    reference,
)
from gateway.queries import DIRECTIONS, FILTERS, LIMIT_DEFAULT, LIMIT_MAX, SORTS
from gateway.waiting import WAIT_S_MAX
from schemas import errors
from schemas.errors import ErrorCode

JSON = "application/json"
PROBLEM = "application/problem+json"

# A head that is too large, late or no HTTP is refused before the route is known.
_ALWAYS = (errors.INVALID_REQUEST, errors.REQUEST_TIMEOUT, errors.INTERNAL_ERROR)
_WITH_KEY = (errors.UNAUTHORIZED, errors.FORBIDDEN, errors.UNAVAILABLE)
_WITH_BODY = (
    errors.INVALID_JSON,
    errors.PAYLOAD_TOO_LARGE,
    errors.UNSUPPORTED_MEDIA_TYPE,
    errors.TOO_MANY_REQUESTS,
)


class Answer(NamedTuple):
    """What an operation answers where nothing is wrong."""

    status: int
    description: str
    schema: Schema
    example: object
    media_type: str = JSON


def _answer(status: int, description: str, name: str) -> Answer:
    return Answer(status, description, reference(name), EXAMPLES[name])


class Operation(NamedTuple):
    """One method of one route."""

    method: str
    path: str
    name: str
    tag: str
    summary: str
    description: str
    answer: Answer
    errors: Sequence[ErrorCode] = ()
    scope: str | None = None
    parameters: Sequence[Schema] = ()
    body: str | None = None


def _path_parameter(name: str, meaning: str) -> Schema:
    schema = {"type": "string", "format": "uuid"}
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": schema}


def _query_parameter(name: str, meaning: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": meaning, "schema": schema}


_EVENT_ID = _path_parameter("id", "The event's id")
_WAIT = _query_parameter(
    "wait",
    "Hold the answer until the status is final, this many seconds at the most",
    {"type": "number", "minimum": 0, "maximum": WAIT_S_MAX, "default": 0},
)
_LISTING = (
    *(_query_parameter(name, f"Only {each.meaning}", each.schema) for name, each in FILTERS.items()),
    _query_parameter(
        "limit", "Events of a page", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT}
    ),
    _query_parameter("sort_by", "What to sort by", {"type": "string", "enum": [*SORTS], "default": SORTS[0]}),
    _query_parameter(
        "sort_dir", "Latest or earliest first", {"type": "string", "enum": [*DIRECTIONS], "default": "desc"}
    ),
    _query_parameter("cursor", "`next_cursor` of the page before, with the same filters and order", {"type": "string"}),
)

OPERATIONS = (
    Operation(
        "post",
        "/v1/events",
        "sendEvent",
        "events",
        "Send one event",
        "200 means durable: Kafka has acknowledged the record on all replicas that must have it. The same key with the "
        "same payload gives the original event again; with another payload 409.",
        _answer(200, "The event, accepted", "AcceptedEvent"),
        (
            *_WITH_BODY,
            errors.IDEMPOTENCY_CONFLICT,
            errors.INVALID_EVENT,
            errors.INVALID_PROGRAM_ID,
            errors.EVENT_TOO_LARGE,
        ),
        "ingest",
        body="NewEvent",
    ),
    Operation(
        "post",
        "/v1/events/batch",
        "sendBatch",
        "events",
        "Send 1 to 100 events",
        "Each event stands for itself: some can be accepted while others are refused. Results are in its order.",
        _answer(200, "A result for each event", "BatchAnswer"),
        _WITH_BODY,
        "ingest",
        body="Batch",
    ),
    Operation(
        "get",
        "/v1/events",
        "listEvents",
        "events",
        "List events",
        "Filters are combined with AND. Events that are accepted but not yet taken up by a processor are not listed.",
        _answer(200, "One page", "EventPage"),
        (),
        "read",
        _LISTING,
    ),
    Operation(
        "get",
        "/v1/events/{id}",
        "getEvent",
        "events",
        "Get one event",
        "Found from the moment that its 200 was sent.",
        _answer(200, "The event", "Event"),
        (errors.NOT_FOUND,),
        "read",
        (_EVENT_ID, _WAIT),
    ),
    Operation(
        "post",
        "/v1/events/{id}/retry",
        "retryEvent",
        "events",
        "Process a FAILED event again",
        "It gets all its attempts anew. An event in any other status is left alone: 409.",
        _answer(202, "It is going to be processed again", "RetryAnswer"),
        (errors.NOT_FOUND, errors.NOT_RETRYABLE),
        "ingest",
        (_EVENT_ID,),
    ),
    Operation(
        "get",
        "/v1/programs/{program_id}/stats",
        "getStats",
        "programs",
        "What a program's events come to",
        "Counts of the events that processors have taken up; the hours are those of `event_timestamp`, in UTC.",
        _answer(200, "Counts by status and by hour", "Stats"),
        (errors.NOT_FOUND,),
        "read",
        (_path_parameter("program_id", "The program"),),
    ),
    Operation(
        "get",
        "/livez",
        "isAlive",
        "operation",
        "Is the process alive?",
        "It asks neither Kafka nor Postgres: a restart would mend neither.",
        Answer(
            200,
            "It is",
            {"type": "object", "required": ["status"], "properties": {"status": {"type": "string", "const": "alive"}}},
            {"status": "alive"},
        ),
    ),
    Operation(
        "get",
        "/readyz",
        "isReady",
        "operation",
        "Can it take events?",
        "Kafka must be reachable. The state of Postgres is told but not required.",
        Answer(
            200,
            "It can",
            {
                "type": "object",
                "required": ["status", "kafka", "postgres"],
                "properties": {
                    "status": {"type": "string", "const": "ready"},
                    "kafka": {"type": "string", "const": "ok"},
                    "postgres": {"type": "string", "description": "`ok`, or why it does not answer"},
                },
            },
            {"status": "ready", "kafka": "ok", "postgres": "ok"},
        ),
        (errors.UNAVAILABLE,),
    ),
    Operation(
        "get",
        "/metrics",
        "getMetrics",
        "operation",
        "Metrics for Prometheus",
        "What this gateway has counted.",
        Answer(
            200,
            "Prometheus's text format",
            {"type": "string"},
            "headrace_events_accepted_total 1284.0\n",
            metrics.CONTENT_TYPE.partition(";")[0],
        ),
    ),
)


_ABOUT = """Send events, one or a hundred in a request, and see what becomes of them.

`headrace keys create` makes an API key. JSON in, JSON out; a body can be compressed with gzip or zstd.
Sending again is always safe: the same idempotency key with the same payload is the same event.

The topics, for services that use Kafka itself: [/asyncapi.json](/asyncapi.json), for machines too.
"""


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headrace",
            "version": own_version(),
            "summary": "An event pipeline: HTTP in, Kafka as the log, Postgres for the answers",
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This gateway"}],
        "tags": [
            {"name": "events", "description": "Send events and read them back"},
            {"name": "programs", "description": "What belongs to a program"},
            {"name": "operation", "description": "For those who run the gateway; no key is needed"},
        ],
        "paths": paths,
        "components": {
            "schemas": components(),
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "The same key, as a bearer token"},
            },
            "headers": _HEADERS,
        },
    }


def own_version() -> str:
    """The installed version, `0` where the code runs without being installed."""
    try:
        return version("headrace")
    except PackageNotFoundError:
        return "0"


def _header(meaning: str, kind: str = "string") -> Schema:
    return {"description": meaning, "schema": {"type": kind}}


_HEADERS: dict[str, Schema] = {
    "X-Request-Id": _header("The request's id: yours where you sent one, else made by the gateway"),
    "Retry-After": _header("Seconds after which to try again", "integer"),
    "WWW-Authenticate": _header("How to authenticate"),
    "Idempotency-Check": _header("`deferred` where a conflict could not be ruled out and will show on the event later"),
    "X-RateLimit-Limit": _header("Events that the key can send at once, where it has a limit", "integer"),
    "X-RateLimit-Remaining": _header("Events that are left", "integer"),
    "X-RateLimit-Reset": _header("Seconds until all are there again", "integer"),
}


def _headers(*names: str) -> dict[str, Schema]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _operation(operation: Operation) -> Schema:
    content: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": [{"apiKey": []}, {"bearer": []}] if operation.scope else [],
        "responses": _responses(operation),
    }
    scope = f"Scope: `{operation.scope}`." if operation.scope else ""
    content["description"] = f"{operation.description} {scope}".strip() or operation.summary
    if operation.parameters:
        content["parameters"] = list(operation.parameters)
    if operation.body is not None:
        content["requestBody"] = _body(operation.body)
    return content


def _body(name: str) -> Schema:
    return {"required": True, "content": {JSON: {"schema": reference(name), "example": EXAMPLES[name]}}}


def _responses(operation: Operation) -> dict[str, Schema]:
    answer = operation.answer
    limits = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset") if operation.scope else ()
    told = ("Idempotency-Check",) if operation.body else ()
    responses: dict[str, Schema] = {
        str(answer.status): {
            "description": answer.description,
            "headers": _headers("X-Request-Id", *told, *limits),
            "content": {answer.media_type: {"schema": answer.schema, "example": answer.example}},
        }
    }
    by_status: dict[int, list[ErrorCode]] = {}
    for code in (*operation.errors, *(_WITH_KEY if operation.scope else ()), *_ALWAYS):
        by_status.setdefault(code.status, []).append(code)
    for error_status, codes in sorted(by_status.items()):
        responses[str(error_status)] = _error_response(codes, limits)
    return responses


def _error_response(codes: list[ErrorCode], limits: Sequence[str]) -> Schema:
    status = codes[0].status
    told = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}.get(status, ())
    return {
        "description": "; ".join(f"`{code.code}`: {code.meaning}" for code in codes),
        "headers": _headers("X-Request-Id", *told, *limits),
        "content": {
            JSON: {
                "schema": reference("Error"),
                "examples": {code.code: {"value": example_of_error(code)} for code in codes},
            },
            PROBLEM: {
                "schema": reference("Problem"),
                "examples": {code.code: {"value": example_of_problem(code)} for code in codes},
            },
        },
    }
