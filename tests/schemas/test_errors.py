"""The catalogue holds together."""

import re
from http import HTTPStatus
from pathlib import Path

from schemas import errors
from schemas.errors import HTTP_ERRORS, ErrorCode


def test_every_code_of_the_module_is_in_the_catalogue_once() -> None:
    defined = [value for value in vars(errors).values() if isinstance(value, ErrorCode)]
    assert sorted(defined) == sorted(HTTP_ERRORS)
    codes = [each.code for each in HTTP_ERRORS]
    assert len(set(codes)) == len(codes)


def test_codes_are_as_the_contract_lists_them() -> None:
    assert {(each.status, each.code) for each in HTTP_ERRORS} >= {
        (400, "invalid_json"),
        (400, "invalid_request"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
        (405, "method_not_allowed"),
        (408, "request_timeout"),
        (409, "idempotency_conflict"),
        (409, "not_retryable"),
        (413, "payload_too_large"),
        (415, "unsupported_media_type"),
        (422, "invalid_event"),
        (422, "invalid_program_id"),
        (422, "event_too_large"),
        (429, "too_many_requests"),
        (503, "unavailable"),
    }


def test_what_may_be_sent_again_is_what_the_sender_did_not_cause() -> None:
    again = {each.status for each in HTTP_ERRORS if each.retryable}
    assert again == {408, 429, 500, 503}
    assert again.isdisjoint(each.status for each in HTTP_ERRORS if not each.retryable)


def test_codes_are_spelled_alike_and_explained() -> None:
    for each in HTTP_ERRORS:
        assert re.fullmatch("[a-z_]+", each.code)
        assert HTTPStatus(each.status) >= HTTPStatus.BAD_REQUEST
        assert len(each.meaning) > 10


def test_the_documented_table_is_the_catalogue() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| \d{3} \| `", line)]
    assert rows == [
        f"| {each.status} | `{each.code}` | {each.meaning}{'; can be sent again' if each.retryable else ''} |"
        for each in HTTP_ERRORS
    ]
