from collections.abc import Callable, Mapping, Sequence
from typing import Any

from schemas.event import Event
from schemas.identity import Program

class Reader:
    def __init__(
        self,
        event: type[Event],
        programs: Mapping[str, Program | None],
        sha1: Callable[[bytes], Any],
        sha256: Callable[[bytes], Any],
        data_bytes_max: int,
    ) -> None: ...
    def read(self, raw: bytes, /) -> Event | None: ...
    def read_many(self, raws: Sequence[bytes], /) -> list[Event | None]: ...
    def read_batch(self, raw: bytes, /) -> list[Event] | None: ...
