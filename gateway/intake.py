"""The routes through which events come in, and what they need: claims and the producer."""

import re
from collections.abc import Callable, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import ingest
from gateway.auth import Keys
from gateway.batches import BadBatchError, NotJsonError
from gateway.bodies import read_body
from gateway.claims import Claim, Claims, ClaimsUnavailableError
from gateway.database import Pool
from gateway.gathering import Gathering
from gateway.ingest import Item, Owner, Refusal
from gateway.key import Key
from gateway.outgoing import Batch, Headers
from gateway.patience import Patience
from gateway.problems import ApiError, field_error
from gateway.producer import KafkaUnreachableError, Producer, QueueFullError
from gateway.programs import Programs
from gateway.ratelimits import RateLimits
from schemas import errors
from schemas.event import Event
from schemas.identity import uuid_ascii
from schemas.kafka import partition_of
from schemas.reader import EventReader
from schemas.settings import Settings
from schemas.timestamps import now_text

_RETRY_AFTER = {"Retry-After": "1"}
_JSON = (b"content-type", b"application/json")
_DEFERRED = (b"idempotency-check", b"deferred")

# W3C Trace Context. Anything else is dropped, as it goes into every record of the request.
_is_traceparent = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch

_encode = msgspec.json.Encoder().encode


class Intake:
    """What ingestion holds for the whole life of a gateway process."""

    def __init__(self, settings: Settings, pool: Pool, keys: Keys, limits: RateLimits, programs: Programs) -> None:
        self.settings = settings
        self.keys = keys
        self.limits = limits
        self.programs = programs
        self.reader = EventReader(settings.max_event_bytes)
        self.producer = Producer(settings)
        self.claims = Claims(pool, settings.database_timeout_s, settings.claim_ttl_s / 2)
        self.patience = Patience(settings.produce_timeout_ms / 1000)
        self._gathering = Gathering()
        self._held_events = 0  # from before their claim until their answer

    async def start(self) -> None:
        """Begin to connect to Kafka; the gateway answers 503 until it has."""
        await self.producer.start()

    async def stop(self) -> None:
        """Send what was appended, and close."""
        await self.producer.stop()

    def kafka_ready(self) -> str | None:
        """Why Kafka is not reachable, or None where it is."""
        return self.producer.unreachable()

    async def take_in(self, items: list[Item], traceparent: bytes | None) -> "TakenIn":
        """Claim, judge and produce the items; ends when Kafka has them or the time for it is over."""
        if self._held_events + len(items) > self.settings.max_in_flight_events or not self.producer.has_room(
            len(items)
        ):
            # Refused before a claim is made, so that the keys stay free.
            return TakenIn(ingest.refuse_lost(items, set(range(len(items)))), {}, deferred=False)
        self._held_events += len(items)
        try:
            await self._gathering.join(len(items))
            owners, deferred = await self._owners(items)
            items = ingest.judge(items, owners)
            return TakenIn(ingest.refuse_lost(items, await self._produce(items, traceparent)), owners, deferred)
        finally:
            self._gathering.leave()
            self._held_events -= len(items)

    async def _owners(self, items: Sequence[Item]) -> tuple[dict[bytes, Owner], bool]:
        """The owners of ids that are not new, and whether only the request itself was asked (processors will judge)."""
        first = ingest.first_of_each(items)
        within = ingest.owners_within(items, first)
        if self.settings.idempotency_check == "strict" and self.producer.partitions:
            claims = [
                Claim(
                    event.id, event.fingerprint, partition_of(event.program.key, self.producer.partitions), event.record
                )
                for event in first.values()
            ]
            try:
                return within | await self.claims.claim(claims), False
            except ClaimsUnavailableError:
                pass  # said to the client by a header, and judged by the processors
        return within, True

    async def _produce(self, items: Sequence[Item], traceparent: bytes | None) -> set[int]:
        """Produce the events among the items; the indexes of those that were not acknowledged in time."""
        shared = _shared_headers(traceparent)
        records = [_record(item, shared) for item in items if isinstance(item, Event)]
        if not records:
            return set()
        try:
            batches = self.producer.append(records)
        except (QueueFullError, KafkaUnreachableError):
            return set(_indexes(items))
        unacknowledged = await _unacknowledged(set(batches), self.patience)
        if not unacknowledged:
            return set()
        return {index for index, batch in zip(_indexes(items), batches, strict=True) if batch in unacknowledged}


