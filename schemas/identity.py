"""Who an event is: its id, and its program. Any party computes the same id without asking anyone."""

import re
from binascii import hexlify
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha1
from struct import Struct
from typing import Any, NamedTuple
from uuid import UUID

_PROGRAMS_REMEMBERED = 65_536
_UUID_CHARACTERS = 36

_OTHER_BITS = (1 << 128) - 1 - (0xF000 << 64 | 0xC000 << 48)  # than those of version and variant
_SHA1_BITS_UNUSED = 160 - 128
_VERSION_5 = 0x5000 << 64 | 0x8000 << 48

_number = int.from_bytes
# Of digits with a dash before every fourth, without the three dashes that a UUID has not.
_of_five_groups = Struct("4sx24sx4sx4s").unpack
_is_uuid_text = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch


def _id_hash() -> Callable[[bytes], Any]:
    """SHA-1. Said to be for no security it costs three times as much: only where it is refused otherwise (FIPS)."""
    try:
        sha1(b"")  # noqa: S324 - RFC 9562 says which hash an id is made of
    except ValueError:
        return partial(sha1, usedforsecurity=False)
    return sha1


id_hash = _id_hash()


class Program(NamedTuple):
    """A program: `text` is its UUID in lower case, `packed` the 16 bytes, `key` the Kafka key (the text as ASCII)."""

    text: str
    packed: bytes
    key: bytes


class _Programs(dict[str, Program | None]):
    """Programs by their text, the latest many of them; None for what is no UUID as RFC 9562 writes it."""

    def __missing__(self, text: str) -> Program | None:
        if len(self) >= _PROGRAMS_REMEMBERED:
            self.clear()
        found = None
        if _is_uuid_text(text):
            lower = text.lower()
            found = Program(lower, UUID(lower).bytes, lower.encode())
        self[text] = found
        return found


PROGRAMS: Mapping[str, Program | None] = _Programs()
"""Programs by texts of 36 characters, see :func:`program`."""


def program(text: str) -> Program | None:
    """The program that `text` names, or None where `text` is no UUID as RFC 9562 writes it (36 characters)."""
    # Only short texts are remembered: what is no UUID can be as long as a body.
    return PROGRAMS[text] if len(text) == _UUID_CHARACTERS else None


def event_id(program_packed: bytes, idempotency_key: str) -> bytes:
    """The 16 bytes of UUIDv5(namespace=program_id, name=idempotency_key), RFC 9562 section 5.5."""
    digest = id_hash(program_packed + idempotency_key.encode()).digest()
    return (_number(digest) >> _SHA1_BITS_UNUSED & _OTHER_BITS | _VERSION_5).to_bytes(16)


def uuid_ascii(packed: bytes) -> bytes:
    """The 36 characters of a UUID of 16 bytes, in ASCII."""
    return b"".join(_of_five_groups(hexlify(packed, b"-", 2)))


def uuid_text(packed: bytes) -> str:
    """The 36 characters of a UUID of 16 bytes."""
    return uuid_ascii(packed).decode()
