"""The machine-readable contracts agree with the code, with each other and with themselves; the page works offline."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from gateway import asyncapi, docs, openapi
from gateway.app import create_app
from gateway.components import EXAMPLE_EVENT, EXAMPLES, components
from gateway.events import EventAnswer
from gateway.queries import PARAMETERS
from schemas import topics
from schemas.errors import HTTP_ERRORS, INVALID_REQUEST, METHOD_NOT_ALLOWED
from schemas.event import Fields
from schemas.identity import uuid_text
from schemas.reader import EventReader
from tests.gateway.asgi import Client

pytestmark = pytest.mark.anyio

DOCUMENTS = {"openapi": openapi.document(), "asyncapi": asyncapi.document()}
PAGES = {"/openapi.json", "/asyncapi.json", "/docs", "/docs/{file}"}


def references(value: Any) -> list[str]:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        found = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return found + [each for item in value.values() for each in references(item)]
    return [each for item in value for each in references(item)] if isinstance(value, list) else []


def placed_examples(value: Any, place: str = "#") -> Iterator[tuple[str, dict[str, Any], Any]]:  # noqa: ANN401 - JSON
    """Each example of a document: where it stands, its schema and its value."""
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from placed_examples(each, f"{place}/{index}")
    if not isinstance(value, dict):
        return
    if "example" in value:  # of a media type
        yield place, value["schema"], value["example"]
    examples = value.get("examples", [])
    if isinstance(examples, dict):  # of a media type, by name
        yield from ((f"{place}/{name}", value["schema"], each["value"]) for name, each in examples.items())
    elif "payload" in value:  # of a message
        yield from ((f"{place}/{each['name']}", value["payload"], each["payload"]) for each in examples)
    else:  # of a schema
        yield from ((place, {key: value[key] for key in value if key != "examples"}, each) for each in examples)
    for name, each in value.items():
        if name not in {"example", "examples"}:
            yield from placed_examples(each, f"{place}/{name}")


def faults(document: dict[str, Any], schema: dict[str, Any], example: Any) -> list[str]:  # noqa: ANN401 - any JSON
    validator = OAS31Validator({**schema, "components": document["components"]}, format_checker=oas31_format_checker)
    return [f"{'/'.join(map(str, each.path))}: {each.message}" for each in validator.iter_errors(example)]


def test_the_document_is_openapi() -> None:
    assert [str(each) for each in OpenAPIV31SpecValidator(DOCUMENTS["openapi"]).iter_errors()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_example_fits_its_schema(name: str) -> None:
    found = list(placed_examples(DOCUMENTS[name]))
    assert len(found) > {"openapi": 100, "asyncapi": 3}[name]
    wrong = {place: faults(DOCUMENTS[name], schema, example) for place, schema, example in found}
    assert {place: messages for place, messages in wrong.items() if messages} == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "1"}, "'1' is not a 'uuid'"),
        ({"event_timestamp": "today"}, "'today' is not a 'date-time'"),
        ({"status": "DONE"}, "'DONE' is not one of"),
    ],
)
def test_an_example_that_does_not_fit_is_found(change: dict[str, str], message: str) -> None:
    example = EXAMPLES["Event"] | change
    (found,) = faults(DOCUMENTS["openapi"], {"$ref": "#/components/schemas/Event"}, example)
    assert message in found


def test_every_body_has_an_example() -> None:
    for path, methods in DOCUMENTS["openapi"]["paths"].items():
        for method, operation in methods.items():
            bodies = [operation.get("requestBody", {"content": {}}), *operation["responses"].values()]
            for content in (content for body in bodies for content in body["content"].values()):
                assert {"example", "examples"} & set(content), f"{method} {path}"


def test_the_examples_are_of_one_event() -> None:
    event = EventReader(65_536).read(msgspec.json.encode(EXAMPLE_EVENT))
    assert EXAMPLES["Event"]["id"] == EXAMPLES["AcceptedEvent"]["id"] == uuid_text(event.id)
    assert {name: EXAMPLES["Event"][name] for name in EXAMPLE_EVENT} == EXAMPLE_EVENT
    assert set(EXAMPLES["Event"]) == set(EventAnswer.__struct_fields__)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_is_left_unsaid(name: str) -> None:
    described = [DOCUMENTS[name]["info"], *components().values()]
    if name == "openapi":
        described += [each for methods in DOCUMENTS[name]["paths"].values() for each in methods.values()]
    else:
        described += [*DOCUMENTS[name]["operations"].values(), *DOCUMENTS[name]["channels"].values()]
    assert [each for each in described if not each.get("description")] == []
    tags = {each["name"] for each in DOCUMENTS["openapi"]["tags"]}
    assert {each.tag for each in openapi.OPERATIONS} == tags
    assert len({each.name for each in openapi.OPERATIONS}) == len(openapi.OPERATIONS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_reference_leads_somewhere(name: str) -> None:
    document = DOCUMENTS[name]
    found = references(document)
    assert found
    for each in found:
        place: Any = document
        for step in each.removeprefix("#/").split("/"):
            place = place[step]
        assert place


def test_every_schema_is_used() -> None:
    used = {each.rsplit("/", 1)[1] for each in references(DOCUMENTS["openapi"])}
    assert set(components()) <= used


def test_the_document_has_every_route_and_no_other() -> None:
    routes = {
        (method.lower(), route.path_format)
        for route in create_app().routes
        if isinstance(route, Route) and route.path not in PAGES
        for method in (route.methods or set()) - {"HEAD"}
    }
    documented = {(each.method, each.path) for each in openapi.OPERATIONS}
    assert documented == routes


def test_every_error_of_the_catalogue_is_documented() -> None:
    text = msgspec.json.encode(DOCUMENTS["openapi"]["paths"]).decode()
    for code in HTTP_ERRORS:
        assert (f'"{code.code}"' in text) == (code is not METHOD_NOT_ALLOWED)  # which no operation can have


def test_error_statuses_are_the_catalogues() -> None:
    for operation in openapi.OPERATIONS:
        responses = openapi.document()["paths"][operation.path][operation.method]["responses"]
        for code in operation.errors:
            assert code.code in responses[str(code.status)]["content"]["application/json"]["examples"]


def test_parameters_are_those_of_the_code() -> None:
    listed = openapi.document()["paths"]["/v1/events"]["get"]["parameters"]
    assert {each["name"] for each in listed} == set(PARAMETERS)


def test_a_new_events_fields_are_the_codes() -> None:
    schema = components()["NewEvent"]
    assert set(schema["properties"]) == set(Fields.__struct_fields__)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["idempotency_key"] == {"type": "string", "minLength": 1, "maxLength": 255}


def test_an_events_fields_are_the_codes() -> None:
    schema = components()["Event"]
    assert set(schema["properties"]) == set(schema["required"]) == set(EventAnswer.__struct_fields__)
    assert schema["properties"]["event_data"] == {"type": "object"}
    assert schema["properties"]["conflicts"]["items"] == {"$ref": "#/components/schemas/Conflict"}


def test_the_example_is_an_event() -> None:
    event = EventReader(65_536).read(msgspec.json.encode(EXAMPLE_EVENT))
    pattern = components()["NewEvent"]["properties"]["event_timestamp"]["pattern"]
    assert re.match(pattern, event.event_timestamp)


def test_the_topics_are_the_codes() -> None:
    addresses = {channel["address"] for channel in DOCUMENTS["asyncapi"]["channels"].values()}
    assert addresses == {topics.EVENTS, topics.STATUS, topics.RETRY, topics.DEAD_LETTERS}
    assert DOCUMENTS["asyncapi"]["components"]["schemas"]["NewEvent"] == components()["NewEvent"]


async def test_the_page_needs_nobody_else() -> None:
    client = Client(create_app())
    page = await client.get("/docs")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href)="([^"]*)"', page.body.decode())
    assert len(links) == 6
    for link in links:
        answer = await client.get(link)
        assert answer.status == 200, link
        assert len(answer.body) > 100
    script = await client.get("/docs/swagger-ui-bundle.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert b"SwaggerUIBundle" in script.body


@pytest.mark.parametrize("name", ["index.css", "..%2Fcore.py", "swagger-editor.js", "%2e%2e", "__init__.py"])
async def test_nothing_else_of_the_package_is_served(name: str) -> None:
    answer = await Client(create_app()).get(f"/docs/{name}")
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize(("path", "key"), [("/openapi.json", "openapi"), ("/asyncapi.json", "asyncapi")])
async def test_contracts_are_served(path: str, key: str) -> None:
    answer = await Client(create_app()).get(path)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == DOCUMENTS[key]


def test_a_missing_package_costs_only_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "find_spec", lambda _: None)
    docs._file.cache_clear()  # noqa: SLF001 - what an earlier test found
    assert docs._file("swagger-ui.css") is None  # noqa: SLF001 - the function that reads the package
    docs._file.cache_clear()  # noqa: SLF001 - for the tests after this one


def test_examples_of_errors_have_their_form() -> None:
    responses = openapi.document()["paths"]["/v1/events"]["get"]["responses"]
    example = responses["400"]["content"]["application/json"]["examples"]["invalid_request"]["value"]
    assert example["code"] == INVALID_REQUEST.code
    assert set(example) == set(components()["Error"]["required"])
