"""What a data folder knows of its stack: ``stack.json``, and the lock that its supervisor holds while it lives."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from deploy.errors import DeployError
from deploy.process import Identity
from deploy.secret import write_secret
from schemas.settings import Settings

DEFAULT_DATA = Path(".headrace")


class ProcessState(msgspec.Struct, frozen=True):
    """One process of the stack, as last started."""

    role: str
    number: int
    identity: Identity
    restarts: int


class StackState(msgspec.Struct, frozen=True, kw_only=True):
    """The stack as last written by its supervisor. `ready`: everything has been up once."""

    supervisor: Identity
    ready: bool = False
    url: str
    kafka: str
    database_url: str
    partitions: int
    processes: list[ProcessState]

    def settings(self, given: Settings) -> Settings:
        """The settings `given`, with this stack's Kafka and Postgres, as its own processes have them."""
        brokers = sum(found.role == "kafka" for found in self.processes)
        return msgspec.structs.replace(
            given,
            kafka=self.kafka,
            kafka_security_protocol="PLAINTEXT",
            database_url=self.database_url,
            partitions=self.partitions,
            replication_factor=max(1, brokers),
        )

    def public(self, **more: str) -> dict[str, Any]:
        """As ``--json`` prints it."""
        processes = [
            {"role": found.role, "pid": found.identity.pid, "restarts": found.restarts} for found in self.processes
        ]
        return {"url": self.url, **more, "kafka": self.kafka, "database_url": self.database_url, "processes": processes}


def key_file(data: Path) -> Path:
    """Where the development key is kept."""
    return data / "dev-key"


def load(data: Path) -> StackState | None:
    """The state last written; None where no stack was ever started."""
    path = data / "stack.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=StackState)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise DeployError(f"{path} belongs to another user: run this as that user, or choose another --data") from error
    except msgspec.MsgspecError as error:
        raise DeployError(f"{path} cannot be read ({error}): remove it; the data beside it stay as they are") from error


def running(data: Path) -> StackState:
    """The state of the stack that runs on `data`. Raises :class:`DeployError` when none does."""
    state = load(data)
    if state is None or state.supervisor.process() is None:
        raise DeployError(f"nothing runs on {data}: start it with `headrace up`, or name its folder with --data")
    return state


def save(data: Path, state: StackState) -> None:
    """Write the state; it holds the database's password, so only the owner may read it."""
    write_secret(data / "stack.json", msgspec.json.encode(state))


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the data folder for one supervisor; the system frees it when the process ends, however it ends.

    Raises :class:`DeployError` when another supervisor holds it.
    """
    with (data / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DeployError(
                f"a stack already runs on {data}: see `headrace status`, stop it with `headrace down`"
            ) from error
        yield
