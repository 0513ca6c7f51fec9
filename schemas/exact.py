"""JSON in which nothing is altered: numbers of any size, one canonical spelling per value, and what is refused.

The canonical form of a value has its members sorted, no white space, whole numbers written out, other numbers as their
shortest decimal. Two values are equal exactly when their canonical forms are the same bytes; so the form serves as
what is fingerprinted, published and stored at once. RFC 8785 has the same aim but goes through doubles.
"""

import decimal
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

DEPTH_MAX = 100
DIGITS_MAX = 4_000

_SMALL_DIGITS = 19
_WHOLE_WEIGHT = 4
_REMEMBERED_MAX = 16_384
_BACKSLASH = ord("\\")  # bytes look for a number far faster than for bytes
_TOO_DEEP = f"is nested deeper than {DEPTH_MAX} levels"
_CONTEXT = decimal.Context(prec=DIGITS_MAX + 8, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)

# Escapes that can hide something: NUL, a colon (which the count of members relies on), surrogates.
_telling_escape = re.compile(rb"\\u(?:00(?:00|3[aA])|[dD][89a-fA-F])").search
_plain_name = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*").fullmatch
_surrogate = re.compile("[\ud800-\udfff]").search
_tokens = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z))(\s*:)?|[\[{]|[\]}]', re.DOTALL).finditer


class Fault(NamedTuple):
    """What cannot be kept exactly: the path of the `field`, and a `message` that says why."""

    field: str
    message: str


class NumberReader:
    """The hook through which a JSON decoder reads every number that is not a plain integer.

    Gives an int where the number is whole, else a normalized Decimal. Raises ValueError where the number is too long
    to be kept, or where the numbers of one event have more than `digits_max` digits in all when written out, as answers
    show them: seven characters can stand for four thousand. `restart` begins a new event.
    """

    def __init__(self, digits_max: int) -> None:
        self._digits_max = digits_max
        self._digits = 0

        self.hook: Callable[[str], int | Decimal] = _Remembered(self.read).__getitem__
        """As `read`; a number in a spelling met before costs a tenth."""

    def restart(self) -> None:
        """Forget the digits counted so far."""
        self._digits = 0

    def read(self, text: str) -> int | Decimal:
        """The number that `text` spells."""
        if len(text) <= _SMALL_DIGITS and text[-1] != "0" and "e" not in text and "E" not in text:
            return Decimal(text)
        number, exponent = normalized(text)
        digits = max(number.adjusted(), 0) + 1 - min(exponent, 0)
        if digits > _SMALL_DIGITS:
            # A whole number is written out in the record too.
            self._digits += digits if exponent < 0 else digits * _WHOLE_WEIGHT
            if self._digits > self._digits_max:
                raise ValueError("is one of too many long numbers: their digits, written out, are more than is kept")
        return number if exponent < 0 else int(format(number, "f"))  # ten times as fast as int(number)


class _Remembered(dict[str, int | Decimal]):
    """Numbers by their spelling, the latest few thousand of the short ones: prices repeat."""

    def __init__(self, read: Callable[[str], int | Decimal]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, text: str) -> int | Decimal:
        number = self._read(text)
        if len(text) <= _SMALL_DIGITS and "e" not in text and "E" not in text:  # else its digits may have to be counted
            if len(self) >= _REMEMBERED_MAX:
                self.clear()
            self[text] = number
        return number


def normalized(text: str) -> tuple[Decimal, int]:
    """The number as a Decimal without trailing zeros, and its exponent. Raises ValueError where it is too long."""
    if len(text) <= DIGITS_MAX + 8:
        try:
            number = _CONTEXT.normalize(Decimal(text))
        except decimal.InvalidOperation:
            pass
        else:
            exponent: int = number.as_tuple().exponent  # type: ignore[assignment]  # finite: never "n", "N" or "F"
            if abs(number.adjusted()) < DIGITS_MAX and abs(exponent) <= DIGITS_MAX:
                return number, exponent
    raise ValueError(f"is a number of more than {DIGITS_MAX} digits when written out")


def looks_exact(raw: bytes, canonical: bytes, colons_normalized: int, data: dict[str, Any]) -> bool:
    """Whether the decoded `raw` is surely free of duplicate names, NUL, surrogates and excessive depth.

    Cheap and one-sided: False means that :func:`find_fault` must look. The decoder keeps the last of two members with
    the same name, so a lost member shows as a colon fewer in the `canonical` form; `colons_normalized` is how many
    colons of `raw` the canonical form spells otherwise. `data` is the one member that can be nested.
    """
    colons = canonical.count(b":")
    return (
        (raw == canonical or raw.count(b":") - colons_normalized == colons)
        and hides_nothing(raw)
        and depth_is_kept(canonical, colons, data)
    )


def hides_nothing(raw: bytes) -> bool:
    """Whether no escape in `raw` stands for a NUL, a colon, or a surrogate."""
    return _BACKSLASH not in raw or _telling_escape(raw) is None


