"""``/asyncapi.json``: the Kafka contract for machines (AsyncAPI 3.0), made from the same schemas as the HTTP one."""

from functools import cache
from typing import Any, NamedTuple

from gateway.components import EXAMPLES, Schema, components, reference
from gateway.openapi import own_version
from schemas import topics
from schemas.settings import Settings

JSON = "application/json"

_KEY: Schema = {"type": "string", "format": "uuid", "description": "`program_id`, lower-case text"}
_LAST_KEY: Schema = {"type": ["string", "null"], "description": "`program_id`, lower-case text, where it can be read"}
_UUID: Schema = {"type": "string", "format": "uuid"}

_STATUS: Schema = {
    "type": "object",
    "description": "What has become of an event",
    "required": ["id", "program_id", "idempotency_key", "status", "error_code", "processed_at"],
    "properties": {
        "id": _UUID,
        "program_id": _UUID,
        "idempotency_key": {"type": "string"},
        "status": {"type": "string", "enum": ["COMPLETED", "FAILED"]},
        "error_code": {"type": ["string", "null"]},
        "processed_at": {"type": "string", "format": "date-time"},
    },
}
_FINAL: Schema = {
    **{name: EXAMPLES["Event"][name] for name in ("id", "program_id", "idempotency_key", "status", "error_code")},
    "processed_at": EXAMPLES["Event"]["processed_at"],
}


def _headers(**meanings: str) -> Schema:
    names = {name.replace("_", "-"): meaning for name, meaning in meanings.items()}
    return {"type": "object", "properties": {name: {"type": "string", "description": names[name]} for name in names}}


class _Channel(NamedTuple):
    topic: str
    name: str
    tag: str
    action: str
    summary: str
    description: str
    message: str
    headers: Schema
    payload: Schema
    example: Schema | None
    key: Schema = _KEY
    content_type: str = JSON


_CHANNELS = (
    _Channel(
        topics.EVENTS,
        "events",
        "events",
        "receive",
        "Take in events",
        "Every event. Services may publish here directly: a key and a JSON value are enough, no header is needed.",
        "NewEvent",
        _headers(
            id="The event's id, a hint",
            fingerprint="Of the payload, a hint",
            received_at="When the gateway took it in, a hint",
            traceparent="W3C trace context, passed on",
        ),
        reference("NewEvent"),
        EXAMPLES["NewEvent"],
    ),
    _Channel(
        topics.STATUS,
        "status",
        "outcomes",
        "send",
        "Tell what became of events",
        "A message for each event that has become final, at least once.",
        "FinalStatus",
        _headers(),
        reference("FinalStatus"),
        _FINAL,
    ),
    _Channel(
        topics.RETRY,
        "retries",
        "outcomes",
        "send",
        "Try failing events again",
        "Failing events on their way to another attempt: written by the processors only, readable for all.",
        "RetriedEvent",
        _headers(attempt="The attempt's number", not_before="RFC 3339; when it is due"),
        reference("NewEvent"),
        EXAMPLES["NewEvent"],
    ),
    _Channel(
        topics.DEAD_LETTERS,
        "deadLetters",
        "outcomes",
        "send",
        "Put aside what cannot be processed",
        "Records that could not be read and events that failed for good, as the original bytes.",
        "DeadLetter",
        _headers(
            code="Why it is here, for machines",
            reason="Why it is here, for people",
            topic="Where it came from",
            partition="The partition there",
            offset="The offset there",
            first_seen="RFC 3339; when it was first seen",
            omitted_bytes="How many there were, where the record is too large for this topic and comes without them",
        ),
        {"type": ["string", "null"], "format": "binary", "description": "The original value, whatever it was"},
        None,
        _LAST_KEY,
        "application/octet-stream",
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
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [_tag(name) for name in _TAGS],
        },
        "defaultContentType": JSON,
        "servers": {
            "plain": _server("kafka", "without TLS", []),
            "tls": _server("kafka-secure", "with TLS", [*_SECURITY]),
        },
        "channels": {each.name: _channel(each) for each in _CHANNELS},
        "operations": {each.name: _operation(each) for each in _CHANNELS},
        "components": {
            "messages": {each.message: _message(each) for each in _CHANNELS},
            "schemas": {"NewEvent": schemas["NewEvent"], "FinalStatus": _STATUS},
            "securitySchemes": _SECURITY,
            "tags": {name: {"name": name, "description": meaning} for name, meaning in _TAGS.items()},
        },
    }


_TAGS = {"events": "What comes in", "outcomes": "What becomes of it"}
_SECURITY: dict[str, Schema] = {
    "scramSha512": {"type": "scramSha512", "description": "SASL/SCRAM-SHA-512"},
    "scramSha256": {"type": "scramSha256", "description": "SASL/SCRAM-SHA-256"},
    "plain": {"type": "plain", "description": "SASL/PLAIN"},
    "certificate": {"type": "X509", "description": "A client certificate"},
}


def _tag(name: str) -> Schema:
    return {"$ref": f"#/components/tags/{name}"}


def _server(protocol: str, manner: str, security: list[str]) -> Schema:
    # Which cluster an installation has is its own business: this document is for everybody who reaches the gateway.
    server: Schema = {
        "host": "{bootstrap}",
        "protocol": protocol,
        "description": f"The installation's cluster, {manner}: ask those who run it for address and credentials",
        "variables": {"bootstrap": {"description": "Bootstrap server, host:port", "default": Settings().kafka}},
    }
    if security:
        server["security"] = [{"$ref": f"#/components/securitySchemes/{name}"} for name in security]
    return server


def _channel(channel: _Channel) -> Schema:
    return {
        "address": channel.topic,
        "description": channel.description,
        "messages": {channel.message: {"$ref": f"#/components/messages/{channel.message}"}},
        "bindings": {"kafka": {"topic": channel.topic, "bindingVersion": "0.5.0"}},
    }


def _operation(channel: _Channel) -> Schema:
    return {
        "action": channel.action,
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": channel.summary,
        "description": channel.description,
        "tags": [_tag(channel.tag)],
        "messages": [{"$ref": f"#/channels/{channel.name}/messages/{channel.message}"}],
    }


def _message(channel: _Channel) -> Schema:
    message: Schema = {
        "name": channel.message,
        "contentType": channel.content_type,
        "headers": channel.headers,
        "payload": channel.payload,
        "bindings": {"kafka": {"key": channel.key, "bindingVersion": "0.5.0"}},
    }
    if channel.example is not None:
        message["examples"] = [{"name": channel.message, "payload": channel.example}]
    return message
