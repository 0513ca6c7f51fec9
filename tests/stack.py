"""A real Kafka and a real Postgres for the tests, and gateway and worker processes on top.

Everything lives on free ports and in a temporary folder: a running stack of the user's is never touched.
``HEADRACE_TEST_BACKEND=containers`` takes the official images through testcontainers instead of the local parts.
"""

import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from deploy.local import kafka as local_kafka
from deploy.local import ports
from deploy.local import postgres as local_postgres
from deploy.process import Process, Spec, stop_all

_START_TIMEOUT_S = 60.0
_POLL_S = 0.05


class Backend(NamedTuple):
    """Where the tests' Kafka and Postgres are. `processes` is empty where they run in containers."""

    kafka: str
    database_url: str
    processes: dict[str, Process]


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = _START_TIMEOUT_S) -> None:
    """Wait for `condition`, `timeout_s` at most; fails the test with `what` otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(_POLL_S)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A child that stands still from the first line on: one of many threads goes on for tens of ms after the signal."""
    os.kill(pid, signal.SIGSTOP)
    try:
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def backend(folder: Path) -> Iterator[Backend]:
    """Kafka and Postgres, started; stopped at the end."""
    if os.environ.get("HEADRACE_TEST_BACKEND", "local") == "containers":
        from tests import containers  # noqa: PLC0415 - needs a container engine's client, which few test runs have

        with containers.start() as (kafka, database_url):
            yield Backend(kafka, database_url, {})
        return
    with _local(folder) as started:
        yield started


@contextmanager
def _local(folder: Path) -> Iterator[Backend]:
    # A crash test kills processes, never the machine: what was written survives that without fsync too.
    unsafe = {"fsync": "off"} if os.environ.get("HEADRACE_TEST_FSYNC") == "off" else {}
    cluster = local_kafka.prepare(folder / "kafka", brokers=1)
    server = local_postgres.prepare(folder / "postgres")
    processes: dict[str, Process] = {}
    try:
        processes["postgres"] = Process(local_postgres.spec(folder / "postgres", folder / "logs", server, unsafe))
        processes["kafka"] = Process(local_kafka.specs(folder / "kafka", folder / "logs", cluster)[0])
        wait_until(lambda: local_postgres.ready(server), "Postgres ready")
        wait_until(lambda: local_kafka.ready(cluster), "Kafka ready")
        yield Backend(cluster.bootstrap, server.url, processes)
    finally:
        stop_all(list(processes.values()))


class Stack:
    """One Headrace: the shared Kafka and Postgres, with gateway and worker processes that a test can start and kill.

    `start_gateway` and `start_worker` wait until the process is ready. Settings are given by name, as in
    ``schemas.settings``: ``stack.start_worker(1, chunk_events_max="10")``.
    """

    def __init__(self, backend: Backend, folder: Path, api_key: str, settings: Mapping[str, str]) -> None:
        """`settings` go to every process of this stack, by their names."""
        self.kafka = backend.kafka
        self.database_url = backend.database_url
        self.backend = backend
        self.api_key = api_key
        # Kept while no gateway runs: not one that the system may give to somebody's outgoing connection meanwhile.
        self.port = ports.pick(1)[0]
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self._settings = dict(settings)

    @property
    def url(self) -> str:
        """Base URL of the gateways."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What a request needs: the key and the content type."""
        return {"X-API-Key": self.api_key, "Content-Type": "application/json"}

    def environment(self, **settings: str) -> dict[str, str]:
        """The environment of a process of this stack."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        chosen = {
            "kafka": self.kafka,
            "database_url": self.database_url,
            "port": str(self.port),
            "table_dir": str(self.folder / "tables"),
            **self._settings,
            **settings,
        }
        return own | {f"HEADRACE_{name.upper()}": value for name, value in chosen.items()}

    def start_gateway(self, number: int = 0, *, wait: bool = True, **settings: str) -> Process:
        """Start gateway `number`; gateways of one stack share the port."""
        process = self._start("gateway", number, settings, wait=wait)
        if wait:
            wait_until(lambda: _answers(f"{self.url}/readyz"), f"{self.url}/readyz answers 200")
        return process

    def start_worker(self, number: int = 0, *, wait: bool = True, **settings: str) -> Process:
        """Start worker `number`; ready once its partitions are assigned and its table is recovered."""
        return self._start("worker", number, {"worker_id": f"worker-{number}"} | settings, wait=wait)

    def ensure_running(self) -> None:
        """Have ``gateway-0`` and ``worker-0`` run with the usual settings, and nothing else."""
        usual = ("gateway-0", "worker-0")
        for name, process in list(self.processes.items()):
            if name not in usual or process.exit_code() is not None:
                self.processes.pop(name).stop()
        if usual[1] not in self.processes:
            self.start_worker()
        if usual[0] not in self.processes:
            self.start_gateway()

    def _start(self, role: str, number: int, settings: Mapping[str, str], *, wait: bool) -> Process:
        name = f"{role}-{number}"
        assert name not in self.processes, f"{name} runs already"
        ready_file = self.folder / f"{name}.ready"
        spec = Spec(
            role=role,
            number=number,
            command=[sys.executable, "-m", "deploy.cli", role],
            env=self.environment(ready_file=str(ready_file), **settings),
            log=self.folder / "logs" / f"{name}.log",
            ready_file=ready_file,
        )
        process = self.processes[name] = Process(spec)
        if wait:
            wait_until(lambda: _ready_or_failed(process), f"{name} ready (log: {spec.log})")
        return process

    def stop_worker(self, number: int = 0) -> None:
        """SIGTERM, and wait until it has ended."""
        self.processes.pop(f"worker-{number}").stop()

    def kill_worker(self, number: int = 0) -> None:
        """SIGKILL."""
        self.processes.pop(f"worker-{number}").kill()

    def stop_gateway(self, number: int = 0) -> None:
        """SIGTERM, and wait until it has ended."""
        self.processes.pop(f"gateway-{number}").stop()

    def kill_gateway(self, number: int = 0) -> None:
        """SIGKILL."""
        self.processes.pop(f"gateway-{number}").kill()

    def stop(self) -> None:
        """Stop every process of this stack; Kafka and Postgres stay."""
        stop_all(list(self.processes.values()))
        self.processes.clear()


def _ready_or_failed(process: Process) -> bool:
    assert process.exit_code() is None, process.failure()
    return process.ready()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - the tests' own gateway
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
