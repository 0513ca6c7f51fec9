"""What travels through Faust in place of single messages: a chunk of records of one partition."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from aiokafka import ConsumerRecord
from faust.serializers.schemas import Schema
from faust.types import TP, AppT, ConsumerMessage, EventT, Message

Records = list[ConsumerRecord[bytes | None, bytes | None]]


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


class ChunkMessage(ConsumerMessage):
    """A chunk as a Faust message: its value is the list of records, its offset the last one covered."""

    __slots__ = ("ticket",)

    ticket: int | None
    """What the ledger knows the chunk by; None for changelogs, which are not acknowledged."""


def to_message(chunk: Chunk, ticket: int | None) -> ChunkMessage:
    """The message that carries `chunk` through conductor, stream and agent."""
    timestamp = chunk.records[-1].timestamp / 1000 if chunk.records else 0.0
    message = ChunkMessage(
        chunk.tp.topic,
        chunk.tp.partition,
        chunk.end - 1,
        timestamp,
        0,
        [],
        None,
        chunk.records,  # type: ignore[arg-type]  # a list where Faust expects bytes: ChunkSchema passes it on untouched
        None,
        0,
        0,
        chunk.tp,
        generation_id=chunk.generation,
    )
    message.ticket = ticket
    return message


class ChunkSchema(Schema[None, Records]):
    """Hands the records on as they are: what cannot be decoded must reach the agent, not be acknowledged before it."""

    def compile(self, app: AppT, **_: Any) -> Callable[..., Awaitable[EventT[Any]]]:
        """The function that Faust calls for each message."""
        create_event = app.create_event

        async def decode(message: Message, *, propagate: bool = False) -> EventT[Any]:
            return create_event(None, message.value, {}, message)

        return decode
