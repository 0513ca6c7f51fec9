"""The dedupe table: a Faust table of raw bytes whose writes and recovery go by the chunk, not by the key."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import faust
from faust.stores.base import Store
from faust.types import TP, AppT, EventT
from yarl import URL

from processors import exits, failpoints, metrics
from processors.chunks import Bundle, ChunkSchema
from processors.ports import Entries
from processors.producer import BatchSender
from processors.table_store import MemoryStore, RocksStore, StoreError, TableStore
from schemas.topics import DEDUPE_TABLE

_NONE: Mapping[bytes, bytes] = {}


class DedupeStore(Store[bytes, bytes]):
    """Stands between Faust's recovery and the plain store. A store that fails ends the process.

    Faust's recovery logs errors and goes on as if the entries were there; that must not happen.
    """

    kept: TableStore
    on_progress: Callable[[], None] = staticmethod(lambda: None)
    """Called after each piece of the table that was recovered."""

    async def on_start(self) -> None:
        """Open the store, from the start with an empty one if what lies there cannot be used."""
        try:
            self.kept = MemoryStore() if self.url.scheme == "memory" else RocksStore(self.app.conf.tabledir / "dedupe")
        except (StoreError, OSError) as error:
            exits.leave(exits.TABLE, str(error))

    async def on_stop(self) -> None:
        """Write what is in memory, so that the next start reads only what came later."""
        self.kept.close()

    def persisted_offset(self, tp: TP) -> int | None:
        """The changelog offset up to which the store is complete."""
        try:
            return self.kept.offset(tp.partition)
        except StoreError as error:
            exits.leave(exits.TABLE, str(error))

    def wipe(self, tp: TP) -> None:
        """Forget a partition, to be read from the changelog again."""
        try:
            self.kept.wipe(tp.partition)
        except StoreError as error:
            exits.leave(exits.TABLE, str(error))

    def apply_changelog_batch(self, batch: Iterable[EventT[Any]], to_key: Any, to_value: Any) -> None:
        """Apply chunks of changelog records, each with the offset of its end."""
        for event in batch:
            (chunk,) = cast(Bundle, event.message.value)
            entries = ((record.key, record.value) for record in chunk.records if record.key is not None)
            try:
                self.kept.put_many(chunk.tp.partition, entries, chunk.end - 1)
            except Exception as error:  # noqa: BLE001 - Faust would log it, and take the entries as read
                exits.leave(exits.TABLE, f"the table cannot be recovered: {error}")
            self.on_progress()

    def reset_state(self) -> None:
        """Nothing: Faust asks for this only from its own command line."""

    async def backup_partition(self, tp: Any, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Not offered: the changelog is the backup."""
        raise NotImplementedError

    def restore_backup(self, tp: Any, latest: bool = True, backup_id: int = 0) -> None:
        """Not offered: the changelog is the backup."""
        raise NotImplementedError


class DedupeTable(faust.Table[bytes, bytes]):
    """Who owns a key: by partition of the source topic, 16-byte id → what the processor keeps of the winner."""

    def __init__(
        self, app: AppT, *, store: str, partitions: int, on_progress: Callable[[], None], **kwargs: Any
    ) -> None:
        kwargs.setdefault("name", DEDUPE_TABLE)
        self._on_progress = on_progress
        self._coming: deque[dict[int, dict[bytes, bytes]]] = deque()
        # Faust resumes reading the changelog after recovery when the buffer is 1; 2 is the least that does not.
        super().__init__(
            app,
            store=store,
            partitions=partitions,
            key_type=bytes,
            value_type=bytes,
            schema=ChunkSchema(),
            recovery_buffer_size=2,
            **kwargs,
        )

    def _new_store_by_url(self, url: str | URL) -> DedupeStore:
        store = DedupeStore(url, self.app, self, table_name=self.name, loop=self.loop)
        store.on_progress = self._on_progress
        return store

    @property
    def _kept(self) -> TableStore:
        return cast(DedupeStore, self.data).kept

    def forget(self, tp: TP) -> None:
        """Wipe what the store holds of a changelog partition, to be read from there again."""
        cast(DedupeStore, self.data).wipe(tp)

    def entries(self) -> int:
        """How many keys it has, about."""
        return self._kept.entries()

    def lookup(self, partition: int, ids: Sequence[bytes]) -> list[bytes | None]:
        """The value of each id, None where there is none. Raises :class:`processors.table_store.StoreError`."""
        values = self._kept.get_many(partition, ids)
        for coming in self._coming:
            get = coming.get(partition, _NONE).get
            values = [get(id_, value) for id_, value in zip(ids, values, strict=True)]
        return values

    def expect(self, entries: Entries) -> None:
        """Have lookups find `entries`, which are committed in Postgres, and which :meth:`write` is given next."""
        self._coming.append({partition: dict(kept) for partition, kept in entries.items()})

    async def write(self, entries: Entries, sender: BatchSender) -> None:
        """Write entries to the changelog; wait for its acknowledgement; then write them to the store.

        They are those of the earliest :meth:`expect` not written yet. Raises :class:`processors.producer.ProduceError`
        or :class:`processors.table_store.StoreError`.
        """
        topic = self.changelog_topic_name
        with metrics.timed(metrics.CHANGELOG.observe):
            offsets = await asyncio.gather(*(sender.send_entries(topic, *one) for one in entries.items()))
        if failpoints.ON:
            failpoints.hit(failpoints.AFTER_CHANGELOG)
        for (partition, kept), offset in zip(entries.items(), offsets, strict=True):
            self._kept.put_many(partition, kept, offset)
        self._coming.popleft()
