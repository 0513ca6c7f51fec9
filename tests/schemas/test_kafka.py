"""Partitions as Java's clients choose them, and clients that keep what they promise."""

import uuid

import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from schemas import kafka
from schemas.kafka import partition_of, producing
from schemas.settings import Settings

# From the tests of Apache Kafka's own clients (UtilsTest.testMurmur2).
JAVA_MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "java"), JAVA_MURMUR2.items())
def test_partition_is_javas(key: bytes, java: int) -> None:
    signed = murmur2(key) & 0xFFFFFFFF
    assert (signed ^ 0x80000000) - 0x80000000 == java
    for partitions in (1, 6, 12, 1000):
        assert partition_of(key, partitions) == (java & 0x7FFFFFFF) % partitions


@given(st.binary(max_size=40), st.integers(1, 5_000))
def test_partition_is_one_of_those_there_are(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


def test_programs_spread_over_the_partitions() -> None:
    counts = [0] * 12
    for number in range(6_000):
        counts[partition_of(str(uuid.UUID(int=number)).encode(), 12)] += 1
    assert min(counts) > 350


def test_producers_wait_for_all_replicas_and_send_nothing_twice() -> None:
    given_settings = producing(Settings(kafka="a:1,b:2", max_event_bytes=3_000_000))
    assert (given_settings["acks"], given_settings["enable_idempotence"]) == ("all", True)
    assert given_settings["bootstrap_servers"] == "a:1,b:2"
    assert given_settings["max_batch_size"] > 3_000_000
    assert given_settings["max_request_size"] > given_settings["max_batch_size"]


def test_sasl_and_tls_are_given_only_where_they_are_asked_for() -> None:
    plain = kafka.connection(Settings(kafka_sasl_username="u", kafka_sasl_password="p"))
    assert not {"ssl_context", "sasl_mechanism", "sasl_plain_password"} & plain.keys()
    secure = kafka.connection(
        Settings(kafka_security_protocol="SASL_SSL", kafka_sasl_mechanism="SCRAM-SHA-512", kafka_sasl_password="p")
    )
    assert (secure["sasl_mechanism"], secure["sasl_plain_password"]) == ("SCRAM-SHA-512", "p")
    assert secure["ssl_context"].check_hostname is True
