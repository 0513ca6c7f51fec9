"""The plain stores under the dedupe table."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from processors.table_store import MemoryStore, RocksStore, TableStore


@pytest.fixture(params=["rocksdb", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TableStore:
    """An empty store of each kind."""
    return MemoryStore() if request.param == "memory" else RocksStore(tmp_path / "store")


def test_returns_values_in_the_order_of_the_keys_and_none_for_what_is_missing(store: TableStore) -> None:
    store.put_many(3, [(b"a" * 16, b"1"), (b"b" * 16, b"2")], 7)
    assert store.get_many(3, [b"b" * 16, b"c" * 16, b"a" * 16, b"b" * 16]) == [b"2", None, b"1", b"2"]
    assert store.get_many(3, []) == []


def test_partitions_are_apart(store: TableStore) -> None:
    store.put_many(1, [(b"k", b"one")], 1)
    store.put_many(2, [(b"k", b"two")], 2)
    assert store.get_many(1, [b"k"]) == [b"one"]
    store.wipe(1)
    assert (store.get_many(1, [b"k"]), store.offset(1)) == ([None], None)
    assert (store.get_many(2, [b"k"]), store.offset(2)) == ([b"two"], 2)


def test_a_later_value_wins_and_none_removes(store: TableStore) -> None:
    store.put_many(0, [(b"k", b"1"), (b"k", b"2"), (b"gone", b"1"), (b"gone", None)], 0)
    assert store.get_many(0, [b"k", b"gone"]) == [b"2", None]


def test_an_unknown_offset_keeps_the_one_before(store: TableStore) -> None:
    assert store.offset(0) is None
    store.put_many(0, [(b"a", b"1")], 41)
    store.put_many(0, [(b"b", b"1")], None)
    assert store.offset(0) == 41


def test_what_was_closed_is_found_again(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    store.put_many(0, ((b"%016d" % number, b"v") for number in range(10_000)), 9_999)
    store.close()
    again = RocksStore(tmp_path / "store")
    assert again.get_many(0, [b"%016d" % 9_999]) == [b"v"]
    assert again.offset(0) == 9_999


_WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from processors.table_store import RocksStore
store = RocksStore(Path(sys.argv[1]))
for start in range(0, 600_000, 2_000):
    store.put_many(0, ((b"%016d" % number, b"x" * 40) for number in range(start, start + 2_000)), start + 1_999)
os._exit(9)
"""


def test_after_a_crash_the_offset_does_not_lead_the_entries(tmp_path: Path) -> None:
    path = tmp_path / "store"
    subprocess.run([sys.executable, "-c", _WRITE_AND_DIE, str(path)], check=False)
    store = RocksStore(path)
    offset = store.offset(0)
    # More was written than fits in the buffers: some of it is on the disk, the rest is lost, offset and entries alike.
    assert offset is not None
    assert offset < 599_999
    for start in range(0, offset + 1, 10_000):
        keys = [b"%016d" % number for number in range(start, min(start + 10_000, offset + 1))]
        assert None not in store.get_many(0, keys)


def test_a_folder_that_is_no_store_is_wiped(tmp_path: Path) -> None:
    path = tmp_path / "store"
    RocksStore(path).close()
    for file in path.iterdir():
        file.write_bytes(b"no")
    store = RocksStore(path)
    assert store.offset(0) is None
    store.put_many(0, [(b"k", b"v")], 1)
    assert store.get_many(0, [b"k"]) == [b"v"]
    store.close()
    shutil.rmtree(path)
