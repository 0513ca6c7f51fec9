"""Where the dedupe table lies on this machine: RocksDB, or memory. Plain key-value stores that know nothing of Kafka.

Each partition's entries and the changelog offset up to which they go are written in one step, so that the offset never
leads the data. RocksDB's own log is off: the changelog is the log, and a restart reads again what was lost with it.
"""

import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from schemas.topics import DEDUPE_DAYS

MIB = 1024 * 1024
BLOCK_CACHE_BYTES = 64 * MIB
WRITE_BUFFER_BYTES = 16 * MIB
WRITE_BUFFERS_MAX = 3
BLOOM_BITS_PER_KEY = 10
ENTRY_TTL_S = DEDUPE_DAYS * 24 * 3600
"""Age at which a compaction may drop an entry: that at which the changelog does."""

_OFFSET_KEY = b"offset"
_BROKEN_MARK = "broken"
_FULL = ("No space left", "Disk quota exceeded", "File too large")
"""How the system says that there is no room. That is no damage: what is there is good, and would only be read again."""

_log = logging.getLogger(__name__)


class StoreError(RuntimeError):
    """The store cannot be read or written. It is marked as broken: the next start wipes and rebuilds it."""


class TableStore(Protocol):
    """Entries by partition, and up to which changelog offset they go."""

    def get_many(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, None where there is none."""
        ...

    def put_many(self, partition: int, entries: Iterable[tuple[bytes, bytes | None]], offset: int | None) -> None:
        """Write entries (value None: remove) and, unless None, the offset of the last changelog record they hold."""
        ...

    def offset(self, partition: int) -> int | None:
        """The last changelog offset that the entries hold; None when nothing is known."""
        ...

    def wipe(self, partition: int) -> None:
        """Forget a partition's entries and offset."""
        ...

    def entries(self) -> int:
        """How many there are, about."""
        ...

    def close(self) -> None:
        """Write what is in memory and let go of the files."""
        ...


class MemoryStore:
    """Entries in dictionaries; gone with the process."""

    def __init__(self) -> None:
        self._entries: dict[int, dict[bytes, bytes]] = {}
        self._offsets: dict[int, int] = {}

    def get_many(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """See :class:`TableStore`."""
        get = self._entries.get(partition, {}).get
        return [get(key) for key in keys]

    def put_many(self, partition: int, entries: Iterable[tuple[bytes, bytes | None]], offset: int | None) -> None:
        """See :class:`TableStore`."""
        kept = self._entries.setdefault(partition, {})
        for key, value in entries:
            if value is None:
                kept.pop(key, None)
            else:
                kept[key] = value
        if offset is not None:
            self._offsets[partition] = offset

    def offset(self, partition: int) -> int | None:
        """See :class:`TableStore`."""
        return self._offsets.get(partition)

    def wipe(self, partition: int) -> None:
        """See :class:`TableStore`."""
        self._entries.pop(partition, None)
        self._offsets.pop(partition, None)

    def entries(self) -> int:
        """See :class:`TableStore`."""
        return sum(map(len, self._entries.values()))

    def close(self) -> None:
        """See :class:`TableStore`."""
        self._entries.clear()
        self._offsets.clear()


class RocksStore:
    """All partitions of one worker in one RocksDB: one cache, one set of write buffers, keys prefixed by partition."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._write_options = WriteOptions()
        self._write_options.disable_wal = True  # type: ignore[method-assign, assignment]  # a property; the stub is wrong
        self._db = _open(path)

    def get_many(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """See :class:`TableStore`. Raises :class:`StoreError`."""
        prefix = _prefix(partition)
        try:
            return cast(list[bytes | None], self._db.get([prefix + key for key in keys]))
        except Exception as error:  # rocksdict raises bare Exception for whatever RocksDB reports
            raise self._broken(error) from error

    def put_many(self, partition: int, entries: Iterable[tuple[bytes, bytes | None]], offset: int | None) -> None:
        """See :class:`TableStore`. Raises :class:`StoreError`."""
        prefix = _prefix(partition)
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        for key, value in entries:
            if value is None:
                batch.delete(prefix + key)
            else:
                put(prefix + key, value)
        if offset is not None:
            put(_OFFSET_KEY + prefix, b"%d" % offset)
        self._write(batch)

    def offset(self, partition: int) -> int | None:
        """See :class:`TableStore`. Raises :class:`StoreError`."""
        try:
            kept = self._db.get(_OFFSET_KEY + _prefix(partition))
        except Exception as error:  # as above
            raise self._broken(error) from error
        return None if kept is None else int(kept)

    def wipe(self, partition: int) -> None:
        """See :class:`TableStore`. Raises :class:`StoreError`."""
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(_prefix(partition), _prefix(partition + 1))
        batch.delete(_OFFSET_KEY + _prefix(partition))
        self._write(batch)

    def entries(self) -> int:
        """See :class:`TableStore`. RocksDB estimates: of a key written twice it may count both."""
        return self._db.property_int_value("rocksdb.estimate-num-keys") or 0

    def close(self) -> None:
        """See :class:`TableStore`. What cannot be written is read from the changelog again at the next start."""
        try:
            self._db.flush()
        except Exception as error:  # noqa: BLE001 - as above; closing goes on, since nothing is lost by it
            _log.warning("table store not flushed: %s", error)
        self._db.close()

    def _write(self, batch: WriteBatch) -> None:
        try:
            self._db.write(batch, self._write_options)
        except Exception as error:  # as above
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> StoreError:
        if not _is_full(error):
            (self._path / _BROKEN_MARK).touch()
        return StoreError(f"table store {self._path}: {error}")


def _is_full(error: Exception) -> bool:
    return any(word in str(error) for word in _FULL)


def _prefix(partition: int) -> bytes:
    return partition.to_bytes(4, "big")


def _open(path: Path) -> Rdict:
    path.parent.mkdir(parents=True, exist_ok=True)
    if (path / _BROKEN_MARK).exists():
        _log.warning("table store %s was found broken: wiped, to be rebuilt from the changelog", path)
        shutil.rmtree(path)
    try:
        return _open_once(path)
    except Exception as error:  # as above
        if "lock" in str(error).lower():
            raise StoreError(f"table store {path} is in use: is another worker with this id running?") from error
        if _is_full(error):
            raise StoreError(f"table store {path}: {error}") from error
        _log.warning("table store %s cannot be opened (%s): wiped, to be rebuilt from the changelog", path, error)
    shutil.rmtree(path, ignore_errors=True)
    return _open_once(path)


def _open_once(path: Path) -> Rdict:
    return Rdict(str(path), _options(), access_type=AccessType.with_ttl(ENTRY_TTL_S))


def _options() -> Any:
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(BLOCK_CACHE_BYTES))
    # Most lookups are of new keys: the filter answers those without touching a block.
    blocks.set_bloom_filter(BLOOM_BITS_PER_KEY, block_based=False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX)
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(0.05)
    # Ids and fingerprints are random bytes: compressing them would only cost.
    options.set_compression_type(DBCompressionType.none())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(4 * MIB)
    return options
