"""JSON Schemas of what travels over HTTP and Kafka, made from the code's own types, for the two contracts."""

from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from gateway import events, ingest, problems, retrying, stats
from gateway.batches import EVENTS_MAX
from schemas import errors, timestamps
from schemas.errors import ErrorCode
from schemas.event import Fields
from schemas.identity import event_id, uuid_text

Schema: TypeAlias = dict[str, Any]

_TEMPLATE = "#/components/schemas/{name}"

# The field names must be the code's; these say what its types cannot.
_UUID = {"type": "string", "format": "uuid"}
_INSTANT = {"type": "string", "format": "date-time"}
_TIMESTAMP = {
    "type": "string",
    "format": "date-time",
    "pattern": timestamps.PATTERN,
    "description": "RFC 3339 with an offset, microseconds at the finest, no leap second",
}

EXAMPLE_EVENT: Schema = {
    "program_id": "550e8400-e29b-41d4-a716-446655440000",
    "idempotency_key": "order-12345-completed",
    "event_timestamp": "2024-01-15T10:30:00Z",
    "external_id": "user_abc123",
    "event_data": {"order_id": "12345", "amount": 99.95},
}
_EXAMPLE_PROGRAM = EXAMPLE_EVENT["program_id"]
_EXAMPLE_ID = uuid_text(event_id(UUID(_EXAMPLE_PROGRAM).bytes, EXAMPLE_EVENT["idempotency_key"]))
_EXAMPLE_ACCEPTED: Schema = {
    "id": _EXAMPLE_ID,
    "idempotency_key": EXAMPLE_EVENT["idempotency_key"],
    "program_id": _EXAMPLE_PROGRAM,
    "participant_id": None,
    "external_id": EXAMPLE_EVENT["external_id"],
    "event_timestamp": EXAMPLE_EVENT["event_timestamp"],
    "status": "PENDING",
}
_EXAMPLE_REFUSED: Schema = {
    "index": 1,
    "error": "invalid program_id",
    "code": errors.INVALID_PROGRAM_ID.code,
    "retryable": errors.INVALID_PROGRAM_ID.retryable,
    "event": {"idempotency_key": "order-12346-completed", "program_id": "orders"},
    "status": "error",
}
_EXAMPLE_FOUND: Schema = {
    "id": _EXAMPLE_ID,
    **EXAMPLE_EVENT,
    "participant_id": None,
    "recipient_external_id": None,
    "recipient_id": None,
    "status": "COMPLETED",
    "event_type": "EXTERNAL",
    "error_code": None,
    "error_message": None,
    "attempts": 1,
    "duplicate_count": 0,
    "conflicts": [],
    "result": None,
    "received_at": "2024-01-15T10:30:01.204118Z",
    "created_at": "2024-01-15T10:30:01.231977Z",
    "updated_at": "2024-01-15T10:30:01.231977Z",
    "processed_at": "2024-01-15T10:30:01.231977Z",
}

# What travels, by the name of its schema.
EXAMPLES: dict[str, Schema] = {
    "NewEvent": EXAMPLE_EVENT,
    "Batch": {"events": [EXAMPLE_EVENT]},
    "AcceptedEvent": _EXAMPLE_ACCEPTED,
    "BatchAnswer": {
        "total": 2,
        "success_count": 1,
        "error_count": 1,
        "results": [{"index": 0, "event": _EXAMPLE_ACCEPTED, "status": "accepted"}, _EXAMPLE_REFUSED],
    },
    "Event": _EXAMPLE_FOUND,
    "EventPage": {"data": [_EXAMPLE_FOUND], "pagination": {"has_more": False, "next_cursor": None}},
    "RetryAnswer": {"id": _EXAMPLE_ID, "status": "PENDING"},
    "Stats": {
        "program_id": _EXAMPLE_PROGRAM,
        "total": 3,
        "by_status": {"COMPLETED": 2, "FAILED": 1},
        "by_hour": [
            {"hour": "2024-01-15T10:00:00Z", "status": "COMPLETED", "events": 2},
            {"hour": "2024-01-15T10:00:00Z", "status": "FAILED", "events": 1},
        ],
        "duplicates": 1,
        "conflicts": 0,
        "first_event_at": "2024-01-15T10:30:00Z",
        "last_event_at": "2024-01-15T10:41:07.25Z",
    },
}


def example_of_error(code: ErrorCode) -> Schema:
    """An error as ``application/json`` carries it."""
    return {"code": code.code, "message": code.meaning, "request_id": "4f1c0a5e9b7d2c3300000001"}


def example_of_problem(code: ErrorCode) -> Schema:
    """An error as ``application/problem+json`` carries it."""
    kind = problems.PROBLEM_TYPE_PREFIX + code.code
    told = {"type": kind, "title": code.meaning, "status": code.status, "detail": code.meaning}
    return example_of_error(code) | told


def reference(name: str) -> Schema:
    """A reference to one of the :func:`components`."""
    return {"$ref": _TEMPLATE.format(name=name)}


