"""The whole stack on this machine: what is started, in which order, with which settings."""

import os
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from deploy import dev_key, gateway_server, migrate, state
from deploy.errors import DeployError
from deploy.local import kafka, ports, postgres
from deploy.process import Spec, identity_of
from deploy.state import ProcessState, StackState
from deploy.stopping import end_leftovers
from deploy.supervisor import Stopped, Supervisor
from schemas.settings import PREFIX, Settings, load

_HOST = "127.0.0.1"
_FREE_BYTES_MIN = 512 * 1024 * 1024
_START_TIMEOUT_S = 60.0
_ASK_TIMEOUT_S = 2.0
_OK = 200


class Plan(NamedTuple):
    """What the user asked for; None: what the data folder has, or the default."""

    data: Path
    port: int = 8080
    brokers: int | None = None
    partitions: int | None = None
    gateway_workers: int = 1
    workers: int = 1


class Running(NamedTuple):
    """A stack that is up."""

    state: StackState
    api_key: str


def run(plan: Plan, tell: Callable[[str], None], on_ready: Callable[[Running, Callable[[], None]], None]) -> None:
    """Bring the stack up, call `on_ready` once, and keep it running until SIGINT or SIGTERM.

    `on_ready` gets a function to call between its steps, which ends it when somebody asks to stop. Raises
    :class:`DeployError` when the stack cannot come up; nothing is left running then.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("children are tied to the life of the thread that starts them: use the main thread")
    plan = plan._replace(data=plan.data.resolve())  # children do not all run in this folder
    plan.data.mkdir(parents=True, exist_ok=True)
    with state.locked(plan.data):
        before = state.load(plan.data)
        if before:
            end_leftovers(before)
        _check_space(plan.data)
        _Stack(plan, before, tell).run(on_ready)


def _check_space(data: Path) -> None:
    free = shutil.disk_usage(data).free
    if free < _FREE_BYTES_MIN:
        raise DeployError(
            f"only {free // 2**20} MiB are free under {data}, at least {_FREE_BYTES_MIN // 2**20} are needed:"
            " free some space or choose another --data"
        )


class _Stack:
    def __init__(self, plan: Plan, before: StackState | None, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._logs = plan.data / "logs"
        self._partitions = plan.partitions or (before.partitions if before else Settings().partitions)
        self._supervisor = Supervisor(tell, self._save)
        self._ready = False

    def run(self, on_ready: Callable[[Running, Callable[[], None]], None]) -> None:
        if self._plan.port and not ports.is_free(self._plan.port, _HOST):
            raise DeployError(f"port {self._plan.port} is taken: stop what uses it, or choose another with --port")
        # Held, without listening, as long as the stack lives: no gateway finds its port taken when it starts again.
        with gateway_server.shared_socket(_HOST, self._plan.port) as held:
            self._port: int = held.getsockname()[1]
            self._prepare()
            self._supervisor.heed_signals()
            try:
                running = self._start()
                on_ready(running, self._supervisor.check)
                self._supervisor.supervise()
            except Stopped:
                return
            finally:
                self._supervisor.stop()

    def _prepare(self) -> None:
        data = self._plan.data
        for folder in (self._logs, data / "tables", data / "run"):
            folder.mkdir(exist_ok=True, mode=0o700)
        with ThreadPoolExecutor(2) as pool:
            cluster = pool.submit(kafka.prepare, data / "kafka", self._plan.brokers)
            server = pool.submit(postgres.prepare, data / "postgres")
            self._cluster, self._server = cluster.result(), server.result()
        self._environment = self._build_environment()
        self._settings = load(self._environment)

    def _build_environment(self) -> dict[str, str]:
        """What every process of the stack gets: the user's own environment, and where this stack's parts are."""
        own = {
            "kafka": self._cluster.bootstrap,
            "kafka_security_protocol": "PLAINTEXT",
            "database_url": self._server.url,
            "host": _HOST,
            "port": str(self._port),
            "partitions": str(self._partitions),
            "replication_factor": str(self._cluster.replication_factor),
            "table_dir": str((self._plan.data / "tables").resolve()),
        }
        return dict(os.environ) | {PREFIX + name.upper(): value for name, value in own.items()}

    def _start(self) -> Running:
        data = self._plan.data
        stores = [
            postgres.spec(data / "postgres", self._logs, self._server),
            *kafka.specs(data / "kafka", self._logs, self._cluster),
        ]
        self._supervisor.start(stores)
        self._supervisor.wait_until(lambda: postgres.ready(self._server), "Postgres", _START_TIMEOUT_S)
        self._supervisor.wait_until(lambda: kafka.ready(self._cluster), "Kafka", _START_TIMEOUT_S)
        migrate.run(self._settings)
        key = dev_key.ensure(state.key_file(data), self._server.url)
        self._supervisor.start([self._service("worker", number) for number in range(self._plan.workers)])
        self._supervisor.start([self._service("gateway", number) for number in range(self._plan.gateway_workers)])
        self._supervisor.wait_until(self._supervisor.all_say_ready, "gateway and processors", _START_TIMEOUT_S)
        self._supervisor.wait_until(lambda: answers(f"{self._url}/readyz"), f"{self._url}/readyz", _START_TIMEOUT_S)
        self._ready = True
        return Running(self._save(self._supervisor.states()), key)

    def _service(self, role: str, number: int) -> Spec:
        ready_file = (self._plan.data / "run" / f"{role}-{number}.ready").resolve()
        own = {f"{PREFIX}READY_FILE": str(ready_file), "PYTHONUNBUFFERED": "1"}
        if role == "worker":
            own[f"{PREFIX}WORKER_ID"] = f"worker-{number}"
            if self._settings.worker_metrics_port:  # one port each, from the one that was given
                own[f"{PREFIX}WORKER_METRICS_PORT"] = str(self._settings.worker_metrics_port + number)
        return Spec(
            role=role,
            number=number,
            command=[sys.executable, "-m", "deploy.cli", role],
            env=self._environment | own,
            log=self._logs / f"{role}-{number}.log",
            ready_file=ready_file,
        )

    @property
    def _url(self) -> str:
        return f"http://{_HOST}:{self._port}"

    def _save(self, processes: list[ProcessState]) -> StackState:
        current = StackState(
            supervisor=identity_of(os.getpid()),
            ready=self._ready,
            url=self._url,
            kafka=self._cluster.bootstrap,
            database_url=self._server.url,
            partitions=self._partitions,
            processes=processes,
        )
        state.save(self._plan.data, current)
        return current


def answers(url: str) -> bool:
    """Whether a GET of `url` answers 200 within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=_ASK_TIMEOUT_S) as response:  # noqa: S310 - this stack's own gateway
            return bool(response.status == _OK)
    except (urllib.error.URLError, OSError):
        return False
