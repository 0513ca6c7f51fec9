"""The same Kafka and Postgres from the official images, for machines with a container engine."""

from collections.abc import Iterator
from contextlib import contextmanager

from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from deploy.local import ports

KAFKA_IMAGE = "apache/kafka:4.3.1"
POSTGRES_IMAGE = "postgres:18"
_BROKER_PORT = 9092


@contextmanager
def start() -> Iterator[tuple[str, str]]:
    """Bootstrap servers and a database's URL, while the containers live."""
    # The broker tells clients its address, so the port on this side must be known before it starts.
    (port,) = ports.pick(1)
    with _kafka(port), _postgres() as postgres:
        yield f"127.0.0.1:{port}", postgres.get_connection_url(driver=None)


def _postgres() -> PostgresContainer:
    return PostgresContainer(POSTGRES_IMAGE, username="headrace", password="headrace", dbname="headrace")


def _kafka(port: int) -> DockerContainer:
    environment = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{_BROKER_PORT},CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(_BROKER_PORT, port)
    for name, value in environment.items():
        container.with_env(name, value)
    return container.waiting_for(LogMessageWaitStrategy("Kafka Server started"))
