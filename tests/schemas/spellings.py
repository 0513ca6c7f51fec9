"""Generated JSON objects as texts in every spelling, and an independent word on what each means and what is wrong.

The word is the standard library's: `json`, with every number read as an exact Decimal and every member kept.
"""

# ruff: noqa: ANN401 - a JSON value can be anything, and these functions take any

import json
import random
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from hypothesis import strategies as st

DEPTH_MAX = 100
WRITTEN_DIGITS_MAX = 4_000


class Pairs(list[tuple[str, Any]]):
    """An object as its members in order, repeated names included."""


class Spelled(str):
    """A number in a spelling of its own."""

    __slots__ = ()


# -- values

_characters = st.characters(codec="utf-8", exclude_characters="\0")
good_strings = st.text(_characters, max_size=12) | st.sampled_from(
    [
        "",
        ":",
        "\\",
        '"',
        "[{",
        "}]",
        "\\u0000",
        "\u2028",
        "\x7f",
        "é" * 400,
        "😀",
        "event_data",
        '"event_data":{',
        "a:b",
    ]
)
bad_strings = st.sampled_from(["\0", "x\0y", "\ud800", "\udfff z", "\udc00\ud800", "ok\ud83d"])
good_numbers = st.one_of(
    st.integers(),
    st.integers(-(10**300), 10**300),
    st.builds(
        lambda digits, exponent: Decimal((0, (1,), 0)).scaleb(exponent) * digits, st.integers(-99, 99), st.just(-9)
    ),
    st.builds(lambda c, e: Spelled(f"{c}e{e}"), st.integers(-(10**30), 10**30), st.integers(-300, 300)),
    st.sampled_from(["0.1000000000000000055", "1e400", "-0.0", "-0", "0E-12", "1.50", "18446744073709551616"]).map(
        Spelled
    ),
)
bad_numbers = st.sampled_from(
    ["1e5000", "-1E+99999", "1e-5000", "1" * 5_000, "0." + "1" * 4_500, "1e999999999999999999999"]
)


