"""The catalogue of errors: every code that an answer, an event or a dead letter can carry."""

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """One error: its `code`, the HTTP `status` when it answers a request, if sending again helps, and its meaning."""

    code: str
    status: int
    retryable: bool
    meaning: str


INVALID_JSON = ErrorCode("invalid_json", 400, retryable=False, meaning="the body is not JSON (RFC 8259)")
INVALID_REQUEST = ErrorCode(
    "invalid_request", 400, retryable=False, meaning="the request's shape, a query parameter or a cursor is wrong"
)
UNAUTHORIZED = ErrorCode(
    "unauthorized", 401, retryable=False, meaning="no API key, or one that is unknown, expired or revoked"
)
FORBIDDEN = ErrorCode("forbidden", 403, retryable=False, meaning="the API key lacks the scope that this needs")
NOT_FOUND = ErrorCode(
    "not_found", 404, retryable=False, meaning="there is nothing here, or nothing that this key may see"
)
METHOD_NOT_ALLOWED = ErrorCode(
    "method_not_allowed", 405, retryable=False, meaning="the route exists, but not with this method"
)
REQUEST_TIMEOUT = ErrorCode("request_timeout", 408, retryable=True, meaning="headers or body arrived too slowly")
IDEMPOTENCY_CONFLICT = ErrorCode(
    "idempotency_conflict", 409, retryable=False, meaning="the idempotency key belongs to an event with another payload"
)
NOT_RETRYABLE = ErrorCode("not_retryable", 409, retryable=False, meaning="only a FAILED event can be retried")
PAYLOAD_TOO_LARGE = ErrorCode(
    "payload_too_large", 413, retryable=False, meaning="the body is larger than this gateway accepts"
)
UNSUPPORTED_MEDIA_TYPE = ErrorCode(
    "unsupported_media_type",
    415,
    retryable=False,
    meaning="the content type is not JSON, or the encoding is not gzip, zstd or identity",
)
INVALID_EVENT = ErrorCode(
    "invalid_event", 422, retryable=False, meaning="a field of the event is missing, unknown or not as specified"
)
INVALID_PROGRAM_ID = ErrorCode(
    "invalid_program_id",
    422,
    retryable=False,
    meaning="program_id is no UUID, or no program that this key may write to",
)
EVENT_TOO_LARGE = ErrorCode(
    "event_too_large", 422, retryable=False, meaning="event_data is larger than this gateway accepts"
)
TOO_MANY_REQUESTS = ErrorCode(
    "too_many_requests", 429, retryable=True, meaning="the key's rate is used up; Retry-After says until when"
)
INTERNAL_ERROR = ErrorCode(
    "internal_error", 500, retryable=True, meaning="a defect in Headrace; the log has it under the request_id"
)
UNAVAILABLE = ErrorCode("unavailable", 503, retryable=True, meaning="Kafka or Postgres did not answer in time")

HTTP_ERRORS: tuple[ErrorCode, ...] = (
    INVALID_JSON,
    INVALID_REQUEST,
    UNAUTHORIZED,
    FORBIDDEN,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    REQUEST_TIMEOUT,
    IDEMPOTENCY_CONFLICT,
    NOT_RETRYABLE,
    PAYLOAD_TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    INVALID_EVENT,
    INVALID_PROGRAM_ID,
    EVENT_TOO_LARGE,
    TOO_MANY_REQUESTS,
    INTERNAL_ERROR,
    UNAVAILABLE,
)

# Codes that only dead letters and FAILED events carry: a record can be wrong in ways that HTTP cannot.
UNREADABLE_RECORD = "unreadable_record"
KEY_MISMATCH = "key_mismatch"
UNSTORABLE_EVENT = "unstorable_event"
UNKNOWN_RETRY = "unknown_retry"
HANDLER_FAILED = "handler_failed"
HANDLER_CRASHED = "handler_crashed"
