"""The system under test: three brokers, Postgres, gateways and workers, each started again by the project's supervisor.

Gateways and workers reach Kafka and Postgres through proxies. For that the brokers have two more listeners, each of
which tells its clients the proxies' ports.
"""

import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self
from unittest import mock

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from deploy import migrate, supervisor
from deploy.errors import DeployError
from deploy.local import kafka as local_kafka
from deploy.local import ports
from deploy.local import postgres as local_postgres
from deploy.process import Spec
from schemas.keys import SCOPES, new_key
from schemas.settings import Settings
from tests.chaos import handler, launch
from tests.chaos.kafka_view import KafkaView
from tests.chaos.proxies import Proxies

PARTITIONS = 6
GROUP = "headrace"
SESSION_TIMEOUT_MS = 6_000
POSTGRES = "postgres"
KAFKA_OF_GATEWAYS = "gateways"
KAFKA_OF_WORKERS = "workers"

_START_S = 120.0
_STOP_S = 60.0
# Faults come faster here than failures do in life: whoever lived this long is started again without a growing pause.
_STABLE_S = 2.0


class _Supervisor(supervisor.Supervisor):
    def end(self) -> None:
        """As a signal would."""
        self._stopping = True


class System:
    """Everything, started. Data, logs and all else are in `folder`."""

    def __init__(self, folder: Path, *, brokers: int = 3, gateways: int = 2, workers: int = 2) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.gateways = gateways
        self.workers = workers
        self.api_key = ""
        self._brokers = brokers
        self._proxies: Proxies | None = None
        self._supervisor = _Supervisor(self._tell, lambda _: None)
        self._up = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Bring everything up. Raises what kept it from coming up."""
        for name in ("tables", "run", "orders", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.cluster = local_kafka.prepare(self.folder / "kafka", brokers=self._brokers)
        self.server = local_postgres.prepare(self.folder / "postgres")
        self.proxies = self._proxies = Proxies()
        self.kafka = KafkaView(self.cluster.bootstrap, PARTITIONS)
        self._wire()
        self._thread.start()
        self._up.wait(_START_S)
        if self._error is not None:
            raise self._error
        assert self._up.is_set(), f"not up within {_START_S} s (logs: {self.logs})"

    def stop(self) -> None:
        """Stop everything."""
        if self._proxies is not None:
            for name in (POSTGRES, KAFKA_OF_GATEWAYS, KAFKA_OF_WORKERS):
                self._proxies.set_deaf(name, deaf=False)
        self._supervisor.end()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)
        if self._proxies is not None:
            self._proxies.stop()

    def __enter__(self) -> Self:
        """Start; nothing is left behind where that fails."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    # -- what faults and checks need

    @property
    def bootstrap(self) -> str:
        """Kafka, past the proxies."""
        return self.cluster.bootstrap

    @property
    def database_url(self) -> str:
        """Postgres, past the proxy."""
        return self.server.url

    @property
    def urls(self) -> list[str]:
        """Where the gateways listen."""
        return [f"http://127.0.0.1:{port}" for port in self._gateway_ports]

    def process(self, name: str) -> psutil.Process | None:
        """The process called `name` (``worker-0``), None while it is down."""
        for state in self._supervisor.states():
            if f"{state.role}-{state.number}" == name:
                return state.identity.process()
        raise KeyError(name)

    def names(self) -> list[str]:
        """Every process's name."""
        return [f"{state.role}-{state.number}" for state in self._supervisor.states()]

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Send a signal; False where the process is down."""
        process = self.process(name)
        if process is None:
            return False
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        return True

    def order(self, name: str, **orders: str | float) -> None:
        """What is to be done at the next start of `name`, and only then."""
        path = self.folder / "orders" / f"{name}.json"
        path.with_suffix(".new").write_text(json.dumps(orders), encoding="utf-8")
        path.with_suffix(".new").rename(path)

    def set_breach(self, role: str, breach: str | None) -> None:
        """From its next start on, whatever has this role is broken as :mod:`tests.chaos.broken` says; None: mended."""
        path = self.folder / "orders" / f"{role}.broken"
        if breach is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(breach, encoding="utf-8")

    def is_ready(self, name: str) -> bool:
        """Whether the process says that it is ready."""
        return self.process(name) is not None and (self.folder / "run" / f"{name}.ready").exists()

    # -- start

    def _run(self) -> None:
        try:
            with mock.patch.object(supervisor, "_STABLE_S", _STABLE_S):
                self._start_all()
                self._up.set()
                self._supervisor.supervise()
        except (DeployError, AssertionError, supervisor.Stopped, psycopg.Error, OSError) as error:
            self._error = error
            self._up.set()
        finally:
            self._supervisor.stop()

    def _start_all(self) -> None:
        server, cluster = self.server, self.cluster
        # Processes are killed here, never the machine: what was written survives that without fsync too.
        postgres = local_postgres.spec(self.folder / "postgres", self.logs, server, {"fsync": "off"})
        self._supervisor.start([postgres, *local_kafka.specs(self.folder / "kafka", self.logs, cluster)])
        self._supervisor.wait_until(lambda: local_postgres.ready(server), "Postgres", _START_S)
        self._supervisor.wait_until(lambda: local_kafka.ready(cluster), "Kafka", _START_S)
        migrate.run(
            Settings(
                kafka=cluster.bootstrap,
                database_url=server.url,
                partitions=PARTITIONS,
                replication_factor=cluster.replication_factor,
                group=GROUP,
            )
        )
        self._prepare_database()
        self._supervisor.start([self._spec("worker", number) for number in range(self.workers)])
        self._supervisor.start([self._spec("gateway", number) for number in range(self.gateways)])
        self._supervisor.wait_until(self._supervisor.all_say_ready, "gateways and workers", _START_S)
        self._supervisor.wait_until(lambda: all(_answers(f"{url}/readyz") for url in self.urls), "readyz", _START_S)

    def _prepare_database(self) -> None:
        self.api_key, sha256 = new_key()
        with psycopg.connect(self.server.url) as connection:
            connection.execute(handler.SCHEMA.encode())
            connection.execute(
                "insert into headrace.api_keys (key_sha256, name, scopes) values (%s, 'chaos', %s)",
                (sha256, list(SCOPES)),
            )

    def _wire(self) -> None:
        """Put the proxies in front of Postgres and of each broker, once for gateways and once for workers."""
        brokers = self.cluster.brokers
        own = ports.pick(2 * brokers + self.gateways)
        self._gateway_ports = own[2 * brokers :]
        self._postgres_port = self.proxies.add(POSTGRES, ("127.0.0.1", self.server.port))
        self._bootstraps = {}
        wired: dict[int, list[tuple[str, int, int]]] = {number: [] for number in range(brokers)}
        for at, name in enumerate((KAFKA_OF_GATEWAYS, KAFKA_OF_WORKERS)):
            proxied = []
            for number in range(brokers):
                port = own[at * brokers + number]
                proxied.append(self.proxies.add(name, ("127.0.0.1", port)))
                wired[number].append((name.upper(), port, proxied[-1]))
            self._bootstraps[name] = ",".join(f"127.0.0.1:{port}" for port in proxied)
        for number, listeners in wired.items():
            self._add_listeners(number, listeners)

    def _add_listeners(self, number: int, listeners: list[tuple[str, int, int]]) -> None:
        """Later lines of a properties file count."""
        plain = f"PLAINTEXT://127.0.0.1:{self.cluster.broker_ports[number]}"
        controller = f"CONTROLLER://127.0.0.1:{self.cluster.controller_ports[number]}"
        bound = [f"{name}://127.0.0.1:{port}" for name, port, _ in listeners]
        told = [f"{name}://127.0.0.1:{port}" for name, _, port in listeners]
        protocols = [f"{name}:PLAINTEXT" for name in ("CONTROLLER", "PLAINTEXT", *(name for name, *_ in listeners))]
        with (self.folder / "kafka" / f"broker-{number}.properties").open("a", encoding="utf-8") as file:
            file.write(f"listeners={','.join([plain, controller, *bound])}\n")
            file.write(f"advertised.listeners={','.join([plain, *told])}\n")
            file.write(f"listener.security.protocol.map={','.join(protocols)}\n")
            file.write("inter.broker.listener.name=PLAINTEXT\n")

    def _spec(self, role: str, number: int) -> Spec:
        name = f"{role}-{number}"
        ready_file = self.folder / "run" / f"{name}.ready"
        kafka = self._bootstraps[KAFKA_OF_GATEWAYS if role == "gateway" else KAFKA_OF_WORKERS]
        settings = {
            "kafka": kafka,
            "database_url": make_conninfo(self.server.url, host="127.0.0.1", port=self._postgres_port),
            "port": str(self._gateway_ports[number % self.gateways]),
            "table_dir": str(self.folder / "tables"),
            "partitions": str(PARTITIONS),
            "group": GROUP,
            "session_timeout_ms": str(SESSION_TIMEOUT_MS),
            "handlers": handler.HANDLERS,
            "worker_id": f"worker-{number}",
            "ready_file": str(ready_file),
        }
        own = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
        return Spec(
            role=role,
            number=number,
            command=[sys.executable, str(launch.__file__), role, str(self.folder / "orders" / f"{name}.json")],
            env=own | {"PYTHONUNBUFFERED": "1"} | {f"HEADRACE_{key.upper()}": value for key, value in settings.items()},
            log=self.logs / f"{name}.log",
            ready_file=ready_file,
        )

    def _tell(self, line: str) -> None:
        with (self.logs / "supervisor.log").open("a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - this system's own gateway
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
