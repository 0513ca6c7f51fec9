"""The supervisor: waits, starts again what dies, stops in reverse order. With small children instead of real parts."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from deploy.errors import DeployError
from deploy.process import Spec
from deploy.state import ProcessState
from deploy.supervisor import Stopped, Supervisor

READY = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
LAST_WORDS = (
    "import signal, sys, time\n"
    "def end(*_):\n    open(sys.argv[1], 'a').write(sys.argv[2] + '\\n'); sys.exit()\n"
    "signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\ntime.sleep(60)"
)


def spec(folder: Path, name: str, code: str, *arguments: str, ready_file: Path | None = None) -> Spec:
    """A Python child that runs `code`."""
    command = [sys.executable, "-c", code, *arguments]
    return Spec(name, 0, command, dict(os.environ), folder / f"{name}.log", ready_file=ready_file)


def _silent(line: str) -> None:
    del line


def test_waits_for_ready_files(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.touch()  # an earlier run's says nothing about this one
    supervisor = Supervisor(_silent, lambda _: None)
    try:
        supervisor.start([spec(tmp_path, "a", READY, str(ready), ready_file=ready)])
        supervisor.wait_until(supervisor.all_say_ready, "a", 10)
        assert ready.exists()
    finally:
        supervisor.stop()


def test_end_while_waiting_is_told(tmp_path: Path) -> None:
    supervisor = Supervisor(_silent, lambda _: None)
    supervisor.start([spec(tmp_path, "a", "raise SystemExit('out of memory')")])
    with pytest.raises(DeployError, match="a-0 ended with 1: out of memory"):
        supervisor.wait_until(lambda: False, "a", 10)


def test_waiting_is_bounded(tmp_path: Path) -> None:
    supervisor = Supervisor(_silent, lambda _: None)
    try:
        supervisor.start([spec(tmp_path, "a", "import time; time.sleep(60)")])
        with pytest.raises(DeployError, match=r"Kafka: not within 0\.2 s \(logs: .*a\.log\)"):
            supervisor.wait_until(lambda: False, "Kafka", 0.2)
    finally:
        supervisor.stop()


def test_dead_process_is_started_again_with_growing_pauses(tmp_path: Path) -> None:
    told: list[str] = []
    seen: list[list[ProcessState]] = []

    def tell(line: str) -> None:
        told.append(line)
        if len(told) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    supervisor = Supervisor(tell, seen.append)
    supervisor.heed_signals()
    try:
        supervisor.start([spec(tmp_path, "a", "raise SystemExit(3)")])
        supervisor.supervise()
    finally:
        supervisor.stop()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert [line.rsplit("in ", 1)[1] for line in told] == ["0.5 s", "1 s", "2 s"]
    assert [states[0].restarts for states in seen] == [0, 1, 2]
    assert len({states[0].identity.pid for states in seen}) == 3
    with pytest.raises(Stopped):
        supervisor.check()


def test_stops_the_last_group_first(tmp_path: Path) -> None:
    record = tmp_path / "record"
    supervisor = Supervisor(_silent, lambda _: None)
    for name in ("store", "service"):
        supervisor.start([spec(tmp_path, name, LAST_WORDS, str(record), name)])
    deadline = time.monotonic() + 10
    while not all((tmp_path / f"{name}.log").read_text() == "up\n" for name in ("store", "service")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    supervisor.stop()
    assert record.read_text() == "service\nstore\n"
