"""``/asyncapi.json``: the Kafka contract for machines (AsyncAPI 3.0), made from the same schemas as the HTTP one."""

from functools import cache
from typing import Any, NamedTuple

from gateway.components import EXAMPLE_EVENT, Schema, components, reference
from gateway.openapi import own_version
from schemas import topics

_KEY: Schema = {"type": "string", "format": "uuid", "description": "`program_id`, lower-case text"}
_UUID: Schema = {"type": "string", "format": "uuid"}

_STATUS: Schema = {
    "type": "object",
    "required": ["id", "program_id", "idempotency_key", "status", "error_code", "processed_at"],
    "properties": {
        "id": _UUID,
        "program_id": _UUID,
        "idempotency_key": {"type": "string"},
        "status": {"enum": ["COMPLETED", "FAILED"]},
        "error_code": {"type": ["string", "null"]},
        "processed_at": {"type": "string", "format": "date-time"},
    },
}


def _headers(**meanings: str) -> Schema:
    names = {name.replace("_", "-"): meaning for name, meaning in meanings.items()}
    return {"type": "object", "properties": {name: {"type": "string", "description": names[name]} for name in names}}


class _Channel(NamedTuple):
    topic: str
    name: str
    action: str
    summary: str
    message: str
    headers: Schema
    payload: Schema


_CHANNELS = (
    _Channel(
        topics.EVENTS,
        "events",
        "receive",
        "Every event. Services may publish here directly: a key and a JSON value are enough, no header is needed.",
        "NewEvent",
        _headers(
            id="The event's id, a hint",
            fingerprint="Of the payload, a hint",
            received_at="When the gateway took it in, a hint",
            traceparent="W3C trace context, passed on",
        ),
        reference("NewEvent"),
    ),
    _Channel(
        topics.STATUS,
        "status",
        "send",
        "A message for each event that has become final, at least once.",
        "FinalStatus",
        {"type": "object"},
        reference("FinalStatus"),
    ),
    _Channel(
        topics.RETRY,
        "retries",
        "send",
        "Failing events on their way to another attempt; the processors' own, readable for all.",
        "RetriedEvent",
        _headers(attempt="The attempt's number", not_before="RFC 3339; when it is due"),
        reference("NewEvent"),
    ),
    _Channel(
        topics.DEAD_LETTERS,
        "deadLetters",
        "send",
        "Records that could not be read and events that failed for good, as the original bytes.",
        "DeadLetter",
        _headers(
            code="Why it is here, for machines",
            reason="Why it is here, for people",
            topic="Where it came from",
            partition="The partition there",
            offset="The offset there",
            first_seen="RFC 3339; when it was first seen",
        ),
        {"type": "string", "format": "binary", "description": "The original value, whatever it was"},
    ),
)


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    schemas = components()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headrace",
            "version": own_version(),
            "description": "The topics of an installation. Partition = murmur2 of the key, as in Java's client.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {each.name: _channel(each) for each in _CHANNELS},
        "operations": {each.name: _operation(each) for each in _CHANNELS},
        "components": {
            "messages": {each.message: _message(each) for each in _CHANNELS},
            "schemas": {"NewEvent": schemas["NewEvent"], "FinalStatus": _STATUS},
        },
    }


def _channel(channel: _Channel) -> Schema:
    return {
        "address": channel.topic,
        "description": channel.summary,
        "messages": {channel.message: {"$ref": f"#/components/messages/{channel.message}"}},
        "bindings": {"kafka": {"topic": channel.topic, "bindingVersion": "0.5.0"}},
    }


def _operation(channel: _Channel) -> Schema:
    return {
        "action": channel.action,
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": channel.summary,
        "messages": [{"$ref": f"#/channels/{channel.name}/messages/{channel.message}"}],
    }


def _message(channel: _Channel) -> Schema:
    message: Schema = {
        "name": channel.message,
        "headers": channel.headers,
        "payload": channel.payload,
        "bindings": {"kafka": {"key": _KEY, "bindingVersion": "0.5.0"}},
    }
    if channel.message == "NewEvent":
        message["examples"] = [{"name": "order", "payload": EXAMPLE_EVENT}]
    return message
