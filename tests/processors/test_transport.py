"""The chunked transport on a real Kafka: order, completeness, commits, latency, the way workers end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from processors import exits
from tests.processors.rig import Rig, assert_in_order


@pytest.fixture
def rig(kafka: str, tmp_path: Path) -> Iterator[Rig]:
    """A group of its own."""
    rig = Rig(kafka, tmp_path)
    yield rig
    rig.close()


def test_everything_arrives_once_in_order_from_both_sources(rig: Rig) -> None:
    rig.fill(0, 3_000)
    rig.fill(3_000, 500, source=1)
    rig.start()
    rig.wait_for_values(3_500)

    rows = rig.rows()
    assert len(rows) == 3_500
    assert_in_order(rows, restarts=0)
    assert rig.stop() == 0
    assert rig.committed(rig.sources[0]) == rig.ends(rig.sources[0])
    assert rig.committed(rig.sources[1]) == rig.ends(rig.sources[1])


def test_a_clean_stop_finishes_the_chunk_and_commits_exactly_what_is_done(rig: Rig) -> None:
    rig.fill(0, 4_000)
    rig.start(TEST_CHUNK_DELAY_S="1")
    rig.wait_for_rows(400)
    time.sleep(0.2)  # the next chunk is in work for a second
    before = len(rig.rows())

    begun = time.monotonic()
    assert rig.stop() == 0
    assert time.monotonic() - begun < 10
    assert len(rig.rows()) == before + 200

    done = dict.fromkeys(range(rig.partitions), 0)
    for row in rig.rows():
        done[row.partition] = row.offset + 1
    assert rig.committed(rig.sources[0]) == done

    rig.start()
    rig.wait_for_values(4_000)
    assert len(rig.rows()) == 4_000  # nothing twice
    assert_in_order(rig.rows(), restarts=0)

    begun = time.monotonic()
    assert rig.stop() == 0
    assert time.monotonic() - begun < 1.5, "at rest it has nothing to wait for"


def test_a_commit_never_passes_a_chunk_in_work(rig: Rig) -> None:
    rig.fill(0, 2_000)
    rig.start(TEST_CHUNK_DELAY_S="1.2")  # longer than the pause between commits
    for _ in range(8):
        committed = rig.committed(rig.sources[0])  # read before the rows: they can only be further
        done = dict.fromkeys(range(rig.partitions), 0)
        for row in rig.rows():
            done[row.partition] = row.offset + 1
        assert all(committed[number] <= done[number] for number in done), (committed, done)
        time.sleep(0.2)
    rig.kill()
    rig.start()
    rig.wait_for_values(2_000)
    assert_in_order(rig.rows(), restarts=1)


@pytest.mark.slow
def test_killed_in_mid_drain_it_loses_nothing_and_keeps_order(rig: Rig) -> None:
    rig.fill(0, 20_000)
    kills = 3
    for number in range(kills):
        rig.start(TEST_CHUNK_DELAY_S="0.02")
        target = (number + 1) * 3_000
        rig.wait_for_rows(target)
        rig.kill()
    rig.start()
    rig.wait_for_values(20_000)

    rows = rig.rows()
    assert_in_order(rows, restarts=kills)
    # A record that comes again is known to the table, unless its worker died before it wrote that down.
    chunk, partitions = 200, rig.partitions
    seen: set[str] = set()
    unknown = 0
    for row in rows:
        unknown += row.value in seen and row.known == "-"
        seen.add(row.value)
    assert unknown <= kills * chunk * partitions
    assert len(rows) - 20_000 <= kills * partitions * 20 * chunk


def test_a_lone_record_is_processed_within_milliseconds(rig: Rig) -> None:
    rig.start()
    sent_us = rig.fill_one_by_one(30)
    took_ms = sorted((row.time_us - sent_us[int(row.value)]) / 1000 for row in rig.rows())
    assert took_ms[15] < 100, took_ms


def test_an_error_in_processing_ends_the_process_at_once(rig: Rig) -> None:
    rig.fill(0, 1_000)
    worker = rig.start(wait=False, TEST_FAIL_AT="777")
    assert worker.wait(20) == exits.PROCESSING
    assert "told to fail" in rig.log()
    committed = rig.committed(rig.sources[0])
    assert committed[777 % rig.partitions] <= 777 // rig.partitions

    rig.start()
    rig.wait_for_values(1_000)
    assert_in_order(rig.rows(), restarts=1)


@pytest.mark.slow
def test_two_workers_share_and_take_over(rig: Rig) -> None:
    rig.start("w0", TEST_CHUNK_DELAY_S="0.02")
    rig.fill(0, 4_000)
    rig.start("w1", TEST_CHUNK_DELAY_S="0.02")
    rig.fill(4_000, 8_000)
    rig.wait(lambda: {row.worker for row in rig.rows()[-1_000:]} == {"w0", "w1"}, "both work")
    rig.kill("w1")
    killed = time.monotonic()
    rig.fill(12_000, 100)
    rig.wait_for_values(12_100)
    assert time.monotonic() - killed < 20
    assert_in_order(rig.rows(), restarts=3)


def test_a_worker_that_leaves_hands_over_at_once(rig: Rig) -> None:
    rig.start("w0", HEADRACE_SESSION_TIMEOUT_MS="20000")
    rig.start("w1", HEADRACE_SESSION_TIMEOUT_MS="20000")
    rig.fill(0, 400)
    rig.wait_for_values(400)
    assert rig.stop("w1") == 0
    left = time.monotonic()
    rig.fill(400, 400)
    rig.wait_for_values(800)
    assert time.monotonic() - left < 12  # well under the session timeout
    assert_in_order(rig.rows(), restarts=2)


@pytest.mark.slow
def test_a_worker_that_wakes_up_after_its_partitions_were_taken_does_no_harm(rig: Rig) -> None:
    rig.start("w0", TEST_CHUNK_DELAY_S="0.05")
    rig.start("w1", TEST_CHUNK_DELAY_S="0.05")
    rig.fill(0, 6_000)
    rig.wait_for_rows(400)
    rig.workers["w0"].send_signal(signal.SIGSTOP)
    rig.wait_for_values(6_000)  # w1 has taken over and done the rest
    rig.workers["w0"].send_signal(signal.SIGCONT)
    rig.fill(6_000, 1_000)
    rig.wait_for_values(7_000)
    rig.wait_for_commit()

    # Twice comes only what the sleeper had not committed yet: half a second's chunks, and the one it was at.
    assert len(rig.rows()) - 7_000 <= 12 * 200
    assert rig.stop("w0") == 0
    assert rig.stop("w1") == 0


def test_told_to_stop_in_a_chunk_that_takes_too_long_it_drops_it_and_ends_in_time(rig: Rig) -> None:
    rig.fill(0, 100)
    rig.start(TEST_CHUNK_DELAY_S="60")
    time.sleep(1.0)
    begun = time.monotonic()
    code = rig.stop()
    assert time.monotonic() - begun < 10
    assert code in {0, exits.SHUTDOWN}  # hard where the machine is too slow for the clean way
    assert rig.rows() == []
    assert rig.committed(rig.sources[0]) == dict.fromkeys(range(rig.partitions), 0)


def test_without_kafka_a_worker_ends_with_one_line_that_says_so(rig: Rig) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        assert rig.start(wait=False, HEADRACE_KAFKA=address).wait(30) == exits.KAFKA
    assert f"cannot connect to Kafka at {address}" in rig.log()


def test_faust_s_own_command_runs_the_same_worker(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        environment = {"HEADRACE_KAFKA": f"127.0.0.1:{closed.getsockname()[1]}", "HEADRACE_TABLE_DIR": str(tmp_path)}
        command = [sys.executable, "-m", "faust", "-A", "processors.app", "worker"]
        ended = subprocess.run(command, env=os.environ | environment, check=False, timeout=60, capture_output=True)
    assert ended.returncode == exits.KAFKA
    assert b"cannot connect to Kafka" in ended.stdout + ended.stderr


def test_without_its_topics_a_worker_ends_with_one_line_that_says_so(rig: Rig) -> None:
    assert rig.start(wait=False, HEADRACE_GROUP=f"{rig.group}-unknown").wait(30) == exits.CONFIGURATION
    assert "headrace migrate" in rig.log()


@pytest.mark.parametrize("joining", ["1", "2"], ids=["the first time", "again"])
def test_a_worker_that_cannot_join_its_group_ends_at_once(rig: Rig, joining: str) -> None:
    worker = rig.start("w0", wait=joining != "1", TEST_FAIL_SYNC=joining)
    rig.start("w1", wait=False)  # has all members join again
    assert worker.wait(30) == exits.KAFKA  # well before the watchdog would end it
