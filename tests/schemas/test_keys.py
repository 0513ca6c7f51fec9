"""API keys: any slip of the pen is noticed without a query."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from schemas.keys import hash_key, is_well_formed, new_key

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_new_key_is_well_formed_and_kept_as_its_sha_256() -> None:
    text, sha256 = new_key()
    assert is_well_formed(text)
    assert text.startswith("hr_")
    assert len(text) == 41
    assert sha256 == hash_key(text) == hashlib.sha256(text.encode()).digest()


def test_keys_differ() -> None:
    assert len({new_key()[0] for _ in range(100)}) == 100


@given(st.integers(0, 40), st.characters())
def test_one_wrong_character_is_noticed(at: int, character: str) -> None:
    text, _ = new_key()
    mistyped = text[:at] + character + text[at + 1 :]
    assert is_well_formed(mistyped) is (mistyped == text)


@given(st.integers(3, 39))
def test_two_letters_swapped_are_noticed(at: int) -> None:
    text, _ = new_key()
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    assert is_well_formed(swapped) is (swapped == text)


@given(st.text(max_size=60) | st.text(ALPHABET, min_size=38, max_size=38).map("hr_{}".format))
def test_made_up_keys_are_refused(text: str) -> None:
    assert not is_well_formed(text)
    assert not is_well_formed("hr_")
