"""Settings: every one comes from the environment, with the prefix ``HEADRACE_``.

One struct holds each setting with its type, default, unit and meaning; ``docs/settings.md`` is held to it by a
test. All mistakes are reported in one message, not the first only.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

PREFIX = "HEADRACE_"

_COUNT = msgspec.Meta(ge=1)
_SECONDS = msgspec.Meta(gt=0, le=86_400)


def _doc(text: str, unit: str | None = None) -> msgspec.Meta:
    return msgspec.Meta(description=text, extra={"unit": unit})


class SettingsError(ValueError):
    """One or more settings cannot be used; the message names each of them."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set. Names in the environment are the field names in capitals behind ``HEADRACE_``."""

    kafka: Annotated[str, _doc("Kafka bootstrap servers, separated by commas", "host:port")] = "127.0.0.1:9092"
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], _doc("How to talk to the brokers")
    ] = "PLAINTEXT"
    kafka_sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], _doc("SASL mechanism, used with a SASL protocol")
    ] = "PLAIN"
    kafka_sasl_username: Annotated[str, _doc("SASL user name")] = ""
    kafka_sasl_password: Annotated[str, _doc("SASL password")] = ""
    kafka_ssl_cafile: Annotated[str, _doc("CA certificates for the brokers; empty: the system's", "path")] = ""
    kafka_ssl_certfile: Annotated[str, _doc("Client certificate, where brokers ask for one", "path")] = ""
    kafka_ssl_keyfile: Annotated[str, _doc("The client certificate's private key", "path")] = ""
    partitions: Annotated[int, _COUNT, _doc("Partitions of each topic that `headrace migrate` creates", "count")] = 12
    replication_factor: Annotated[
        int, _COUNT, _doc("Replicas of each topic that `headrace migrate` creates; 3 in production", "count")
    ] = 1
    database_url: Annotated[str, _doc("PostgreSQL connection", "libpq URL")] = (
        "postgresql://headrace@127.0.0.1:5432/headrace"
    )
    database_pool_max: Annotated[int, _COUNT, _doc("Connections to Postgres per process", "count")] = 8
    database_timeout_s: Annotated[
        float,
        _SECONDS,
        _doc(
            "Longest wait for a connection or a statement of the gateway; workers, who free claims, need the same",
            "s",
        ),
    ] = 5.0

    host: Annotated[str, _doc("Address on which the gateway listens", "address")] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535), _doc("Port on which the gateway listens", "port")] = 8080
    max_event_bytes: Annotated[int, _COUNT, _doc("Largest `event_data`, serialized", "bytes")] = 65_536
    max_body_bytes: Annotated[int, _COUNT, _doc("Largest request body, after decompression", "bytes")] = 8 * 1024 * 1024
    body_timeout_s: Annotated[float, _SECONDS, _doc("Longest time a request body may take to arrive", "s")] = 30.0
    headers_timeout_s: Annotated[float, _SECONDS, _doc("Longest time a request's headers may take to arrive", "s")] = (
        10.0
    )
    max_in_flight_events: Annotated[
        int, _COUNT, _doc("Events a gateway process holds before it answers 503", "events")
    ] = 20_000
    idempotency_check: Annotated[
        Literal["strict", "deferred"],
        _doc("strict: keys are claimed in Postgres before Kafka, so conflicts answer 409; deferred: processors judge"),
    ] = "strict"
    programs: Annotated[
        Literal["open", "registered"],
        _doc("open: any UUID is a program; registered: only those of `headrace programs`"),
    ] = "open"
    rate_events_per_s: Annotated[
        float, msgspec.Meta(ge=0), _doc("Events per second and key, all gateways together; 0: no limit", "events/s")
    ] = 0.0
    produce_timeout_ms: Annotated[
        int, _COUNT, _doc("Longest wait for Kafka's acknowledgement before an event answers 503", "ms")
    ] = 10_000
    claim_ttl_s: Annotated[
        int, _COUNT, _doc("Age after which a claim whose record never reached Kafka is freed", "s")
    ] = 600

    group: Annotated[str, msgspec.Meta(min_length=1), _doc("Consumer group of the processors")] = "headrace"
    worker_id: Annotated[
        str, _doc("Stable name of a worker: its static membership in the group and its table's folder")
    ] = "worker-0"
    handlers: Annotated[str, _doc("Handlers, in order, separated by commas", "module:name")] = (
        "processors.handlers.participants:participants,processors.handlers.rollups:rollups"
    )
    handler_timeout_s: Annotated[float, _SECONDS, _doc("Longest time the handlers may take for one chunk", "s")] = 30.0
    chunk_events_max: Annotated[int, _COUNT, _doc("Most records of one Postgres transaction", "events")] = 4_000
    table_store: Annotated[Literal["rocksdb", "memory"], _doc("Where a worker keeps its dedupe table")] = "rocksdb"
    table_dir: Annotated[str, _doc("Folder of the workers' dedupe tables", "path")] = ".headrace/tables"
    session_timeout_ms: Annotated[
        int, msgspec.Meta(ge=6_000), _doc("Silence after which the group takes a worker's partitions away", "ms")
    ] = 12_000

    stall_timeout_s: Annotated[
        float,
        msgspec.Meta(ge=1, le=86_400),
        _doc("A worker with work and no progress for so long ends with code 75", "s"),
    ] = 60.0
    worker_metrics_port: Annotated[
        int,
        msgspec.Meta(ge=0, le=65535),
        _doc("Port of a worker's `/metrics`, on the address HEADRACE_HOST; 0: none", "port"),
    ] = 0

    ready_file: Annotated[str, _doc("A worker creates this file when it is ready; empty: none", "path")] = ""
    log_format: Annotated[Literal["console", "json"], _doc("Form of log lines")] = "console"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _doc("Least severe level logged")] = "info"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `environ` (default: the process's environment).

    Raises :class:`SettingsError` naming every value that cannot be used and every unknown ``HEADRACE_`` name.
    """
    environ = os.environ if environ is None else environ
    given = {name[len(PREFIX) :].lower(): value for name, value in environ.items() if name.startswith(PREFIX)}
    hints = get_type_hints(Settings, include_extras=True)
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for field, text in sorted(given.items()):
        if field.startswith("test_"):
            continue
        if field not in hints:
            wrong.append(f"{PREFIX}{field.upper()}: unknown setting")
            continue
        try:
            values[field] = msgspec.convert(text, hints[field], strict=False)
        except msgspec.ValidationError as error:
            shown = "***" if "password" in field else repr(text)
            wrong.append(f"{PREFIX}{field.upper()}={shown}: {error}")
    if wrong:
        raise SettingsError("settings cannot be used:\n  " + "\n  ".join(wrong))
    return Settings(**values)


def describe() -> list[tuple[str, str, str, str]]:
    """Each setting as (environment name, default, unit, meaning), in the order of the struct."""
    hints = get_type_hints(Settings, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(Settings):
        metas = [meta for meta in get_args(hints[field.name]) if isinstance(meta, msgspec.Meta)]
        doc = next(meta for meta in metas if meta.description)
        unit = (doc.extra or {}).get("unit") or ""
        rows.append((PREFIX + field.name.upper(), str(field.default), unit, doc.description or ""))
    return rows
