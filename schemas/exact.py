"""JSON in which nothing is altered: numbers of any size, one canonical spelling per value, and what is refused.

The canonical form of a value has its members sorted, no white space, whole numbers written out, other numbers as their
shortest decimal. Two values are equal exactly when their canonical forms are the same bytes; so the form serves as
what is fingerprinted, published and stored at once. RFC 8785 has the same aim but goes through doubles.
"""

import decimal
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

DEPTH_MAX = 100
DIGITS_MAX = 4_000
EXPANDED_DIGITS_MAX = 262_144

_SMALL_DIGITS = 19
_CONTEXT = decimal.Context(prec=DIGITS_MAX + 8, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)

# Escapes that can hide something: NUL, a colon (which the count of members relies on), surrogates.
_telling_escape = re.compile(rb"\\u(?:00(?:00|3[aA])|[dD][89a-fA-F])").search
_plain_name = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*").fullmatch
_surrogate = re.compile("[\ud800-\udfff]").search


class Fault(NamedTuple):
    """What cannot be kept exactly: the path of the `field`, and a `message` that says why."""

    field: str
    message: str


class NumberReader:
    """The hook through which a JSON decoder reads every number that is not a plain integer.

    Gives an int where the number is whole, else a normalized Decimal. Raises ValueError where the number is too long
    to be kept; `restart` begins a new event, whose written-out digits are counted together.
    """

    def __init__(self) -> None:
        self._expanded_digits = 0

    def restart(self) -> None:
        """Forget the digits counted so far."""
        self._expanded_digits = 0

    def __call__(self, text: str) -> int | Decimal:
        """The number that `text` spells."""
        if len(text) <= _SMALL_DIGITS and text[-1] != "0" and "e" not in text and "E" not in text:
            return Decimal(text)
        number = normalized(text)
        if number.as_tuple().exponent < 0:  # type: ignore[operator]  # finite: never "n", "N" or "F"
            return number
        digits = number.adjusted() + 1
        if digits > _SMALL_DIGITS:
            self._expanded_digits += digits
            if self._expanded_digits > EXPANDED_DIGITS_MAX:
                raise ValueError(f"has numbers of more than {EXPANDED_DIGITS_MAX} digits in all when written out")
        return int(number)


def normalized(text: str) -> Decimal:
    """The number as a Decimal without trailing zeros. Raises ValueError where it has too many digits to be kept."""
    if len(text) <= DIGITS_MAX + 8:
        try:
            number = _CONTEXT.normalize(Decimal(text))
        except decimal.InvalidOperation:
            pass
        else:
            exponent = number.as_tuple().exponent
            if abs(number.adjusted()) < DIGITS_MAX and abs(exponent) <= DIGITS_MAX:  # type: ignore[arg-type]
                return number
    raise ValueError(f"is a number of more than {DIGITS_MAX} digits when written out")


def looks_exact(raw: bytes, canonical: bytes, colons_normalized: int) -> bool:
    """Whether the decoded `raw` is surely free of duplicate names, NUL, surrogates and excessive depth.

    Cheap and one-sided: False means that :func:`find_fault` must look. The decoder keeps the last of two members with the
    same name, so a lost member shows as a colon fewer in the `canonical` form; `colons_normalized` is how many colons of
    `raw` the canonical form spells otherwise.
    """
    return (
        raw.count(b":") - colons_normalized == canonical.count(b":")
        and canonical.count(b"{") + canonical.count(b"[") <= DEPTH_MAX
        and (b"\\u" not in raw or _telling_escape(raw) is None)
    )


class _Members(list[tuple[str, Any]]):
    """A JSON object as its members in order, the repeated ones included."""


class _Number(str):
    """A number as it is spelled."""

    __slots__ = ()


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def find_fault(raw: bytes) -> Fault | None:
    """Look at each value of the JSON object `raw`; the first that cannot be kept exactly, or None.

    Raises ValueError (of which json.JSONDecodeError is one) where `raw` is not JSON at all.
    """
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_Members, parse_int=_Number, parse_float=_Number, parse_constant=_no_constant
        )  # decoded here, since json would take bytes of other encodings too
    except RecursionError:
        return Fault("event_data", f"is nested deeper than {DEPTH_MAX} levels")
    # An explicit stack, since the depth is the sender's choice.
    stack = [("", value, 0)]
    while stack:
        path, value, depth = stack.pop()
        message = _message(value, depth)
        if message is not None:
            return Fault(path, message)
        if isinstance(value, _Members):
            repeated = _repeated_name(value)
            if repeated is not None:
                return Fault(_member_path(path, repeated), "is given twice in one object")
            stack.extend(reversed([*_children(path, value, depth)]))
        elif isinstance(value, list):
            stack.extend((f"{path}[{index}]", item, depth + 1) for index, item in reversed([*enumerate(value)]))
    return None


def _children(path: str, members: _Members, depth: int) -> Iterator[tuple[str, Any, int]]:
    for name, value in members:
        yield _member_path(path, name), name, depth
        yield _member_path(path, name), value, depth + 1


def _message(value: object, depth: int) -> str | None:
    if isinstance(value, _Number):
        try:
            normalized(value)
        except ValueError as error:
            return str(error)
    elif isinstance(value, str):
        if "\0" in value:
            return "contains a NUL character, which cannot be stored"
        if _surrogate(value):
            return "contains a lone surrogate, which is no character"
    elif isinstance(value, list) and depth > DEPTH_MAX:  # the event itself is level 0
        return f"is nested deeper than {DEPTH_MAX} levels"
    return None


def _repeated_name(members: _Members) -> str | None:
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            return name
        seen.add(name)
    return None


def _member_path(path: str, name: str) -> str:
    if _plain_name(name):
        return f"{path}.{name}" if path else name
    return f"{path}[{json.dumps(name)}]"
