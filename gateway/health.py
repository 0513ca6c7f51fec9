"""For those who watch: is the process alive, can it take events, and what has it counted."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway import metrics
from gateway.problems import ApiError, field_error
from gateway.reading import json_response
from schemas.errors import UNAVAILABLE


async def livez(_: Request) -> Response:
    """The process runs and its event loop turns. It asks nobody: a restart mends neither Kafka nor Postgres."""
    return json_response({"status": "alive"})


async def readyz(request: Request) -> Response:
    """Events can be taken, since Kafka is reachable. Postgres is told of but not required: Kafka is the buffer."""
    kafka: str | None = request.app.state.intake.kafka_ready()
    postgres: str | None = request.app.state.database.reason
    if kafka is not None:
        errors = [field_error("kafka", kafka)] + ([] if postgres is None else [field_error("postgres", postgres)])
        raise ApiError(UNAVAILABLE, f"not ready: Kafka: {kafka}", errors, {"Retry-After": "1"})
    return json_response({"status": "ready", "kafka": "ok", "postgres": "ok" if postgres is None else postgres})


async def show_metrics(_: Request) -> Response:
    """Answer ``GET /metrics``."""
    return Response(metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})


def routes() -> list[Route]:
    """The routes for those who watch; none needs a key."""
    return [
        Route("/livez", livez, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", show_metrics, methods=["GET"]),
    ]
