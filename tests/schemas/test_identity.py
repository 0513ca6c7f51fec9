"""Ids as anybody else computes them, and programs however they are written."""

import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import identity
from schemas.identity import Program, event_id, program, uuid_text


@given(st.uuids(), st.text(max_size=300))
def test_event_id_is_uuid_version_5(namespace: uuid.UUID, key: str) -> None:
    packed = event_id(namespace.bytes, key)
    assert uuid.UUID(bytes=packed) == uuid.uuid5(namespace, key)
    assert uuid.UUID(bytes=packed).version == 5
    assert uuid_text(packed) == str(uuid.uuid5(namespace, key))


def test_event_id_of_the_standards_own_example() -> None:
    dns = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
    assert uuid_text(event_id(dns.bytes, "www.example.com")) == "2ed6657d-e927-568b-95e1-2665a8aea6a2"


@given(st.uuids(), st.randoms(use_true_random=False))
def test_program_in_any_case_is_one_program(given_id: uuid.UUID, rng: random.Random) -> None:
    text = "".join(rng.choice([letter.upper(), letter]) for letter in str(given_id))
    assert program(text) == Program(str(given_id), given_id.bytes, str(given_id).encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0e9c1d3a5c3f4f5e9a571c9f1e2d3c4b",
        "{0e9c1d3a-5c3f-4f5e-9a57-1c9f1e2d3c4b}",
        "urn:uuid:0e9c1d3a-5c3f-4f5e-9a57-1c9f1e2d3c4b",
        "0e9c1d3a5-c3f-4f5e-9a57-1c9f1e2d3c4b",
        "0e9c1d3a-5c3f-4f5e-9a57-1c9f1e2d3c4g",
        "0e9c1d3a-5c3f-4f5e-9a57-1c9f1e2d3c4b\n",
        "0e9c1d3a-5c3f-4f5e-9a57-1c9f1e2d3c4",
        "\u0660e9c1d3a-5c3f-4f5e-9a57-1c9f1e2d3c4b",
    ],
)
def test_what_is_no_uuid_is_no_program(text: str) -> None:
    assert program(text) is None


def test_long_texts_are_not_remembered() -> None:
    """A sender chooses them: 65,536 remembered bodies would fill the memory."""
    before = len(identity.PROGRAMS)
    for number in range(50):
        assert program(f"{number}" * 1_000) is None
    assert len(identity.PROGRAMS) == before
