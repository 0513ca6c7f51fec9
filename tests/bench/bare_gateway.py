"""The limit: the gateway's own way of reading and answering events, and nothing else: no key, no claim, no Kafka.

Run as ``python -m tests.bench.bare_gateway``.
"""

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import ingest
from schemas.event import Event
from schemas.reader import EventReader
from schemas.settings import Settings
from tests.bench.serve import serve

_reader = EventReader(Settings().max_event_bytes)
_encode = msgspec.json.Encoder().encode


def _any_program(packed: bytes) -> bool:
    return bool(packed)


async def post_batch(request: Request) -> Response:
    """``POST /v1/events/batch``."""
    items = ingest.read_items(_reader, await request.body(), _any_program)
    owners = ingest.owners_within(items, ingest.first_of_each(items))
    return Response(_encode(ingest.answer_batch(items, owners)), media_type="application/json")


async def post_event(request: Request) -> Response:
    """``POST /v1/events``."""
    item = ingest.read_item(_reader, await request.body(), _any_program)
    assert isinstance(item, Event)
    return Response(_encode(ingest.answer_event(item, ingest.PENDING)), media_type="application/json")


app = Starlette(
    routes=[
        Route("/v1/events/batch", post_batch, methods=["POST"]),
        Route("/v1/events", post_event, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    serve(app)
