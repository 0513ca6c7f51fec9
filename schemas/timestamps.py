"""Timestamps: RFC 3339 with an offset in; one spelling per instant out (UTC, ``Z``, no trailing zeros).

Postgres keeps microseconds. What is finer, and a leap second, cannot be kept exactly and is refused, never rounded.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from time import gmtime, strftime, time_ns

_parts = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):\d\d:\d\d(?:\.(\d+))?([Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
).fullmatch
# The canonical spelling, digits aside, which most senders use: a third of what a regular expression costs.
_CANONICAL_WHOLE = b"0000-00-00T00:00:00Z"
_CANONICAL = {_CANONICAL_WHOLE} | {b"0000-00-00T00:00:00.%sZ" % (b"0" * digits) for digits in range(1, 7)}
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_FINEST_DIGITS = 6
_NOT_STORABLE = "is no date and time that can be stored (years 0001 to 9999, no leap second)"

# For documents. The first and the last day are left out: with an offset they can lie outside of what can be stored.
PATTERN = r"^(?!0000-|0001-01-01|9999-12-31)\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6}0*)?([Zz]|[+-]\d\d:\d\d)$"


def read_timestamp(text: str) -> tuple[datetime, str]:
    """The instant that `text` names, in UTC, and its canonical spelling. Raises ValueError saying what is wrong."""
    shape = text.encode().translate(_DIGITS_AS_ZERO)
    if shape in _CANONICAL and (text[11] != "2" or text[12] != "4"):
        try:
            instant = datetime.fromisoformat(text)
            # Of a fraction, which may be nothing but zeros; a tenth of all fractions end with one.
            is_shortest = text[-2] != "0" or shape == _CANONICAL_WHOLE
            return instant, text if is_shortest else text[:-1].rstrip("0").removesuffix(".") + "Z"
        except ValueError:
            pass  # for the slow way to say what is wrong
    match = _parts(text)
    if match is None:
        raise ValueError("must be RFC 3339 with an offset, such as 2024-01-15T10:30:00Z")
    fraction, zone = match.groups()
    if fraction is not None and len(fraction) > _FINEST_DIGITS and fraction[_FINEST_DIGITS:].strip("0"):
        raise ValueError("is finer than a microsecond, which cannot be stored exactly")
    try:
        instant = datetime.fromisoformat(text.upper())
        if zone != "Z":
            instant = instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(_NOT_STORABLE) from None
    return instant, timestamp_text(instant)


def now_text() -> str:
    """The canonical spelling of now, to the microsecond."""
    seconds, microseconds = divmod(time_ns() // 1_000, 1_000_000)
    return f"{_second_text(seconds)}.{microseconds:06}".rstrip("0").rstrip(".") + "Z"


@lru_cache(maxsize=1)
def _second_text(seconds: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))


def timestamp_text(instant: datetime) -> str:
    """The canonical spelling of an aware datetime."""
    if instant.tzinfo is not UTC:
        instant = instant.astimezone(UTC)
    text = instant.replace(tzinfo=None).isoformat()
    return (text.rstrip("0") if instant.microsecond else text) + "Z"
