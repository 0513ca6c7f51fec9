"""Any JSON object in → the same JSON value out, through HTTP, Kafka, Postgres and GET; or a refusal by name."""

import json
import random
from collections.abc import Iterator

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.schemas.spellings import Pairs, faults, good_objects, hostile_objects, meaning, parse, spell
from tests.stack import Stack

BATCH = 100

BY_HAND = [
    "{}",
    '{"":{}}',
    '{"a":[[],{},[{}]]}',
    '{"n":123456789012345678901234567890123456789012345678901234567890}',
    '{"n":[18446744073709551615,18446744073709551616,-9223372036854775809,9007199254740993]}',
    '{"n":[0.1000000000000000055,1e400,-1e400,1e-400,1.0,-0,-0.0,100e-2,1E+2,1.7976931348623157e309]}',
    '{"s":["\\u00e9","é","e\\u0301","\\ud83d\\ude00","😀","\\u2028\\u2029","\\u007f","\\"\\\\\\/\\b\\f\\n\\r\\t"]}',
    '{"b":[true,false,null,1,0,"true",""]}',
    json.dumps({"long": "x" * 60_000}),
    json.dumps({"long": "é" * 30_000}, ensure_ascii=False),
    json.dumps({"x" * 30_000: "a long name"}),
    json.dumps({str(number): number for number in range(4_000)}),
    '{"a":' + "[" * 99 + "]" * 99 + "}",
    '{"a":' * 100 + "1" + "}" * 100,
    json.dumps({"lines": [{"sku": str(number), "n": [number]} for number in range(500)]}),
    '{"program_id":"x","event_data":{"event_data":{}},"idempotency_key":null}',
]


def generated(count: int) -> list[str]:
    """That many generated objects, each in a spelling of its own."""
    texts: list[str] = []

    @settings(max_examples=count, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(good_objects | hostile_objects, st.randoms(use_true_random=False))
    def collect(value: Pairs, rng: random.Random) -> None:
        texts.append(spell(value, rng, shuffle=True))

    collect()
    return texts


@pytest.fixture
def session(stack: Stack) -> Iterator[requests.Session]:
    with requests.Session() as opened:
        opened.headers.update(stack.headers)
        yield opened


def event_of(program_id: str, key: str, data: str) -> str:
    return (
        f'{{"program_id":"{program_id}","idempotency_key":"{key}","external_id":"u",'
        f'"event_timestamp":"2024-01-15T10:30:00Z","event_data":{data}}}'
    )


def send(stack: Stack, session: requests.Session, events: list[str]) -> list[dict[str, object]]:
    results: list[dict[str, object]] = []
    for start in range(0, len(events), BATCH):
        body = f'{{"events":[{",".join(events[start : start + BATCH])}]}}'
        answer = session.post(f"{stack.url}/v1/events/batch", data=body.encode(), timeout=30)
        assert answer.status_code == 200, answer.text
        results += answer.json()["results"]
    return results


def stored_data(stack: Stack, session: requests.Session, event_id: object) -> object:
    answer = session.get(f"{stack.url}/v1/events/{event_id}?wait=20", timeout=30)
    assert answer.status_code == 200, answer.text
    members = dict(parse(answer.text))
    assert members["status"] == "COMPLETED"
    return meaning(members["event_data"])


def test_any_object_comes_out_as_it_went_in_or_is_refused_by_name(
    stack: Stack, session: requests.Session, program_id: str
) -> None:
    texts = BY_HAND + generated(300)
    events = [event_of(program_id, f"k{number}", text) for number, text in enumerate(texts)]
    for text, result in zip(texts, send(stack, session, events), strict=True):
        wrong = faults(text)
        if result["status"] == "accepted":
            assert not wrong, text
            event = result["event"]
            assert isinstance(event, dict)
            assert stored_data(stack, session, event["id"]) == meaning(parse(text)), text
        else:
            assert result["code"] == "invalid_event", result
            told = str(result["error"])
            assert any(told.startswith(f"{fault.field[:500]}: ") and fault.kind in told for fault in wrong), (
                told,
                wrong,
            )
    assert len(texts) >= 200


def test_a_single_event_is_refused_by_the_same_name(stack: Stack, session: requests.Session, program_id: str) -> None:
    refused = {
        '{"a":["x","\\u0000"]}': "event_data.a[1]",
        '{"a b":"\\ud800"}': 'event_data["a b"]',
        '{"a":{"b":1,"b":1}}': "event_data.a.b",
        '{"a":1e5000}': "event_data.a",
        '{"a":' + "[" * 4_000 + "]" * 4_000 + "}": "event_data",
        "[]": "event_data",
    }
    for data, field in refused.items():
        answer = session.post(f"{stack.url}/v1/events", data=event_of(program_id, "refused", data).encode(), timeout=30)
        assert answer.status_code == 422, answer.text
        (error,) = answer.json()["errors"]
        assert error["field"] == field
        assert not error["message"].startswith(field)
        assert answer.json()["message"] == f"{field}: {error['message']}"


def test_names_and_keys_of_any_characters_come_out_as_they_went_in(
    stack: Stack, session: requests.Session, program_id: str
) -> None:
    key, name = 'é😀"\\\n\u2028 ' + "x" * 240, '\x7f "event_data":{' + "😀" * 200
    fields = {
        "program_id": program_id.upper(),
        "idempotency_key": key,
        "external_id": name,
        "recipient_external_id": name,
        "event_timestamp": "2024-01-15T12:30:00.123456+02:00",
        "event_data": {name: key},
    }
    answer = session.post(f"{stack.url}/v1/events", json=fields, timeout=30)
    assert answer.status_code == 200, answer.text
    event = session.get(f"{stack.url}/v1/events/{answer.json()['id']}?wait=20", timeout=30).json()
    assert {field: event[field] for field in fields} == fields | {
        "program_id": program_id,
        "event_timestamp": "2024-01-15T10:30:00.123456Z",
    }
    assert event["status"] == "COMPLETED"
