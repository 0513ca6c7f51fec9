"""How Headrace's clients reach Kafka, in one place for all rooms: connections in aiokafka's words, and partitions."""

import ssl
from functools import lru_cache
from typing import Any

from aiokafka.partitioner import murmur2  # a function of bytes: no client comes with it

from schemas.settings import Settings

# A record is an event and its few names; the brokers' topics take 2 MiB (schemas/topics.py).
REQUEST_BYTES_MAX = 2_097_152
BATCH_BYTES_MAX = 1_048_576


def connection(settings: Settings) -> dict[str, Any]:
    """Keyword arguments with which any aiokafka client connects: addresses, TLS and SASL."""
    given: dict[str, Any] = {
        "bootstrap_servers": settings.kafka,
        "security_protocol": settings.kafka_security_protocol,
        "request_timeout_ms": 30_000,
        "retry_backoff_ms": 100,
        "metadata_max_age_ms": 60_000,
    }
    if "SSL" in settings.kafka_security_protocol:
        given["ssl_context"] = tls(settings)
    if "SASL" in settings.kafka_security_protocol:
        given["sasl_mechanism"] = settings.kafka_sasl_mechanism
        given["sasl_plain_username"] = settings.kafka_sasl_username
        given["sasl_plain_password"] = settings.kafka_sasl_password
    return given


def tls(settings: Settings) -> ssl.SSLContext:
    """What a connection with TLS needs. Raises OSError or ssl.SSLError for files that cannot be used."""
    context = ssl.create_default_context(cafile=settings.kafka_ssl_cafile or None)
    if settings.kafka_ssl_certfile:
        context.load_cert_chain(settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile or None)
    return context


def producing(settings: Settings) -> dict[str, Any]:
    """Keyword arguments of every producer: all in-sync replicas must have it, nothing is sent twice."""
    return connection(settings) | {
        "acks": "all",
        "enable_idempotence": True,
        "linger_ms": 0,
        "max_batch_size": max(BATCH_BYTES_MAX, settings.max_event_bytes + 65_536),
        "max_request_size": max(REQUEST_BYTES_MAX, settings.max_event_bytes + 131_072),
    }


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition in which Java's default partitioner puts `key`: murmur2, as in every standard client."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
