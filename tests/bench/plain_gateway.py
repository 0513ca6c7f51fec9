"""The baseline: the batch and single routes as one would write them plainly, on the same server.

msgspec decodes, nothing is checked, nothing is claimed; one ``await producer.send`` an event, and all
acknowledgements are awaited before the answer. Run as ``python -m tests.bench.plain_gateway``.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas import topics
from schemas.settings import load
from tests.bench.serve import serve


class Event(msgspec.Struct, omit_defaults=True):
    """An event, as far as types say what it is."""

    program_id: uuid.UUID
    idempotency_key: str
    event_timestamp: str
    event_data: dict[str, Any]
    external_id: str | None = None
    participant_id: uuid.UUID | None = None
    recipient_external_id: str | None = None
    recipient_id: uuid.UUID | None = None


class Batch(msgspec.Struct):
    """Events that came together."""

    events: list[Event]


_decode_batch = msgspec.json.Decoder(Batch).decode
_decode_event = msgspec.json.Decoder(Event).decode
_encode = msgspec.json.Encoder().encode


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    async with AIOKafkaProducer(
        bootstrap_servers=load().kafka, acks="all", enable_idempotence=True, linger_ms=0, max_batch_size=1_048_576
    ) as producer:
        app.state.producer = producer
        yield


async def _produce(producer: AIOKafkaProducer, events: list[Event]) -> None:
    sent = [await producer.send(topics.EVENTS, _encode(event), key=str(event.program_id).encode()) for event in events]
    await asyncio.gather(*sent)


def _answer(event: Event) -> dict[str, Any]:
    return {
        "id": uuid.uuid5(event.program_id, event.idempotency_key),
        "idempotency_key": event.idempotency_key,
        "program_id": event.program_id,
        "participant_id": event.participant_id,
        "external_id": event.external_id,
        "event_timestamp": event.event_timestamp,
        "status": "PENDING",
    }


async def post_batch(request: Request) -> Response:
    """``POST /v1/events/batch``."""
    events = _decode_batch(await request.body()).events
    await _produce(request.app.state.producer, events)
    results = [{"index": index, "event": _answer(event), "status": "accepted"} for index, event in enumerate(events)]
    answer = {"total": len(events), "success_count": len(events), "error_count": 0, "results": results}
    return Response(_encode(answer), media_type="application/json")


async def post_event(request: Request) -> Response:
    """``POST /v1/events``."""
    event = _decode_event(await request.body())
    await _produce(request.app.state.producer, [event])
    return Response(_encode(_answer(event)), media_type="application/json")


app = Starlette(
    routes=[
        Route("/v1/events/batch", post_batch, methods=["POST"]),
        Route("/v1/events", post_event, methods=["POST"]),
    ],
    lifespan=_lifespan,
)

if __name__ == "__main__":
    serve(app)
