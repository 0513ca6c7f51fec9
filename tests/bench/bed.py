"""The bed on which everything is measured: one real Kafka and Postgres, emptied between the parts."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from aiokafka.admin import AIOKafkaAdminClient
from psycopg import sql

from deploy import migrate
from deploy.local import postgres as local_postgres
from deploy.process import Process, Spec
from schemas.keys import SCOPES, new_key
from schemas.settings import Settings
from schemas.topics import all_topics
from tests.bench.cpu import Meter
from tests.stack import Backend, Stack, backend, wait_until

PARTITIONS = 12
_GROUP = "headrace"
_BACKEND = "backend"
_GONE_POLLS_MAX = 200
_POLL_S = 0.05


class Bed:
    """The running Kafka and Postgres, and what stands on them."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend = backend
        self.folder = folder
        self.api_key, self._key_sha256 = new_key()
        self._databases = 0

    @property
    def kafka(self) -> str:
        """Bootstrap servers."""
        return self.backend.kafka

    def new_database(self, group: str = _GROUP) -> Backend:
        """A migrated, empty database of its own, and the topics of `group` where they are missing."""
        self._databases += 1
        name = f"bench_{self._databases}"
        with psycopg.connect(self.backend.database_url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        url = self.backend.database_url.rsplit("/", 1)[0] + f"/{name}"
        migrate.run(Settings(kafka=self.kafka, database_url=url, partitions=PARTITIONS, group=group))
        with psycopg.connect(url) as connection:
            connection.execute(
                "insert into headrace.api_keys (key_sha256, name, scopes) values (%s, 'bench', %s)",
                (self._key_sha256, list(SCOPES)),
            )
        return self.backend._replace(database_url=url)

    def drop_database(self, database: Backend) -> None:
        """Let one of :meth:`new_database` go, and what Postgres has of it in memory."""
        name = database.database_url.rsplit("/", 1)[1]
        with psycopg.connect(self.backend.database_url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {}").format(sql.Identifier(name)))

    def new_topics(self) -> None:
        """Delete every topic of Headrace's; :meth:`new_database` makes them anew."""
        asyncio.run(_delete_topics(self.kafka))

    def stack(self, database: Backend, name: str, **settings: str) -> Stack:
        """A Headrace on `database`, nothing started."""
        return Stack(database, self.folder / name, self.api_key, {"partitions": str(PARTITIONS), **settings})

    def start(self, name: str, arguments: list[str], environment: Mapping[str, str]) -> Process:
        """Start a Python process of the suite's; its log is in the bed's folder."""
        spec = Spec(name, 0, [sys.executable, *arguments], environment, self.folder / "logs" / f"{name}.log")
        return Process(spec)

    def checkpoint(self) -> None:
        """Have Postgres write out what earlier work left, so that the next piece does not pay for it."""
        checkpoint(self.folder / _BACKEND)

    def meter(self, **pids: int) -> Meter:
        """Counts the CPU of Kafka, of Postgres and of the processes given by name."""
        own = {name: process.pid for name, process in self.backend.processes.items()}
        return Meter(own | pids)


@contextmanager
def bed() -> Iterator[Bed]:
    """A bed in a temporary folder, which is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    folder.chmod(0o711)  # Postgres may run as another user
    try:
        with backend(folder / _BACKEND) as started:
            yield Bed(started, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _delete_topics(kafka: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        ours = {topic.name for topic in all_topics(_GROUP)}
        present = ours & set(await admin.list_topics())
        if present:
            await admin.delete_topics(sorted(present))
        for _ in range(_GONE_POLLS_MAX):
            if not ours & set(await admin.list_topics()):
                return
            await asyncio.sleep(_POLL_S)
        raise TimeoutError("the topics are still there")
    finally:
        await admin.close()


def checkpoint(backend_folder: Path) -> None:
    """Have Postgres write out what it has in memory. The next change of each page then writes all of it to the WAL."""
    server = local_postgres.load(backend_folder / "postgres")
    if server is not None:
        with psycopg.connect(server.superuser_url, autocommit=True) as connection:
            connection.execute("checkpoint")


def environment(stack: Stack, **settings: str) -> dict[str, str]:
    """The environment of one of the suite's own processes."""
    return stack.environment(**settings) | {"PYTHONPATH": os.fspath(Path(__file__).parents[2])}


def row(database: Backend, statement: Any, parameters: Any = None) -> tuple[Any, ...]:  # noqa: ANN401 - psycopg's own
    """The one row that a statement answers."""
    with psycopg.connect(database.database_url) as connection:
        found = connection.execute(statement, parameters).fetchone()
    assert found is not None
    return found


__all__ = ["PARTITIONS", "Bed", "bed", "environment", "row", "wait_until"]
