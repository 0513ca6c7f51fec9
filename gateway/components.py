"""JSON Schemas of what travels over HTTP and Kafka, made from the code's own types, for the two contracts."""

from typing import Any, TypeAlias

import msgspec

from gateway import events, ingest, problems, retrying, stats
from gateway.batches import EVENTS_MAX
from schemas import timestamps
from schemas.event import Fields

Schema: TypeAlias = dict[str, Any]

_TEMPLATE = "#/components/schemas/{name}"

# The field names must be the code's; these say what its types cannot.
_UUID = {"type": "string", "format": "uuid"}
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
    _say_more(found)
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
        "type": "object",
        "required": ["events"],
        "additionalProperties": False,
        "properties": {"events": items},
        "examples": [{"events": [EXAMPLE_EVENT]}],
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


def _say_more(found: dict[str, Schema]) -> None:
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
    accepted["event_timestamp"] = {"type": "string", "format": "date-time"}
    accepted["status"] = found["Event"]["properties"]["status"]
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
