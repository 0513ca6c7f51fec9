"""What travels through Faust in place of single messages: chunks of records, each of one partition."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from faust.serializers.schemas import Schema
from faust.types import TP, AppT, ConsumerMessage, EventT, Message

from processors.ports import Record

Records = list[Record]


class Chunk(NamedTuple):
    """Records of one partition, as fetched, that cover the offsets [`start`, `end`).

    There can be fewer records than offsets, even none: compaction and transaction markers leave holes.
    """

    tp: TP
    start: int
    end: int
    records: Records
    generation: int
    """Generation of the consumer group under which it was fetched."""
    first: bool
    """Whether nothing was taken from the partition before, since it was assigned."""
    ticket: int | None = None
    """What the ledger knows it by; None for changelogs, which are not acknowledged."""


Bundle = list[Chunk]
"""Chunks of different partitions that go to the agent together; of a changelog, always a single one."""


def to_message(bundle: Bundle) -> ConsumerMessage:
    """The Faust message that carries `bundle`; to Faust it is a message of the first chunk's last offset."""
    first = bundle[0]
    return ConsumerMessage(
        first.tp.topic,
        first.tp.partition,
        first.end - 1,
        first.records[-1].timestamp / 1000 if first.records else 0.0,
        0,
        [],
        None,
        bundle,  # type: ignore[arg-type]  # a list where Faust expects bytes: ChunkSchema passes it on untouched
        None,
        0,
        0,
        first.tp,
        generation_id=first.generation,
    )


class ChunkSchema(Schema[None, Bundle]):
    """Hands the chunks on as they are: what cannot be decoded must reach the agent, not be acknowledged before it."""

    def compile(self, app: AppT, **_: Any) -> Callable[..., Awaitable[EventT[Any]]]:
        """The function that Faust calls for each message."""
        create_event = app.create_event

        async def decode(message: Message, **_: bool) -> EventT[Any]:
            return create_event(None, message.value, {}, message)

        return decode
