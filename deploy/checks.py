"""What `headrace doctor` finds: checks with a level each, and what to do about those that are not well."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from deploy.errors import DeployError
from deploy.http import Answer, Client, Unreachable
from deploy.state import StackState
from processors import encoding
from schemas import reader
from schemas.settings import Settings, SettingsError, load

OK: Literal["ok"] = "ok"
WARN: Literal["warn"] = "warn"
FAIL: Literal["fail"] = "fail"

_MIB = 2**20
_FREE_BYTES_MIN = 512 * _MIB
_FREE_BYTES_SOUND = 2_048 * _MIB
_RESTARTS_SOUND = 3
_ASK_TIMEOUT_S = 5.0
_HTTP_OK = 200
_HTTP_UNAUTHORIZED = 401
_HTTP_FORBIDDEN = 403


class Check(NamedTuple):
    """One thing that was looked at: its `level`, what was found, and (where it is not well) what to do."""

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def settings() -> tuple[Settings | None, list[Check]]:
    """The environment's settings, None where they cannot be used, with a check for each mistake."""
    try:
        return load(), [Check("settings", OK, "every HEADRACE_ name is known, every value can be used")]
    except SettingsError as error:
        mistakes = [line.strip() for line in str(error).splitlines()[1:]]
        return None, [Check("settings", FAIL, mistake, "see docs/settings.md") for mistake in mistakes]


def compiled() -> Check:
    """Whether this installation has the parts that are compiled."""
    if reader.IS_COMPILED and encoding.IS_COMPILED:
        return Check("compiled", OK, "events are read and encoded by the compiled parts")
    advice = "an event costs up to a third more: install a C compiler and Python's headers, then install headrace again"
    return Check("compiled", WARN, "events are read or encoded without the compiled parts", advice)


def stack(found: StackState) -> Iterator[Check]:
    """The processes of a stack of `headrace up`."""
    for process in found.processes:
        name = f"{process.role}-{process.number}"
        if process.identity.process() is None:
            yield Check("process", FAIL, f"{name} does not run", f"its supervisor starts it again: see logs/{name}.log")
        elif process.restarts > _RESTARTS_SOUND:
            yield Check("process", WARN, f"{name} was started again {process.restarts} times", f"see logs/{name}.log")
        else:
            yield Check("process", OK, f"{name} runs (pid {process.identity.pid})")


def disk(folder: Path) -> Check:
    """Free space where the data are."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free // _MIB} MiB are free under {folder}"
    if free < _FREE_BYTES_MIN:
        return Check("disk", FAIL, found, f"free some space: below {_FREE_BYTES_MIN // _MIB} MiB nothing starts")
    if free < _FREE_BYTES_SOUND:
        return Check("disk", WARN, found, "free some space before Kafka or Postgres run out of it")
    return Check("disk", OK, found)


def gateway(url: str, key: str | None) -> Iterator[Check]:
    """Whether the gateway lives, takes events, and accepts the key."""
    try:
        client = Client(url, key or "", _ASK_TIMEOUT_S)
    except DeployError as error:
        yield Check("gateway", FAIL, str(error), "give its address with --url")
        return
    try:
        yield from _gateway(client, url, with_key=key is not None)
    except Unreachable as error:
        yield Check("gateway", FAIL, f"{url} does not answer: {error}", "start it, or give its address with --url")
    finally:
        client.close()


def _gateway(client: Client, url: str, *, with_key: bool) -> Iterator[Check]:
    live = client.get("/livez")
    if live.status != _HTTP_OK:
        yield Check("gateway", FAIL, f"{url}/livez answers {live.status}", "is this Headrace's gateway?")
        return
    yield Check("gateway", OK, f"{url} lives")
    ready = client.get("/readyz")
    if ready.status != _HTTP_OK:
        yield Check("gateway", FAIL, ready.error(), "it takes events again once it reaches Kafka")
    elif (postgres := ready.json().get("postgres", "ok")) != "ok":
        yield Check("gateway", WARN, f"it takes events, without Postgres: {postgres}", "look after Postgres")
    else:
        yield Check("gateway", OK, "it takes events")
    if with_key:
        yield _key(client.get("/v1/events?limit=1"))
    else:
        yield Check("key", WARN, "no API key to try", "give one with --key, or make one with `headrace keys create`")


def _key(answer: Answer) -> Check:
    if answer.status == _HTTP_OK:
        return Check("key", OK, "the API key is accepted")
    if answer.status == _HTTP_FORBIDDEN:
        return Check("key", WARN, "the API key is accepted, but may not read", "make one with --scope read")
    if answer.status == _HTTP_UNAUTHORIZED:
        advice = "make one with `headrace keys create`; it works within seconds"
        return Check("key", FAIL, f"the API key is refused: {answer.error()}", advice)
    return Check("key", WARN, f"the API key cannot be tried: {answer.error()}", "see the gateway's log")
