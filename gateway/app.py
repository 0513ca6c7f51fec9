"""The gateway as an ASGI application: ``uvicorn gateway.app:app``, with nothing but the environment set.

Importing connects to nothing and reads no settings: both happen at startup. Postgres need not be up for that, since
Kafka is the buffer. What handlers share is on `app.state`: `settings`, `pool`, `database`, `limits`, `keys`,
`programs`, `waiting`, `cursors`, `intake`.
"""

import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp

from gateway import docs, health, intake, logs, problems, reading, retrying, stats
from gateway.auth import Keys
from gateway.boundary import RequestBoundary
from gateway.database import Database, make_pool
from gateway.programs import Programs
from gateway.ratelimits import RateLimits
from gateway.reading import CursorSigner
from gateway.shortcut import Shortcut
from gateway.spans import Spans
from gateway.waiting import Waiting
from schemas.settings import Settings, load

_COLLECT_AFTER = 50_000  # containers more than at the last look, some ten megabytes


@asynccontextmanager
async def running(app: Starlette, settings: Settings) -> AsyncIterator[None]:
    """Everything that a serving application needs, started in order and stopped in the reverse order."""
    state = app.state
    async with AsyncExitStack() as stack:
        state.settings = settings
        state.pool = make_pool(settings)
        state.database = Database(state.pool, settings)
        await state.database.start()
        stack.push_async_callback(state.database.stop)
        state.limits = RateLimits(state.database, settings.rate_events_per_s)
        state.keys = Keys(state.database, state.limits)
        await state.keys.start()
        stack.push_async_callback(state.keys.stop)
        state.programs = Programs(state.database, registered=settings.programs == "registered")
        await state.programs.start()
        stack.push_async_callback(state.programs.stop)
        state.waiting = Waiting(state.database)
        stack.push_async_callback(state.waiting.stop)
        state.cursors = CursorSigner(state.database)
        spans = Spans(state.database)
        spans.start()
        stack.push_async_callback(spans.stop)
        state.intake = intake.Intake(settings, state.pool, state.keys, state.limits, state.programs)
        await state.intake.start()
        stack.push_async_callback(state.intake.stop)
        yield


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
    settings = load()
    logs.configure(settings)
    async with running(app, settings):
        _spare_the_collector()
        yield {"settings": settings}  # for gateway.protocol, which serves connections before there is a request


def _spare_the_collector() -> None:
    """Have the garbage collector look seldom, and never at what lives as long as the process.

    Events are freed by their reference counts; by default every batch would cost a look at all that is in flight.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)


class _Gateway(Starlette):
    """Starlette with a boundary of our own in the place of its outermost layers, and a short way for events."""

    def build_middleware_stack(self) -> ASGIApp:
        routed = ExceptionMiddleware(self.router, handlers=self.exception_handlers)
        return RequestBoundary(Shortcut(routed, intake.routes()))


def create_app() -> Starlette:
    """The application, not started."""
    app = _Gateway(
        routes=[
            *intake.routes(),
            *reading.routes(),
            *retrying.routes(),
            *stats.routes(),
            *health.routes(),
            *docs.routes(),
        ],
        exception_handlers={
            problems.ApiError: problems.on_api_error,
            HTTPException: problems.on_http_exception,
        },
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False  # a wrong path is a 404 of the catalogue
    return app


app = create_app()
