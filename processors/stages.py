"""The stages of a processor that has none: all of its work is the commit, one chunk after the other."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from processors.ports import Entries, Entry, Part, Processor, StagedProcessor


class _Done(NamedTuple):
    entries: Entries


class _OneByOne:
    def __init__(self, processor: Processor) -> None:
        self.start = processor.start
        self.stop = processor.stop
        self.process_chunk = processor.process_chunk

    async def read(self, parts: Sequence[Part]) -> Sequence[Part]:
        return parts

    async def commit(self, parts: Sequence[Part]) -> _Done:
        entries: dict[int, list[Entry]] = {}
        for part in parts:
            if part.records:
                brought = await self.process_chunk(part.topic, part.partition, part.records)
                entries.setdefault(part.partition, []).extend(brought)
        return _Done({partition: kept for partition, kept in entries.items() if kept})

    async def tell(self, _: _Done) -> None:
        """Nothing: what is to be told was told with each chunk."""


def staged(processor: Processor) -> StagedProcessor:
    """`processor` itself where it has stages, else in clothes that have them."""
    return cast(StagedProcessor, processor) if hasattr(processor, "commit") else _OneByOne(processor)
