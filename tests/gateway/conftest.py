"""The application in this process, on the real Postgres, with a stand-in where Kafka would be."""

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


class FakeIntake:
    """In place of `gateway.intake.Intake`: these tests send no events."""

    def __init__(self, settings: Settings, pool: object) -> None:
        self.settings = settings
        self.pool = pool
        self.reason: str | None = None

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    def kafka_ready(self) -> str | None:
        """What the test says."""
        return self.reason


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Starlette]:
    """An application that has been started."""
    app = app_module.create_app()
    async with app_module.running(app, settings):
        yield app


@pytest.fixture
def no_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave Kafka out."""
    monkeypatch.setattr("gateway.intake.Intake", FakeIntake)


@pytest.fixture
def settings(database_url: str) -> Settings:
    """Settings of a gateway on the tests' Postgres."""
    return Settings(database_url=database_url)


@pytest.fixture
async def app(settings: Settings, no_kafka: None) -> AsyncIterator[Starlette]:  # noqa: ARG001
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
