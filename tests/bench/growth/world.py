"""What all parts share: the stack on one kept folder, CPU time, and the made-up programs and participants."""

import contextlib
import hashlib
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

from deploy import migrate
from schemas.keys import SCOPES, new_key
from schemas.settings import Settings
from tests.stack import Backend, Stack, backend

PARTITIONS = 12
PROGRAMS = 1_000
PARTICIPANTS = 200_000


class World:
    """The stack of a run: Kafka and Postgres run, a gateway or a worker where a part starts one."""

    def __init__(self, started: Backend, stack: Stack) -> None:
        self.stack = stack
        self.postgres = started.processes["postgres"].identity.pid
        self.url = started.database_url
        # One connection for all questions: a new one costs Postgres as much as hundreds of events.
        self._connection = psycopg.connect(started.database_url, autocommit=True)
        self.kafka = started.kafka

    def ask(self, statement: str, *params: object) -> Any:  # noqa: ANN401 - one row of anything
        """The first row of a statement."""
        row = self._connection.execute(statement.encode(), params or None).fetchone()
        assert row is not None
        return row

    def close(self) -> None:
        """Stop what runs on Kafka and Postgres, and ask no more."""
        self.stack.stop()
        self._connection.close()


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Everything started on `folder`, and stopped at the end."""
    with backend(folder) as started:
        migrate.run(Settings(kafka=started.kafka, database_url=started.database_url, partitions=PARTITIONS))
        text, sha256 = new_key()
        with psycopg.connect(started.database_url) as connection:
            connection.execute(
                "insert into headrace.api_keys (key_sha256, name, scopes, rate_events_per_s) values (%s, %s, %s, 0)",
                (sha256, "growth", list(SCOPES)),
            )
        stack = Stack(started, folder, text, {"partitions": str(PARTITIONS), "rate_events_per_s": "0"})
        with closing(World(started, stack)) as made:
            yield made


def program(number: int) -> str:
    """Program `number`, as Postgres makes it: md5 of the text."""
    return str(uuid.UUID(_md5(f"program {number}")))


def participant(number: int) -> str:
    """Participant `number`."""
    return str(uuid.UUID(_md5(f"participant {number}")))


def recipient(number: int) -> str:
    """Recipient `number`."""
    return str(uuid.UUID(_md5(f"recipient {number}")))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def cpu_s(pid: int) -> float:
    """User and system time of a process, of its living children and of those that it has waited for, in seconds."""
    total = 0.0
    process = psutil.Process(pid)
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile: its parent's count has it
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


class Meter:
    """CPU and wall time of some processes since it was made."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._begun = {name: cpu_s(pid) for name, pid in pids.items()}
        self._begun_at = time.monotonic()

    def per_event(self, events: int) -> dict[str, float]:
        """CPU microseconds an event by name, and events a second of wall time."""
        spent = {name: (cpu_s(pid) - self._begun[name]) / events * 1e6 for name, pid in self._pids.items()}
        return spent | {"events_per_s": events / (time.monotonic() - self._begun_at)}
