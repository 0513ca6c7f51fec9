"""The list route's query: from parameters to a checked query; its SQL is in :mod:`gateway.pages`. Pure: no I/O.

Pages are cut by keyset, not by offset: the next page begins behind the last event's (sort column, id). Neither of the
two sort columns ever changes, nor does the id, so that no page skips or repeats an event that was there before.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from gateway.cursors import CursorError, Position, Signer
from gateway.problems import ApiError, FieldError, field_error, in_one_line
from schemas.errors import INVALID_REQUEST
from schemas.event import NAME_CHARACTERS_MAX
from schemas.identity import program
from schemas.timestamps import PATTERN, read_timestamp

LIMIT_DEFAULT = 50
LIMIT_MAX = 200
SORTS = ("created_at", "event_timestamp")
DIRECTIONS = ("desc", "asc")
STATUSES = ("PENDING", "PROCESSING", "COMPLETED", "FAILED")
EVENT_TYPES = ("EXTERNAL", "SYSTEM")

_PARAMETERS_MAX = 100
_UUID_CHARACTERS = 36

_is_small_number = re.compile(r"[0-9]{1,9}").fullmatch


def _uuid(text: str) -> str:
    known = program(text) if len(text) == _UUID_CHARACTERS else None
    if known is None:
        raise ValueError("must be a UUID")
    return known.text


def _name(text: str) -> str:
    if not 1 <= len(text) <= NAME_CHARACTERS_MAX:
        raise ValueError(f"must be 1 to {NAME_CHARACTERS_MAX} characters")
    if "\0" in text:
        raise ValueError("contains a NUL character, which no event has")
    return text


def _instant(text: str) -> str:
    # An unescaped "+" of an offset arrives as a space, which RFC 3339 has no other use for.
    return read_timestamp(text.replace(" ", "+"))[1]


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError("must be one of " + ", ".join(choices))
        return text

    return read


class Filter(NamedTuple):
    """One filter: its condition in SQL, how its text is read (raises ValueError), its meaning, its JSON Schema."""

    condition: LiteralString
    read: Callable[[str], str]
    meaning: str
    schema: dict[str, Any]


_UUID_SCHEMA = {"type": "string", "format": "uuid"}
_NAME_SCHEMA = {"type": "string", "minLength": 1, "maxLength": NAME_CHARACTERS_MAX}
_INSTANT_SCHEMA = {"type": "string", "format": "date-time", "pattern": PATTERN}
_STATUS_SCHEMA = {"type": "string", "enum": [*STATUSES]}
_TYPE_SCHEMA = {"type": "string", "enum": [*EVENT_TYPES]}


FILTERS: dict[str, Filter] = {
    "program_id": Filter("e.program_id = %(program_id)s::uuid", _uuid, "events of this program", _UUID_SCHEMA),
    "status": Filter(
        "e.status = %(status)s::headrace.status", _one_of(STATUSES), "events in this status", _STATUS_SCHEMA
    ),
    "event_type": Filter(
        "e.event_type = %(event_type)s::headrace.event_type",
        _one_of(EVENT_TYPES),
        "events of this origin",
        _TYPE_SCHEMA,
    ),
    "participant_id": Filter(
        "e.participant_id = %(participant_id)s::uuid", _uuid, "events of this participant", _UUID_SCHEMA
    ),
    "external_id": Filter("e.external_id = %(external_id)s", _name, "events with this external id", _NAME_SCHEMA),
    "recipient_id": Filter("e.recipient_id = %(recipient_id)s::uuid", _uuid, "events for this recipient", _UUID_SCHEMA),
    "idempotency_key": Filter(
        "e.idempotency_key = %(idempotency_key)s", _name, "events with this key, of any program", _NAME_SCHEMA
    ),
    "from": Filter(
        "e.created_at >= %(from)s::timestamptz", _instant, "created at or after this instant", _INSTANT_SCHEMA
    ),
    "to": Filter("e.created_at < %(to)s::timestamptz", _instant, "created before this instant", _INSTANT_SCHEMA),
    "event_from": Filter(
        "e.event_timestamp >= %(event_from)s::timestamptz",
        _instant,
        "with an event_timestamp at or after this",
        _INSTANT_SCHEMA,
    ),
    "event_to": Filter(
        "e.event_timestamp < %(event_to)s::timestamptz",
        _instant,
        "with an event_timestamp before this",
        _INSTANT_SCHEMA,
    ),
}
PARAMETERS = (*FILTERS, "limit", "cursor", "sort_by", "sort_dir")


class ListQuery(msgspec.Struct, frozen=True):
    """A checked query: `filters` as (parameter, canonical text) in a fixed order, and where the page begins."""

    filters: tuple[tuple[str, str], ...]
    sort_by: str
    sort_dir: str
    limit: int
    after: Position | None

    @property
    def digest(self) -> bytes:
        """16 bytes that tell queries apart; the limit and the position have no part in it."""
        return _digest(self.filters, self.sort_by, self.sort_dir)


def _digest(filters: tuple[tuple[str, str], ...], sort_by: str, sort_dir: str) -> bytes:
    return hashlib.sha256(msgspec.json.encode((filters, sort_by, sort_dir))).digest()[:16]


def read_query(query_string: bytes, signer: Signer) -> ListQuery:
    """Check the parameters of the list route. Raises ApiError `invalid_request` naming each one that is wrong."""
    given, wrong = _parameters(query_string)
    values: dict[str, Any] = {"sort_by": SORTS[0], "sort_dir": DIRECTIONS[0], "limit": LIMIT_DEFAULT}
    readers: dict[str, Callable[[str], Any]] = {
        **{name: each.read for name, each in FILTERS.items()},
        "limit": _limit,
        "sort_by": _one_of(SORTS),
        "sort_dir": _one_of(DIRECTIONS),
    }
    for name, text in given.items():
        if name not in readers:
            if name != "cursor":
                wrong.append(field_error(name, "is not a parameter of this route"))
            continue
        try:
            values[name] = readers[name](text)
        except ValueError as error:
            wrong.append(field_error(name, str(error)))
    if wrong:
        raise _invalid(wrong)
    filters = tuple((name, values[name]) for name in FILTERS if name in values)
    query = ListQuery(filters, values["sort_by"], values["sort_dir"], values["limit"], None)
    if "cursor" not in given:
        return query
    try:
        return msgspec.structs.replace(query, after=signer.decode(given["cursor"], query.digest))
    except CursorError as error:
        raise _invalid([field_error("cursor", str(error))]) from None


def _parameters(query_string: bytes) -> tuple[dict[str, str], list[FieldError]]:
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_PARAMETERS_MAX
        )
    except UnicodeError:
        raise _invalid([field_error("", "the query string is not UTF-8")]) from None
    except ValueError:
        raise _invalid([field_error("", f"there are more than {_PARAMETERS_MAX} parameters")]) from None
    given: dict[str, str] = {}
    wrong: list[FieldError] = []
    for name, text in pairs:
        if name in given:
            wrong.append(field_error(name, "is given twice"))
        given[name] = text
    return given, wrong


def _limit(text: str) -> int:
    if not _is_small_number(text) or not 1 <= int(text) <= LIMIT_MAX:
        raise ValueError(f"must be a whole number from 1 to {LIMIT_MAX}")
    return int(text)


def _invalid(wrong: list[FieldError]) -> ApiError:
    return ApiError(INVALID_REQUEST, in_one_line(wrong), wrong)


def sort_instant(query: ListQuery, created_at: datetime, event_timestamp: datetime) -> datetime:
    """The value of the query's sort column."""
    return created_at if query.sort_by == "created_at" else event_timestamp
