"""Numbers, the cheap look and the thorough look, by themselves."""

import json
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import exact
from tests.schemas.spellings import Pairs, faults, hostile_objects, spell

DIGITS = 262_144


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.5", Decimal("1.5")),
        ("1.50", Decimal("1.5")),
        ("15e-1", Decimal("1.5")),
        ("1.0", 1),
        ("1e0", 1),
        ("10E-1", 1),
        ("-0.0", 0),
        ("0e-99", 0),
        ("1e22", 10**22),
        ("1e400", 10**400),
        ("-1.7E+3", -1700),
        ("0.1000000000000000055", Decimal("0.1000000000000000055")),
        ("9007199254740993.0", 9007199254740993),
        ("1e-3999", Decimal("1e-3999")),
        ("1e3999", 10**3999),
    ],
)
def test_number_is_read_as_what_it_is(text: str, number: int | Decimal) -> None:
    read = exact.NumberReader(DIGITS).read(text)
    assert read == number
    assert type(read) is type(number)
    assert str(read) == str(number)  # one spelling per value


@pytest.mark.parametrize(
    "text", ["1e4000", "1e-4000", "-1e99999", "1e999999999999999999999", "0." + "1" * 4001, "1" * 4001 + ".0"]
)
def test_number_too_long_to_keep_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="more than 4000 digits"):
        exact.NumberReader(DIGITS).read(text)


@pytest.mark.parametrize("text", ["1e3999", "1e-3999", "1.5e-1000", "12e30"])
def test_short_spellings_of_long_numbers_are_counted_together(text: str) -> None:
    reader = exact.NumberReader(10_000)
    for _ in range({"1e3999": 0, "1e-3999": 2, "1.5e-1000": 9, "12e30": 78}[text]):
        reader.read(text)
    with pytest.raises(ValueError, match="too many long numbers"):
        reader.read(text)
    reader.restart()
    assert reader.read("1e1999") == 10**1999


def test_equal_fractions_count_alike_in_any_spelling() -> None:
    """Or the processors could refuse what the gateway accepted: a record has the shortest spelling."""
    for text in ("1e-3999", "0." + "0" * 3998 + "1"):
        reader = exact.NumberReader(8_000)
        assert [reader.read(text) for _ in range(2)] == [Decimal("1e-3999")] * 2
        with pytest.raises(ValueError, match="too many long numbers"):
            reader.read(text)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_any_decimal_keeps_its_value(number: Decimal) -> None:
    if abs(number.adjusted()) < 3_000:
        assert exact.NumberReader(DIGITS).read(f"{number:e}") == number


@given(hostile_objects, st.randoms(use_true_random=False))
def test_find_fault_finds_a_fault_exactly_where_there_is_one(value: Pairs, rng: random.Random) -> None:
    text = spell(value, rng)
    fault = exact.find_fault(f'{{"event_data":{text}}}'.encode(), DIGITS)
    expected = faults(text)
    if fault is None:
        assert not expected
    else:
        assert any(fault.field == each.field and each.kind in fault.message for each in expected), (fault, expected)


@pytest.mark.parametrize("depth", [99, 100, 101, 500, 5_000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth_names_the_member_in_which_it_is(depth: int, opening: str, closing: str) -> None:
    deep = opening * depth + "1" + closing * depth
    for field, text in (("event_data", f'{{"x":{{"y":1}},"event_data":{deep}}}'), ("foo", f'{{"foo":{deep},"x":[]}}')):
        fault = exact.find_fault(text.encode(), DIGITS)
        if depth <= exact.DEPTH_MAX:
            assert fault is None
        else:
            assert fault is not None
            assert fault.field.startswith(field)
            assert fault.message == "is nested deeper than 100 levels"


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"a":"\\u0000"}', "a"),
        (b'{"a":{"b c":["", "\\ud800"]}}', 'a["b c"][1]'),
        (b'{"a":[{"\\u0000":1}]}', 'a[0]["\\u0000"]'),
        (b'{"a":[0,{"b":1,"b":1}]}', "a[1].b"),
        (b'{"a":1,"":2,"a":3}', "a"),
        (b'[1,"\\udfff"]', "[1]"),
        (b'"\\u0000"', ""),
        (b"[1e9999]", "[0]"),
        (b'{"":1e9999}', '[""]'),
    ],
)
def test_path_of_a_fault(raw: bytes, field: str) -> None:
    fault = exact.find_fault(raw, DIGITS)
    assert fault is not None
    assert fault.field == field


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"a":NaN}', b"[Infinity]", b'{"a":1}x', b"\xef\xbb\xbf{}", b'{"a":"\n"}', b"\xff", b"[01]"]
)
def test_what_is_not_json_is_said_to_be_so(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own words
        exact.find_fault(raw, DIGITS)


def _depth_of_brackets(depth: int, count: int) -> dict[str, object]:
    deep: object = 0
    for level in range(depth - 1):
        deep = [deep] if level % 2 else {"b": deep}
    return {"a": deep, "c": [[] for _ in range(count)]}


@pytest.mark.parametrize(("depth", "exactly"), [(1, True), (50, True), (100, True), (101, False), (150, False)])
def test_many_brackets_are_not_taken_for_depth(depth: int, exactly: bool) -> None:  # noqa: FBT001 - what is expected
    """An order of two hundred lines must not take the slow look."""
    data = _depth_of_brackets(depth, 500)
    canonical = json.dumps({"event_data": data}, separators=(",", ":")).encode()
    assert exact.looks_exact(canonical, canonical, 0, data) is exactly
    assert (exact.find_fault(canonical, DIGITS) is None) is exactly