class TakenIn(msgspec.Struct):
    """What became of the items of a request."""

    items: list[Item]
    owners: dict[bytes, Owner]
    deferred: bool


def _traceparent(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    for name, value in headers:
        if name == b"traceparent":
            return value if _is_traceparent(value) else None
    return None


def _shared_headers(traceparent: bytes | None) -> Headers:
    shared: Headers = [("received-at", now_text().encode())]
    if traceparent is not None:
        shared.append(("traceparent", traceparent))
    return shared


def _record(event: Event, shared: Headers) -> tuple[bytes, bytes, Headers]:
    hints: Headers = [("id", uuid_ascii(event.id)), ("fingerprint", event.fingerprint.hex().encode()), *shared]
    return event.program.key, event.record, hints


def _indexes(items: Sequence[Item]) -> list[int]:
    return [index for index, item in enumerate(items) if isinstance(item, Event)]


async def _unacknowledged(batches: set[Batch], patience: Patience) -> set[Batch]:
    await patience.settled(batches)
    return {batch for batch in batches if not batch.is_acknowledged}


async def post_batch(request: Request) -> Response:
    """``POST /v1/events/batch``."""
    intake: Intake = request.app.state.intake
    key = await intake.keys.require(request, "ingest")
    body = await read_body(request, intake.settings.max_body_bytes)
    try:
        items = ingest.read_items(intake.reader, body, _may_use(intake.programs, key))
    except NotJsonError:
        raise ApiError(errors.INVALID_JSON, "the body is not JSON") from None
    except BadBatchError as error:
        raise ApiError(errors.INVALID_REQUEST, str(error)) from None
    await intake.limits.charge(request.scope, key, len(items))
    taken = await intake.take_in(items, _traceparent(request.scope["headers"]))
    if all(isinstance(item, Refusal) and item.code is errors.UNAVAILABLE for item in taken.items):
        raise _unavailable()
    return _Answer(_encode(ingest.answer_batch(taken.items, taken.owners)), deferred=taken.deferred)


async def post_event(request: Request) -> Response:
    """``POST /v1/events``."""
    intake: Intake = request.app.state.intake
    key = await intake.keys.require(request, "ingest")
    body = await read_body(request, intake.settings.max_body_bytes)
    item = ingest.read_item(intake.reader, body, _may_use(intake.programs, key))
    await intake.limits.charge(request.scope, key, 1)
    taken = await intake.take_in([item], _traceparent(request.scope["headers"]))
    item = taken.items[0]
    if isinstance(item, Event):
        return _Answer(
            _encode(ingest.answer_event(item, ingest.status_of(item, taken.owners))), deferred=taken.deferred
        )
    if item.code is errors.UNAVAILABLE:
        raise _unavailable()
    fields = [field_error(item.field, item.message.removeprefix(f"{item.field}: "))] if item.field else []
    raise ApiError(item.code, item.message, errors=fields)


def _may_use(programs: Programs, key: Key) -> Callable[[bytes], bool]:
    """Whether an event may be for a program: one that the key may use, and that is registered where that is asked."""
    if key.program_ids is None and programs.is_open:
        return bool  # any, since its 16 bytes are never none: asked for each event, so it costs next to nothing
    return lambda packed: key.may_use(packed) and programs.may_use(packed)


def _unavailable() -> ApiError:
    # Which broker is silent is for /readyz to say, not for producers.
    message = "Kafka does not acknowledge in time, or too many events wait for it; send it again"
    return ApiError(errors.UNAVAILABLE, message, headers=_RETRY_AFTER)


class _Answer(Response):
    """A 200 in JSON. Its headers stand here as they travel: Starlette would look at each of them several times."""

    def __init__(self, content: bytes, *, deferred: bool) -> None:
        self.status_code = 200
        self.background = None
        self.body = content
        self.raw_headers = [(b"content-length", b"%d" % len(content)), _JSON]
        if deferred:
            self.raw_headers.append(_DEFERRED)


def routes() -> list[Route]:
    """The routes of this module."""
    return [
        Route("/v1/events/batch", post_batch, methods=["POST"]),
        Route("/v1/events", post_event, methods=["POST"]),
    ]
