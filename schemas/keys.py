"""API keys: how one is made, recognised and kept.

A key is ``hr_`` + 32 random base-62 characters + 6 characters of checksum. The checksum lets a gateway refuse a
mistyped key without a query; only the SHA-256 of the whole text is kept. Plain SHA-256 is enough, since a key holds
190 random bits and cannot be guessed from its hash.
"""

import hashlib
import secrets
import string
import zlib

PREFIX = "hr_"
SCOPES = ("ingest", "read", "admin")

_ALPHABET = string.digits + string.ascii_letters
_RANDOM_CHARACTERS = 32
_CHECK_CHARACTERS = 6
_LENGTH = len(PREFIX) + _RANDOM_CHARACTERS + _CHECK_CHARACTERS


def new_key() -> tuple[str, bytes]:
    """Make a key; returns its text, to be shown once, and the hash to be kept."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    text = PREFIX + body + _checksum(body)
    return text, hash_key(text)


def is_well_formed(text: str) -> bool:
    """Whether `text` can be a key at all: its prefix, length and checksum are right."""
    if len(text) != _LENGTH or not text.startswith(PREFIX) or not text.isascii():
        return False
    body = text[len(PREFIX) : -_CHECK_CHARACTERS]
    return secrets.compare_digest(_checksum(body), text[-_CHECK_CHARACTERS:])


def hash_key(text: str) -> bytes:
    """The 32 bytes under which a key is kept."""
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECK_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)
