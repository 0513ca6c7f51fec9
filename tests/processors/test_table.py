"""The dedupe table on a real Kafka: what it knows after crashes, with its folder gone, damaged or another's."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from processors import exits
from tests.processors.rig import Rig, Row

COUNT = 3_000


@pytest.fixture
def rig(kafka: str, tmp_path: Path) -> Iterator[Rig]:
    """A group of its own, whose worker has processed values 0 … COUNT - 1 and was killed."""
    rig = Rig(kafka, tmp_path)
    try:
        rig.fill(0, COUNT)
        rig.start()
        rig.wait_for_values(COUNT)
        # The last chunk's lines are there before its entries are: wait for what comes after them.
        rig.wait(lambda: sum(rig.ends(rig.changelog).values()) == COUNT, "changelog complete")
        rig.wait_for_commit()
        rig.kill()
        yield rig
    finally:
        rig.close()


def _again(rig: Rig, store: str = "rocksdb", worker_id: str = "w0") -> list[Row]:
    """Send every value once more; how a new worker saw them."""
    rig.start(worker_id, HEADRACE_TABLE_STORE=store)
    before = rig.ends(rig.sources[0])
    rig.fill(0, COUNT)

    def second() -> list[Row]:
        return [row for row in rig.rows() if row.offset >= before[row.partition]]

    rig.wait(lambda: len(second()) >= COUNT, "every value again")
    return second()


def _assert_all_known(rows: list[Row]) -> None:
    for row in rows:
        # Value `n` went to partition `n % 4` as its record number `n // 4`.
        assert row.known == f"{row.partition}:{int(row.value) // 4}"


def _table_files(rig: Rig) -> list[Path]:
    return [path for path in (rig.folder / "tables").rglob("*") if path.is_file()]


@pytest.mark.parametrize("store", ["rocksdb", "memory"])
def test_a_key_is_known_from_the_chunk_after_its_own(rig: Rig, store: str) -> None:
    rig.recreate_changelog()
    shutil.rmtree(rig.folder / "tables")
    rig.start(HEADRACE_TABLE_STORE=store)
    before = rig.ends(rig.sources[0])
    for _ in range(2):
        rig.fill(0, 400)
        rig.wait_for_commit()
    known = [row.known != "-" for row in rig.rows() if row.offset >= before[row.partition]]
    assert known == [False] * 400 + [True] * 400


@pytest.mark.parametrize("store", ["rocksdb", "memory"])
def test_a_killed_worker_s_successor_knows_every_key(rig: Rig, store: str) -> None:
    _assert_all_known(_again(rig, store))


def test_another_worker_knows_every_key(rig: Rig) -> None:
    _assert_all_known(_again(rig, worker_id="another"))


def test_with_the_folder_deleted_every_key_is_known(rig: Rig) -> None:
    shutil.rmtree(rig.folder / "tables")
    _assert_all_known(_again(rig))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "garbage", "current gone"])
def test_with_the_folder_damaged_every_key_is_known(rig: Rig, damage: str) -> None:
    rig.start()
    assert rig.stop() == 0  # so that there are table files, not only what was in memory
    for path in _table_files(rig):
        if damage == "truncated":
            os.truncate(path, path.stat().st_size // 2)
        elif damage == "garbage":
            path.write_bytes(os.urandom(path.stat().st_size))
        elif path.name == "CURRENT":
            path.unlink()
    _assert_all_known(_again(rig))


@pytest.mark.slow
def test_a_table_file_damaged_inside_is_rebuilt_after_one_restart(rig: Rig) -> None:
    rig.start()
    assert rig.stop() == 0
    for path in _table_files(rig):
        if path.suffix == ".sst":
            content = bytearray(path.read_bytes())
            content[100:4000] = os.urandom(3900)
            path.write_bytes(content)
    before = rig.ends(rig.sources[0])
    rig.fill(0, COUNT)
    assert rig.start(wait=False).wait(20) == exits.TABLE
    rig.workers.pop("w0")
    rig.start()
    rig.wait(lambda: sum(row.offset >= before[row.partition] for row in rig.rows()) >= COUNT, "every value again")
    _assert_all_known([row for row in rig.rows() if row.offset >= before[row.partition]])


@pytest.mark.slow
def test_a_store_that_goes_beyond_its_changelog_is_wiped(rig: Rig) -> None:
    rig.start()
    assert rig.stop() == 0
    rig.recreate_changelog()
    rows = _again(rig)
    assert "wiped" in rig.log()
    assert all(row.known == "-" for row in rows)
    rig.kill()
    # From here on the new changelog counts.
    shutil.rmtree(rig.folder / "tables")
    rig.start()
    offsets = rig.ends(rig.sources[0])
    rig.fill(0, 4)
    rig.wait(lambda: any(row.offset >= offsets[row.partition] for row in rig.rows()), "values a third time")
    assert all(row.known != "-" for row in rig.rows() if row.offset >= offsets[row.partition])


@pytest.mark.parametrize("kept", [0, 10])
@pytest.mark.parametrize("folder", ["kept", "gone"])
def test_a_changelog_whose_older_part_has_expired_is_recovered_from_what_is_left(
    rig: Rig, folder: str, kept: int
) -> None:
    rig.cut_changelog(kept)
    if folder == "gone":
        shutil.rmtree(rig.folder / "tables")
    rows = _again(rig)
    last = COUNT // rig.partitions - kept
    assert all(row.known != "-" for row in rows if int(row.value) // rig.partitions >= last)
    if folder == "gone":
        assert all(row.known == "-" for row in rows if int(row.value) // rig.partitions < last)


def test_a_restart_reads_only_what_came_later(rig: Rig) -> None:
    rig.start()
    assert rig.stop() == 0
    rig.start(HEADRACE_LOG_LEVEL="debug")
    # Nothing is left to read: the store was written out when the worker stopped, with the changelog's end.
    assert "Restoring state from changelog topics" not in rig.log()
    assert rig.stop() == 0


def test_a_second_worker_with_the_same_id_and_folder_ends_at_once(rig: Rig) -> None:
    rig.start("w0")
    second = rig.start("w0-twin", wait=False, HEADRACE_WORKER_ID="w0")
    assert second.wait(20) == exits.TABLE
    assert "is in use" in rig.log("w0-twin")
