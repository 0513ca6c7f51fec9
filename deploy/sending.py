"""Sends events in batches, again where that helps, in their order.

Events are taken as the bytes they are, so that what arrives is what stands in the file, digit by digit.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from deploy.errors import DeployError
from deploy.http import Answer, Client, Unreachable

BATCH_EVENTS_MAX = 100
# Well below the gateway's limit for a body.
BATCH_BYTES_MAX = 4 * 1024 * 1024
_ATTEMPTS_MAX = 8
_BACKOFF_FIRST_S = 0.25
_BACKOFF_MAX_S = 10.0
_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504})
_OK = 200


class Event(NamedTuple):
    """An event as it stands in the input, and the number of its line or its place in the batch file, from 1."""

    number: int
    raw: bytes


class Rejected(NamedTuple):
    """An event that was not accepted, and why."""

    number: int
    code: str
    message: str


class _Item(msgspec.Struct):
    index: int
    status: str
    error: str = ""
    code: str = ""
    retryable: bool = False


class _Answer(msgspec.Struct):
    results: list[_Item]


class _BatchFile(msgspec.Struct):
    events: list[msgspec.Raw]


def read(lines: Iterable[bytes]) -> Iterator[Event]:
    """Events of a batch file (``{"events": […]}``) or of NDJSON, told apart by their beginning.

    Raises :class:`DeployError` where the input is neither.
    """
    source = iter(lines)
    first = next(source, b"")
    while first and not first.strip():
        first = next(source, b"")
    if _is_batch_start(first):
        yield from _read_batch(first + b"".join(source))
        return
    for number, line in enumerate(_chain(first, source), start=1):
        if line.strip():
            yield Event(number, line.strip())


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _is_batch_start(line: bytes) -> bool:
    """Whether a file that begins so is one JSON document: its first line is no event of its own."""
    try:
        return "events" in msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return line.strip() in {b"{", b'{"events":', b'{"events": ['} or line.lstrip().startswith(b'{"events"')


def _read_batch(document: bytes) -> Iterator[Event]:
    try:
        batch = msgspec.json.decode(document, type=_BatchFile)
    except msgspec.MsgspecError as error:
        raise DeployError(f"the input is neither NDJSON nor a batch file: {error}") from error
    for number, raw in enumerate(batch.events, start=1):
        yield Event(number, bytes(raw))


def batches(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Group events into what one request can carry."""
    batch: list[Event] = []
    size = 0
    for event in events:
        if batch and (len(batch) == BATCH_EVENTS_MAX or size + len(event.raw) > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event.raw) + 1
    if batch:
        yield batch


def is_json(event: Event) -> bool:
    """Whether the event is a JSON document at all: one that is not would spoil its whole batch."""
    try:
        msgspec.json.decode(event.raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


class Sender:
    """Sends batches through a client. `pause` waits that many seconds (a test passes its own)."""

    def __init__(self, client: Client, pause: Callable[[float], None] = time.sleep) -> None:
        """Nothing is sent yet."""
        self._client = client
        self._pause = pause

    def send(self, batch: list[Event]) -> list[Rejected]:
        """Send one batch until every event is accepted or rejected for good; returns the rejected ones.

        Raises :class:`DeployError` when the gateway stays away or refuses the request as a whole.
        """
        readable = [event for event in batch if is_json(event)]
        rejected = [Rejected(event.number, "invalid_json", "not JSON") for event in batch if event not in readable]
        open_events, last = readable, ""
        for attempt in range(_ATTEMPTS_MAX):
            if not open_events:
                return rejected
            answer = self._post(open_events)
            if isinstance(answer, Answer) and answer.status == _OK:
                final, open_events, last = _sort(answer, open_events)
                rejected += final
                wait_s = answer.retry_after_s
            else:
                last, wait_s = _reason(answer)
            if open_events and attempt + 1 < _ATTEMPTS_MAX:
                self._pause(_backoff_s(attempt, wait_s))
        if open_events:
            raise DeployError(f"gave up after {_ATTEMPTS_MAX} attempts at event {open_events[0].number}: {last}")
        return rejected

    def _post(self, events: list[Event]) -> Answer | Unreachable:
        body = b'{"events":[' + b",".join(event.raw for event in events) + b"]}"
        try:
            return self._client.post("/v1/events/batch", body)
        except Unreachable as error:
            return error


def _reason(answer: Answer | Unreachable) -> tuple[str, float | None]:
    """Why a request as a whole did not work, and the pause it asks for; raises where sending again cannot help."""
    if isinstance(answer, Unreachable):
        return f"the gateway does not answer ({answer})", None
    if answer.status not in _RETRYABLE:
        raise DeployError(f"the gateway refuses the request: {answer.error()} (HTTP {answer.status})")
    return answer.error(), answer.retry_after_s


def _sort(answer: Answer, events: list[Event]) -> tuple[list[Rejected], list[Event], str]:
    """What the items' results say: rejected for good, to be sent again, and why the last of those was."""
    try:
        results = msgspec.json.decode(answer.body, type=_Answer).results
    except msgspec.MsgspecError as error:
        raise DeployError(f"the answer is not a batch's: is this Headrace's gateway? ({error})") from error
    failed = [item for item in results if item.status != "accepted"]
    rejected = [Rejected(events[item.index].number, item.code, item.error) for item in failed if not item.retryable]
    again = [item for item in failed if item.retryable]
    return rejected, [events[item.index] for item in again], again[-1].error if again else ""


def _backoff_s(attempt: int, wanted_s: float | None) -> float:
    """Exponential with jitter; at least what the server asks for, `_BACKOFF_MAX_S` at most."""
    pause_s: float = _BACKOFF_FIRST_S * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - jitter is no secret
    return min(max(pause_s, wanted_s or 0.0), _BACKOFF_MAX_S)
