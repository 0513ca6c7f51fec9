"""The application in this process, on the real Kafka and Postgres."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import structlog
from starlette.applications import Starlette

from gateway import app as app_module
from gateway.identify import REQUEST_ID
from schemas.settings import Settings
from tests.gateway.asgi import Client
from tests.gateway.rows import insert_key


@asynccontextmanager
async def serving(settings: Settings, *, kafka_answers: bool = True) -> AsyncIterator[Starlette]:
    """An application that has been started, and is connected to Kafka where that answers."""
    app = app_module.create_app()
    async with app_module.running(app, settings):
        async with asyncio.timeout(20):
            while kafka_answers and app.state.intake.kafka_ready() is not None:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        yield app


@pytest.fixture
def settings(kafka: str, database_url: str) -> Settings:
    """Settings of a gateway on the tests' Kafka and Postgres."""
    return Settings(kafka=kafka, database_url=database_url)


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[Starlette]:
    """A started application."""
    async with serving(settings) as started:
        yield started


@pytest.fixture
async def client(app: Starlette, database_url: str) -> Client:
    """A client with a key that may read everything."""
    return Client(app, {"X-API-Key": insert_key(database_url)})


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[structlog.typing.EventDict]]:
    """What is logged, as structlog has it before it is rendered."""
    REQUEST_ID.set("")
    with structlog.testing.capture_logs() as lines:
        yield lines
    structlog.reset_defaults()
