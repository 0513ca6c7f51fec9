"""A batch's body taken apart into its events, so that no event can spoil another's."""

import re
from collections.abc import Iterator

import msgspec

EVENTS_MAX = 100

_SHAPE = 'the body must be {"events": [...]} with 1 to 100 events'


class NotJsonError(ValueError):
    """The body is not JSON."""


class BadBatchError(ValueError):
    """The body is JSON, but no batch; the message says why."""


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


_decode = msgspec.json.Decoder(_Batch).decode


def split_batch(body: bytes) -> list[bytes]:
    """The events of a batch as they stand in its body, each still to be read.

    Raises :class:`NotJsonError` or :class:`BadBatchError`.
    """
    try:
        events = [bytes(raw) for raw in _decode(body).events]
    except msgspec.ValidationError as error:
        raise BadBatchError(f"{_SHAPE}: {str(error).replace('`', '')}") from None
    except (msgspec.DecodeError, RecursionError):
        # One event with a lone surrogate, or nested too deep for the decoder, must not cost the others.
        events = list(_split_by_brackets(body))
    if not 1 <= len(events) <= EVENTS_MAX:
        raise BadBatchError(f"{_SHAPE}; this one has {len(events)}")
    if body.count(b":") != 1 + sum(event.count(b":") for event in events):
        raise BadBatchError(f"{_SHAPE}; events is given twice")
    return events


_head = re.compile(rb'\s*\{\s*"events"\s*:\s*\[').match
_tail = re.compile(rb"\s*\}\s*\Z").match
_tokens = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]+|[\]}]+|,', re.DOTALL).finditer


def _split_by_brackets(body: bytes) -> Iterator[bytes]:
    """Split without decoding, at any depth. What lies between the commas is checked by whoever reads it."""
    head = _head(body)
    if head is None:
        raise NotJsonError
    start, depth = head.end(), 0
    for token in _tokens(body, start):
        kind, length = token[0][:1], len(token[0])
        if kind in b"[{":
            depth += length
        elif kind in b"]}":
            if length > depth:
                yield from _last(body, start, token.start() + depth)
                return
            depth -= length
        elif kind == b"," and depth == 0:
            yield body[start : token.start()].strip()
            start = token.end()
    raise NotJsonError


def _last(body: bytes, start: int, end: int) -> Iterator[bytes]:
    if body[end : end + 1] != b"]" or not _tail(body, end + 1):
        raise NotJsonError
    event = body[start:end].strip()
    if event:
        yield event
