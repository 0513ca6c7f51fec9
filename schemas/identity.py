"""Who an event is: its id, and its program. Any party computes the same id without asking anyone."""

import hashlib
import re
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

_PROGRAMS_REMEMBERED = 65_536
_UUID_CHARACTERS = 36

_VERSION_AND_VARIANT = ~(0xF000 << 64 | 0xC000 << 48)
_VERSION_5 = 0x5000 << 64 | 0x8000 << 48

_is_uuid_text = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch


class Program(NamedTuple):
    """A program: `text` is its UUID in lower case, `packed` the 16 bytes, `key` the Kafka key (the text as ASCII)."""

    text: str
    packed: bytes
    key: bytes


def program(text: str) -> Program | None:
    """The program that `text` names, or None where `text` is no UUID as RFC 9562 writes it (36 characters)."""
    # Only short texts are remembered: what is no UUID can be as long as a body.
    return _program(text) if len(text) == _UUID_CHARACTERS else None


@lru_cache(maxsize=_PROGRAMS_REMEMBERED)
def _program(text: str) -> Program | None:
    if not _is_uuid_text(text):
        return None
    lower = text.lower()
    return Program(lower, UUID(lower).bytes, lower.encode())


def event_id(program_packed: bytes, idempotency_key: str) -> bytes:
    """The 16 bytes of UUIDv5(namespace=program_id, name=idempotency_key), RFC 9562 section 5.5."""
    digest = hashlib.sha1(program_packed + idempotency_key.encode(), usedforsecurity=False).digest()
    number = int.from_bytes(digest[:16], "big") & _VERSION_AND_VARIANT | _VERSION_5
    return number.to_bytes(16, "big")


def uuid_text(packed: bytes) -> str:
    """The 36 characters of a UUID of 16 bytes."""
    digits = packed.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