def depth_is_kept(canonical: bytes, colons: int, data: dict[str, Any]) -> bool:
    """Whether `data`, a member of what `canonical` says with so many `colons`, is nested within the limit."""
    # Of the containers around one value, each object but the last has a colon, and each list a bracket.
    return colons + canonical.count(b"[") < DEPTH_MAX or _levels_are_few(data)


def _levels_are_few(data: dict[str, Any]) -> bool:
    level: list[Any] = [data]
    for _ in range(DEPTH_MAX):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return True
    return False


class _Members(list[tuple[str, Any]]):
    """A JSON object as its members in order, the repeated ones included."""

    __slots__ = ()


class _Bad(NamedTuple):
    """Stands where a number was that cannot be kept."""

    message: str


class _NumberCheck:
    """Reads numbers as None where they can be kept. Only the first that cannot needs to be found again."""

    def __init__(self, digits_max: int) -> None:
        self._read = NumberReader(digits_max).read
        self._found = False

    def whole(self, text: str) -> _Bad | None:
        return None if len(text) <= _SMALL_DIGITS else self._check(normalized, text)

    def fraction(self, text: str) -> _Bad | None:
        is_plain = len(text) <= _SMALL_DIGITS and "e" not in text and "E" not in text
        return None if is_plain else self._check(self._read, text)

    def _check(self, read: Callable[[str], object], text: str) -> _Bad | None:
        if self._found:
            return None
        try:
            read(text)
        except ValueError as error:
            self._found = True
            return _Bad(str(error))
        return None


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


class _Place(NamedTuple):
    """Where a container is: in its `parent`, under `key` (a name, or an index)."""

    parent: "_Place | None"
    key: str | int
    depth: int


def find_fault(raw: bytes, digits_max: int) -> Fault | None:
    """Look at each value of the JSON object `raw`: one that cannot be kept exactly, or None. `digits_max` as above.

    Raises ValueError (of which json.JSONDecodeError is one) where `raw` is not JSON at all.
    """
    numbers = _NumberCheck(digits_max)
    text = raw.decode()  # here, since json would take bytes of other encodings too
    try:
        value = json.loads(
            text,
            object_pairs_hook=_Members,
            parse_int=numbers.whole,
            parse_float=numbers.fraction,
            parse_constant=_no_constant,
        )
    except RecursionError:
        return Fault(_deep_field(raw), _TOO_DEEP)
    if not isinstance(value, list):
        message = _message(value)
        return None if message is None else Fault("", message)
    return _fault_within(value)


def _fault_within(value: list[Any]) -> Fault | None:
    # Bodies can be megabytes of tiny values: an explicit stack of containers only, and paths where there is a fault.
    stack: list[tuple[_Place | None, Any]] = [(None, value)]
    while stack:
        place, container = stack.pop()
        depth = 0 if place is None else place.depth
        if depth > DEPTH_MAX:
            return Fault(_path(place), _TOO_DEEP)
        is_object = isinstance(container, _Members)
        repeated = _repeated_name(container) if is_object else None
        if repeated is not None:
            return Fault(_path(_Place(place, repeated, 0)), "is given twice in one object")
        for key, item in container if is_object else enumerate(container):
            message = (_message(key) if is_object else None) or _message(item)
            if message is not None:
                return Fault(_path(_Place(place, key, 0)), message)
            if isinstance(item, list) and (item or depth >= DEPTH_MAX):
                stack.append((_Place(place, key, depth + 1), item))
    return None


def _message(value: object) -> str | None:
    if isinstance(value, str):
        if "\0" in value:
            return "contains a NUL character, which cannot be stored"
        if not value.isascii() and _surrogate(value):
            return "contains a lone surrogate, which is no character"
    elif isinstance(value, _Bad):
        return value.message
    return None


def _repeated_name(members: _Members) -> str | None:
    if len({name for name, _ in members}) == len(members):
        return None
    seen: set[str] = set()
    return next(name for name, _ in members if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _deep_field(raw: bytes) -> str:
    """The member of the event in which the nesting goes too deep; empty where there is none."""
    depth, field = 0, ""
    for token in _tokens(raw):
        if token[1]:
            if depth == 1 and token[2]:
                field = member_path("", json.loads(token[1]))
        elif token[0] in b"[{":
            depth += 1
            if depth > DEPTH_MAX + 1:
                break
        else:
            depth -= 1
    return field


def _path(place: _Place | None) -> str:
    keys = []
    while place is not None:
        keys.append(place.key)
        place = place.parent
    path = ""
    for key in reversed(keys):
        path = f"{path}[{key}]" if isinstance(key, int) else member_path(path, key)
    return path


def member_path(path: str, name: str) -> str:
    """The path of a member as errors show it: ``path.name``, or ``path["a name"]`` where the name is no plain word."""
    if _plain_name(name):
        return f"{path}.{name}" if path else name
    return f"{path}[{json.dumps(name)}]"
