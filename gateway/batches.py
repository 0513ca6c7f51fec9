"""A batch's body taken apart into its events, so that no event can spoil another's."""

import re
from collections.abc import Iterator
from itertools import islice

import msgspec

EVENTS_MAX = 100

_SPACE = b" \t\n\r"  # as JSON has it
_QUOTE = ord(b'"')
_COMMA = ord(",")
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
        events = list(islice(_split_by_brackets(body), EVENTS_MAX + 1))
    if not 1 <= len(events) <= EVENTS_MAX:
        raise BadBatchError(f"{_SHAPE}; this one has {'none' if not events else 'more'}")
    if body.count(b":") != 1 + sum(event.count(b":") for event in events):
        raise BadBatchError(f"{_SHAPE}; events is given twice")
    return events


# No possessive quantifiers: Python 3.11.2 gets those of groups wrong.
_head = re.compile(rb'\s*\{\s*"events"\s*:\s*\[').match
_tail = re.compile(rb"\s*\}\s*\Z").match
_between = re.compile(rb'[",\]}]|[\[{]+').search
_inside = re.compile(rb'"|[\[{]+|[\]}]+').search
_quote_or_escape = re.compile(rb'["\\]').search


def _split_by_brackets(body: bytes) -> Iterator[bytes]:
    """Split without decoding, at any depth. What lies between the commas is checked by whoever reads it."""
    head = _head(body)
    if head is None:
        raise NotJsonError
    start = at = head.end()
    depth = 0
    while (token := (_inside if depth else _between)(body, at)) is not None:
        begin, at = token.span()
        kind = body[begin]
        if kind == _QUOTE:
            at = _string_end(body, at)
        elif kind in b"[{":
            depth += at - begin
        elif kind == _COMMA:
            yield body[start:begin].strip(_SPACE)
            start = at
        elif depth == 0:
            yield from _last(body, start, at)
            return
        else:
            # A run of brackets may close the event and then the list.
            at = min(at, begin + depth)
            depth -= at - begin
    raise NotJsonError


def _string_end(body: bytes, at: int) -> int:
    """Where the string that has begun before `at` is over; the body's end where it never is."""
    while (found := _quote_or_escape(body, at)) is not None:
        at = found.end()
        if body[at - 1] == _QUOTE:
            return at
        at += 1  # what an escape escapes
    return len(body)


def _last(body: bytes, start: int, end: int) -> Iterator[bytes]:
    if not _tail(body, end):
        raise NotJsonError
    event = body[start : end - 1].strip(_SPACE)
    if event:
        yield event
