"""Cursors: where a page ended, in a form that only this installation can make.

A cursor holds the position (the sort column's instant and the id), and a digest of the query it belongs to. It is
signed, not encrypted: everything in it, the client has seen in the page itself. Nothing is kept on the server, and
every gateway of one installation accepts it, since all take the signing key from the same row of Postgres.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from datetime import UTC, datetime, timedelta

import msgspec

# Version, digest, microseconds since 1970, id; 57 bytes with the signature, so that base 64 needs no padding.
_LAYOUT = struct.Struct(">B16sq16s")
_VERSION = 1
_SIGNATURE_BYTES = 16
_TEXT_CHARACTERS = 76
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Position(msgspec.Struct, frozen=True):
    """The last event of a page: the `instant` in its sort column, and its `id` (16 bytes)."""

    instant: datetime
    id: bytes


class CursorError(ValueError):
    """The text is no cursor of this query; the message says what to do."""


class Signer:
    """Makes and reads cursors with one installation's secret."""

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.sha256(b"headrace cursor\0" + secret).digest()

    def encode(self, position: Position, query_digest: bytes) -> str:
        """The cursor for what follows `position` in the query with this digest (16 bytes)."""
        micros = (position.instant - _EPOCH) // _MICROSECOND
        content = _LAYOUT.pack(_VERSION, query_digest, micros, position.id)
        return base64.urlsafe_b64encode(content + self._signature(content)).decode("ascii")

    def decode(self, text: str, query_digest: bytes) -> Position:
        """The position that a cursor holds. Raises :class:`CursorError` where it was not made for this query."""
        if len(text) != _TEXT_CHARACTERS:
            raise CursorError("is not a cursor")
        try:
            packed = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise CursorError("is not a cursor") from None
        content, signature = packed[: _LAYOUT.size], packed[_LAYOUT.size :]
        if not hmac.compare_digest(signature, self._signature(content)):
            raise CursorError("is not a cursor of this installation")
        _, digest, micros, event_id = _LAYOUT.unpack(content)
        if digest != query_digest:
            raise CursorError("belongs to a query with other filters or another order")
        return Position(_EPOCH + micros * _MICROSECOND, event_id)

    def _signature(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")[:_SIGNATURE_BYTES]
