"""Faults of gateways, Postgres and Kafka, and of everything at once."""

import signal
import time
from collections.abc import Callable
from functools import partial

import psutil

from deploy.local import kafka as local_kafka
from schemas import topics
from tests.chaos.faults import Fault, Field, Hit, ready, shaky, wait_for
from tests.chaos.kafka_view import KafkaError
from tests.chaos.system import GROUP, KAFKA_OF_GATEWAYS, KAFKA_OF_WORKERS, PARTITIONS, POSTGRES

_SMART_S = 2.0
_SLOW_S = 0.05


# -- gateways


def _gateway(number: signal.Signals, field: Field, name: str) -> Hit:
    ready(field, name)
    began = time.monotonic()
    field.system.signal(name, number)
    ended = time.monotonic()
    wait_for(lambda: field.system.process(name) is None or not field.system.is_ready(name), f"{name} ended", 20.0)
    field.flow.until_accepted([field.system.urls[int(name.rpartition("-")[2])]], time.monotonic())
    ready(field, name)
    return Hit(name, began, ended)


# -- Postgres


def _postgres_killed(field: Field, _: str) -> Hit:
    with shaky(field):
        field.flow.close()
        began = time.monotonic()
        field.system.signal("postgres-0", signal.SIGKILL)
        ended = time.monotonic()
        field.flow.until_processed(field.flow.processed())
    return Hit("postgres-0", began, ended)


def _postgres_restarted(field: Field, _: str) -> Hit:
    """Asked to end when all clients have gone, then to end at once, as service managers do."""
    with shaky(field):
        field.flow.close()
        began = time.monotonic()
        process = field.system.process("postgres-0")
        field.system.signal("postgres-0", signal.SIGTERM)
        time.sleep(_SMART_S)
        field.system.signal("postgres-0", signal.SIGINT)
        if process is not None:
            wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "Postgres ended")
        ended = time.monotonic()
        field.flow.until_processed(field.flow.processed())
    return Hit("postgres-0", began, ended)


def _postgres_refusing(field: Field, _: str) -> Hit:
    with shaky(field):
        began = time.monotonic()
        field.system.proxies.refuse(POSTGRES)
        time.sleep(field.rng.uniform(2, 5))
        field.system.proxies.listen(POSTGRES)
        ended = time.monotonic()
        field.flow.until_processed(field.flow.processed())
    return Hit(POSTGRES, began, ended, "end")


def _postgres_deaf(field: Field, _: str) -> Hit:
    with shaky(field):
        began = time.monotonic()
        field.system.proxies.set_deaf(POSTGRES, deaf=True)
        time.sleep(field.rng.uniform(3, 8))
        field.system.proxies.set_deaf(POSTGRES, deaf=False)
        ended = time.monotonic()
        field.flow.until_processed(field.flow.processed())
    return Hit(POSTGRES, began, ended, "end")


def _postgres_slow(field: Field, _: str) -> Hit:
    with shaky(field):
        began = time.monotonic()
        field.system.proxies.set_delay(POSTGRES, field.rng.uniform(0.5, 1.5) * _SLOW_S)
        time.sleep(field.rng.uniform(4, 8))
        field.system.proxies.set_delay(POSTGRES, 0.0)
        ended = time.monotonic()
        field.flow.until_processed(field.flow.processed())
    return Hit(POSTGRES, began, ended, "end")


# -- Kafka


def _any_broker(field: Field) -> str:
    return f"kafka-{field.rng.randrange(field.system.cluster.brokers)}"


def _leader(field: Field) -> str:
    partition = field.rng.randrange(PARTITIONS)
    return _asked(field, lambda: field.system.kafka.leader(topics.EVENTS, partition))


def _coordinator(field: Field) -> str:
    return _asked(field, lambda: field.system.kafka.coordinator(GROUP))


def _asked(field: Field, ask: Callable[[], int]) -> str:
    found: list[int] = []

    def told() -> bool:
        try:
            found.append(ask())
        except (KafkaError, TimeoutError):
            return False
        return found[-1] > 0

    wait_for(told, "Kafka tells who leads")
    del field
    return f"kafka-{found[-1] - 1}"


def _broker(choose: Callable[[Field], str], number: signal.Signals, field: Field, _: str) -> Hit:
    """End a broker; its like are needed for the next one, so all must be there before and after."""
    _whole_cluster(field)
    name = choose(field)
    began = time.monotonic()
    field.system.signal(name, number)
    ended = time.monotonic()
    field.flow.until_processed(field.flow.processed())
    return Hit(name, began, ended)


def _whole_cluster(field: Field) -> None:
    wait_for(lambda: local_kafka.ready(field.system.cluster), "all brokers have joined")


def _kafka_deaf(side: str, field: Field, _: str) -> Hit:
    began = time.monotonic()
    field.system.proxies.set_deaf(side, deaf=True)
    time.sleep(field.rng.uniform(3, 9))
    before = field.flow.processed()
    field.system.proxies.set_deaf(side, deaf=False)
    ended = time.monotonic()
    if side == KAFKA_OF_GATEWAYS:
        field.flow.until_accepted(field.system.urls, ended)
    else:
        field.flow.until_processed(before)
    return Hit(f"Kafka of {side}", began, ended, "end")


# -- everything


def _everything(field: Field, _: str) -> Hit:
    with shaky(field):
        field.flow.close()
        began = time.monotonic()
        for name in field.system.names():
            field.system.signal(name, signal.SIGKILL)
        ended = time.monotonic()
        field.flow.until_processed(field.flow.processed())
        field.flow.until_accepted(field.system.urls, ended)
    return Hit("everything", began, ended)


GATEWAYS = [
    Fault("gateway SIGKILL", partial(_gateway, signal.SIGKILL)),
    Fault("gateway SIGTERM", partial(_gateway, signal.SIGTERM)),
]
DATABASE = [
    Fault("Postgres SIGKILL", _postgres_killed),
    Fault("Postgres restarted", _postgres_restarted),
    Fault("Postgres refusing", _postgres_refusing),
    Fault("Postgres slow", _postgres_slow),
    Fault("Postgres deaf", _postgres_deaf),
]
KAFKA = [
    Fault("broker SIGKILL", partial(_broker, _any_broker, signal.SIGKILL)),
    Fault("broker SIGTERM", partial(_broker, _any_broker, signal.SIGTERM)),
    Fault("partition leader SIGKILL", partial(_broker, _leader, signal.SIGKILL)),
    Fault("group coordinator SIGKILL", partial(_broker, _coordinator, signal.SIGKILL)),
    Fault("Kafka deaf to gateways", partial(_kafka_deaf, KAFKA_OF_GATEWAYS)),
    Fault("Kafka deaf to workers", partial(_kafka_deaf, KAFKA_OF_WORKERS)),
]
EVERYTHING = Fault("everything SIGKILL", _everything)