def values(strings: st.SearchStrategy[Any], numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any JSON value of these strings and numbers; objects as `Pairs`, whose names may repeat where `strings` do."""
    leaves = st.none() | st.booleans() | strings | numbers
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=5) | st.lists(st.tuples(strings, inner), max_size=5).map(Pairs),
        max_leaves=25,
    )


def objects(strings: st.SearchStrategy[Any], numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Pairs]:
    """Any JSON object of these."""
    return st.lists(st.tuples(strings, values(strings, numbers)), max_size=6).map(Pairs)


def once(value: Any) -> Any:
    """The value with each name once in its object, the first."""
    if isinstance(value, Pairs):
        members: dict[str, Any] = {}
        for name, item in value:
            members.setdefault(name, once(item))
        return Pairs(members.items())
    return [once(item) for item in value] if isinstance(value, list) else value


good_objects = objects(good_strings, good_numbers).map(once)
hostile_objects = st.one_of(
    objects(good_strings, good_numbers),
    objects(good_strings | bad_strings, good_numbers),
    objects(good_strings, good_numbers | bad_numbers.map(Spelled)),
    st.builds(lambda inner, depth: Pairs([("d", nested(inner, depth))]), good_strings, st.integers(90, 130)),
)


def nested(value: Any, depth: int) -> Any:
    """The value inside so many containers, by turns lists and objects."""
    for level in range(depth):
        value = [value] if level % 2 else Pairs([("", value)])
    return value


# -- texts


def spell(value: Any, rng: random.Random, *, shuffle: bool = False, exponents: bool = True) -> str:
    """The value as JSON, with white space, escapes, and, where `shuffle`, order of members chosen at random."""

    def again(item: Any) -> str:
        return spell(item, rng, shuffle=shuffle, exponents=exponents)

    if isinstance(value, Spelled):
        return str(value)
    if isinstance(value, str):
        return _spell_string(value, rng)
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return _spell_number(Decimal(value), rng) if exponents else f"{Decimal(value):f}"
    if isinstance(value, Pairs):
        members = rng.sample(value, len(value)) if shuffle else value
        inside = [f"{spell(name, rng)}{_space(rng)}:{again(item)}" for name, item in members]
        return _enclose("{", inside, "}", rng)
    if isinstance(value, list):
        return _enclose("[", [again(item) for item in value], "]", rng)
    return {None: "null", True: "true", False: "false"}[value]


def _enclose(opening: str, inside: list[str], closing: str, rng: random.Random) -> str:
    parts = [f"{_space(rng)}{part}{_space(rng)}" for part in inside]
    return opening + (",".join(parts) or _space(rng)) + closing


def _space(rng: random.Random) -> str:
    return rng.choice(["", "", "", " ", "\n", "\t\r\n "])


def _spell_string(text: str, rng: random.Random) -> str:
    parts = []
    for character in text:
        must = character in '"\\' or ord(character) < 0x20 or 0xD800 <= ord(character) <= 0xDFFF
        if must or rng.random() < 0.15:
            units = character.encode("utf-16-be", "surrogatepass")
            codes = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
            parts += [f"\\u{rng.choice([code, code.upper()])}" for code in codes]
        else:
            parts.append(character)
    return f'"{"".join(parts)}"'


def _spell_number(number: Decimal, rng: random.Random) -> str:
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    coefficient = int("".join(map(str, digits)))
    shift = rng.choice([0, 0, 1, 7])
    mark, plus = rng.choice("eE"), rng.choice(["", "+"])
    spelled = f"{coefficient * 10**shift}"
    power = exponent - shift
    if power or rng.random() < 0.3:
        spelled += rng.choice(["", ".0", ".000"]) + f"{mark}{plus if power >= 0 else ''}{power}"
    return ("-" if sign else "") + spelled


# -- meaning


def parse(text: str) -> Any:
    """What the standard library reads, exactly; objects as `Pairs`."""
    return json.loads(text, object_pairs_hook=Pairs, parse_int=Decimal, parse_float=Decimal)


def meaning(value: Any) -> Any:
    """The value so that `==` is equality of JSON values: order of members aside, true is not 1, and 1.0 is 1."""
    if isinstance(value, Pairs):
        return {name: meaning(item) for name, item in value}
    if isinstance(value, list):
        return [meaning(item) for item in value]
    if isinstance(value, bool):
        return ("bool", value)
    return ("number", value) if isinstance(value, Decimal) else value


class Fault(NamedTuple):
    """What the contract refuses: where, and which kind of fault."""

    field: str
    kind: str


def faults(text: str, root: str = "event_data") -> set[Fault]:
    """All that is wrong with the object `text` as the member `root` of an event, by the contract's words."""
    try:
        value = parse(text)
    except ArithmeticError:  # an exponent beyond what even Decimal can hold
        value = json.loads(text, object_pairs_hook=Pairs, parse_int=Decimal, parse_float=_number_or_infinity)
    return set(_faults(value, root, 1))


def _number_or_infinity(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        return Decimal("Infinity")


def _faults(value: Any, path: str, depth: int) -> Iterator[Fault]:
    if isinstance(value, Decimal):
        if _is_too_long(value):
            yield Fault(path, "digits")
    elif isinstance(value, str):
        yield from _string_faults(value, path)
    elif isinstance(value, list):
        if depth > DEPTH_MAX:
            yield Fault(path, "deeper")
        yield from _object_faults(value, path, depth) if isinstance(value, Pairs) else ()
        if not isinstance(value, Pairs):
            for at, item in enumerate(value):
                yield from _faults(item, f"{path}[{at}]", depth + 1)


def _object_faults(value: Pairs, path: str, depth: int) -> Iterator[Fault]:
    names = [name for name, _ in value]
    for name, item in value:
        where = member(path, name)
        yield from _string_faults(name, where)
        if names.count(name) > 1:
            yield Fault(where, "twice")
        yield from _faults(item, where, depth + 1)


def _is_too_long(number: Decimal) -> bool:
    if not number.is_finite():
        return True
    return abs(number.adjusted()) >= WRITTEN_DIGITS_MAX or len(number.as_tuple().digits) > WRITTEN_DIGITS_MAX


def _string_faults(text: str, path: str) -> Iterator[Fault]:
    if "\0" in text:
        yield Fault(path, "NUL")
    if re.search("[\ud800-\udfff]", text):
        yield Fault(path, "surrogate")


def member(path: str, name: str) -> str:
    """The path of a member, as errors spell it."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name):
        return f"{path}.{name}"
    return f"{path}[{json.dumps(name)}]"
