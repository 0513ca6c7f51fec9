"""Kafka's request Produce, version 7 (brokers from 2.1 on): the batches of some partitions of one topic.

Written out by hand, since aiokafka's description of it, walked field by field, costs a partition more than its records.
It stands in for what aiokafka takes for a request: as its builder, as what it builds, and as its response's type.
"""

import struct
from collections.abc import Mapping
from io import BytesIO
from typing import NamedTuple

from aiokafka.errors import IncompatibleBrokerVersion

API_KEY = 0
API_VERSION = 7
ACKS_ALL = -1

_head = struct.Struct(">hhih").pack  # API, version, correlation id, length of the client's id
_begin = struct.Struct(">hhiih").pack  # no transaction, acks, timeout, one topic, length of its name
_int32 = struct.Struct(">i").pack
_partition = struct.Struct(">ii").pack  # number, length of the batch

_read_int16 = struct.Struct(">h").unpack_from
_read_int32 = struct.Struct(">i").unpack_from
_RESULT = struct.Struct(">ihqqq")  # partition, error code, offset, time of appending, the log's first offset


class _Head(NamedTuple):
    content: bytes

    def encode(self) -> bytes:
        return self.content


class _ResponseHead(NamedTuple):
    correlation_id: int


class ErrorCodes(dict[int, int]):
    """The response: an error code (0: none) by partition. Raises struct.error where the bytes are no such response."""

    @classmethod
    def decode(cls, rest: BytesIO) -> "ErrorCodes":
        """Read what follows the response's head."""
        data = rest.read()
        codes = cls()
        (topics,) = _read_int32(data)
        at = 4
        for _ in range(topics):
            (name_length,) = _read_int16(data, at)
            at += 2 + name_length
            (partitions,) = _read_int32(data, at)
            at += 4
            for _ in range(partitions):
                partition, code, *_ = _RESULT.unpack_from(data, at)
                codes[partition] = code
                at += _RESULT.size
        return codes


class ProduceRequest:
    """The request; `batches` are by partition, `timeout_ms` is the broker's for its replicas."""

    RESPONSE_TYPE = ErrorCodes

    def __init__(self, topic: str, timeout_ms: int, batches: Mapping[int, bytes]) -> None:
        self._topic = topic.encode()
        self._timeout_ms = timeout_ms
        self._batches = batches

    def prepare(self, versions: Mapping[int, tuple[int, int]]) -> "ProduceRequest":
        """Itself, where the broker speaks this version. Raises IncompatibleBrokerVersion."""
        lowest, highest = versions.get(API_KEY, (0, 0))
        if not lowest <= API_VERSION <= highest:
            raise IncompatibleBrokerVersion(f"the broker does not speak version {API_VERSION} of Produce")
        return self

    def build_request_header(self, correlation_id: int, client_id: str) -> _Head:
        """The head that every request has."""
        name = client_id.encode()
        return _Head(_head(API_KEY, API_VERSION, correlation_id, len(name)) + name)

    def encode(self) -> bytes:
        """What follows the head."""
        parts = [_begin(-1, ACKS_ALL, self._timeout_ms, 1, len(self._topic)), self._topic, _int32(len(self._batches))]
        for partition, batch in self._batches.items():
            parts += (_partition(partition, len(batch)), batch)
        return b"".join(parts)

    def parse_response_header(self, data: BytesIO) -> _ResponseHead:
        """The head that every response has."""
        return _ResponseHead(*_read_int32(data.read(4)))