def components() -> dict[str, Schema]:
    """Every schema by its name in the documents."""
    answers = (events.EventPage, events.Conflict, problems.ErrorAnswer, problems.ProblemAnswer)
    found = _schemas(answers, {"EventAnswer": "Event", "ErrorAnswer": "Error", "ProblemAnswer": "Problem"})
    found |= _schemas((stats.Stats, retrying.RetryAnswer), {})
    taken_in = {"EventAnswer": "AcceptedEvent", "RefusedItem": "RefusedItem"}
    found |= _schemas((ingest.AcceptedItem, ingest.RefusedItem), taken_in)
    found |= _schemas((Fields,), {"Fields": "NewEvent"})
    found["Batch"] = _batch()
    found["BatchAnswer"] = _batch_answer()
    _say_more_of_events(found)
    _say_more_of_answers(found)
    _name_types_of_enums(found)
    return dict(sorted(found.items()))


def _schemas(types: tuple[type, ...], names: dict[str, str]) -> dict[str, Schema]:
    """The schemas of some types and of what they refer to, under other names where `names` has one."""
    _, found = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    text = msgspec.json.encode(found).decode()
    for old, new in names.items():
        text = text.replace(f'"{_TEMPLATE.format(name=old)}"', f'"{_TEMPLATE.format(name=new)}"')
    renamed = msgspec.json.decode(text)
    return {names.get(name, name): {**schema, "title": names.get(name, name)} for name, schema in renamed.items()}


def _batch() -> Schema:
    items = {"type": "array", "minItems": 1, "maxItems": EVENTS_MAX, "items": reference("NewEvent")}
    return {
        "title": "Batch",
        "description": f"1 to {EVENTS_MAX} events, each of which stands for itself",
        "type": "object",
        "required": ["events"],
        "additionalProperties": False,
        "properties": {"events": items},
        "examples": [EXAMPLES["Batch"]],
    }


def _batch_answer() -> Schema:
    # Its items are told apart by their `status`, which msgspec knows for tagged types only.
    properties: dict[str, Schema] = {
        name: {"type": "integer", "minimum": 0} for name in ingest.BatchAnswer.__struct_fields__ if name != "results"
    }
    items = {
        "oneOf": [reference("AcceptedItem"), reference("RefusedItem")],
        "discriminator": {
            "propertyName": "status",
            "mapping": {
                "accepted": _TEMPLATE.format(name="AcceptedItem"),
                "error": _TEMPLATE.format(name="RefusedItem"),
            },
        },
    }
    properties["results"] = {"type": "array", "minItems": 1, "maxItems": EVENTS_MAX, "items": items}
    return {
        "title": "BatchAnswer",
        "description": (ingest.BatchAnswer.__doc__ or "").strip(),
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }


def _say_more_of_events(found: dict[str, Schema]) -> None:
    new = found["NewEvent"]
    new["properties"]["program_id"] = _UUID | {"description": "The scope of idempotency, of ordering and of access"}
    new["properties"]["event_timestamp"] = _TIMESTAMP
    new["properties"]["event_data"] = {"type": "object", "description": "Any JSON object; kept exactly"}
    new["anyOf"] = [
        {"required": [name], "properties": {name: {"type": "string"}}} for name in ("external_id", "participant_id")
    ]
    new["description"] = "An event. Other fields are refused; an optional one that is null counts as not given."
    new["examples"] = [EXAMPLE_EVENT]
    for name in ("AcceptedItem", "RefusedItem"):
        found[name]["required"] = sorted({*found[name]["required"], "status"})
        found[name]["properties"]["status"].pop("default", None)
        found[name]["properties"]["index"] |= {"minimum": 0, "maximum": EVENTS_MAX - 1}
    accepted = found["AcceptedEvent"]["properties"]
    accepted["id"] = accepted["program_id"] = _UUID
    accepted["event_timestamp"] = _INSTANT
    accepted["status"] = found["Event"]["properties"]["status"]


def _say_more_of_answers(found: dict[str, Schema]) -> None:
    found["RetryAnswer"]["required"] = ["id", "status"]
    found["RetryAnswer"]["properties"] = {"id": _UUID, "status": {"type": "string", "const": "PENDING"}}
    stats = found["Stats"]["properties"]
    stats["program_id"] = _UUID
    stats["first_event_at"] = stats["last_event_at"] = {"anyOf": [_INSTANT, {"type": "null"}]}
    found["HourCount"]["properties"]["hour"] = _INSTANT
    found["Problem"]["properties"]["type"] = {"type": "string", "format": "uri"}
    for name in ("Error", "Problem"):
        found[name]["properties"]["errors"] = {
            "type": "array",
            "description": "Which fields or parameters are wrong, where that is known",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        }


def _name_types_of_enums(value: Schema | list[Any]) -> None:
    # JSON Schema can do without, code generators cannot. Every enum here is of strings.
    if isinstance(value, dict) and isinstance(value.get("enum"), list):
        value.setdefault("type", "string")
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            _name_types_of_enums(each)
