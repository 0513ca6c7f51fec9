"""What cannot be saved: fetching the records, and having Postgres take the rows. Each is a process of its own.

``python -m tests.bench.floors consume KAFKA TOPIC RECORDS`` fetches with aiokafka and does nothing with them;
``python -m tests.bench.floors copy DATABASE_URL FILE`` sends prepared binary COPY streams, a transaction each.
"""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from processors.rows import COPY
from tests.bench.bed import PARTITIONS

_POLL_MS = 1_000
_length = struct.Struct("!Q")


async def _consume(bootstrap: str, topic: str, records: int) -> None:
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, max_partition_fetch_bytes=1_048_576) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        missing = records
        _begin()
        while missing > 0:
            found = await consumer.getmany(timeout_ms=_POLL_MS)
            missing -= sum(map(len, found.values()))
        _end()


def _copy(url: str, path: str) -> None:
    streams = list(read_streams(Path(path)))
    with psycopg.connect(url) as connection:
        _begin()
        for stream in streams:
            with connection.transaction(), connection.cursor() as cursor, cursor.copy(COPY) as copy:
                copy.write(stream)
        _end()


def _begin() -> None:
    """Tell the parent that the work begins, and wait until it has looked at the clocks."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def _end() -> None:
    sys.stdout.write("done\n")
    sys.stdout.flush()
    sys.stdin.readline()


def write_streams(path: Path, streams: Iterator[bytes]) -> None:
    """Keep COPY streams in a file."""
    with path.open("wb") as file:
        for stream in streams:
            file.write(_length.pack(len(stream)) + stream)


def read_streams(path: Path) -> Iterator[bytes]:
    """The COPY streams of a file."""
    content = path.read_bytes()
    at = 0
    while at < len(content):
        (size,) = _length.unpack_from(content, at)
        at += _length.size
        yield content[at : at + size]
        at += size


def main() -> None:
    """Entry point."""
    kind, *arguments = sys.argv[1:]
    if kind == "consume":
        uvloop.run(_consume(arguments[0], arguments[1], int(arguments[2])))
    else:
        _copy(*arguments)


if __name__ == "__main__":
    main()
