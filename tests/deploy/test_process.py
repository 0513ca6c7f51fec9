"""Child processes: told from strangers, ended in time, never outliving their parent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.process import Identity, Process, Spec, identity_of, rotate, tail
from deploy.state import ProcessState, StackState
from deploy.stopping import end_leftovers
from tests.stack import wait_until

SLEEP = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def spec(folder: Path, code: str, grace_s: float = 5.0) -> Spec:
    """A Python child that runs `code`."""
    return Spec("test", 0, [sys.executable, "-c", code], dict(os.environ), folder / "test-0.log", grace_s=grace_s)


def test_stop_asks_first(tmp_path: Path) -> None:
    process = Process(spec(tmp_path, SLEEP))
    process.stop()
    assert process.exit_code() == -signal.SIGTERM
    assert process.identity.process() is None


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    process = Process(spec(tmp_path, DEAF, grace_s=0.2))
    wait_until(lambda: tail(tmp_path / "test-0.log") == "deaf", "child up")
    process.stop()
    assert process.exit_code() == -signal.SIGKILL


def test_failure_tells_code_and_last_words(tmp_path: Path) -> None:
    process = Process(spec(tmp_path, "raise SystemExit('no room left')"))
    assert process.wait(10)
    assert process.failure() == f"test-0 ended with 1: no room left (log: {tmp_path}/test-0.log)"
    killed = Process(spec(tmp_path, SLEEP))
    killed.kill()
    assert killed.failure() == f"test-0 was ended by SIGKILL (log: {tmp_path}/test-0.log)"


def test_child_ends_with_its_killed_parent(tmp_path: Path) -> None:
    parent_code = (
        "import os, sys, time, pathlib; from deploy.process import Process, Spec;"
        f"log = pathlib.Path({str(tmp_path)!r}) / 'c.log';"
        f"p = Process(Spec('c', 0, [sys.executable, '-c', {SLEEP!r}], dict(os.environ), log));"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = identity_of(int(parent.stdout.readline()))
        assert child.process() is not None
        wait_until(
            lambda: psutil.Process(child.pid).cmdline() == [sys.executable, "-c", SLEEP], "it is past its wrapper"
        )
        parent.kill()
        wait_until(lambda: child.process() is None, "child ended", timeout_s=5)


def test_recycled_pid_is_a_stranger(tmp_path: Path) -> None:
    process = Process(spec(tmp_path, SLEEP))
    try:
        earlier = Identity(process.pid, process.identity.started_s - 60)
        assert earlier.process() is None
        recorded = [ProcessState("worker", 0, earlier, 0)]
        assert end_leftovers(_stack(recorded)) == 0
        assert process.exit_code() is None
        assert end_leftovers(_stack([ProcessState("worker", 0, process.identity, 0)])) == 1
        assert process.identity.process() is None
    finally:
        process.kill()


def _stack(processes: list[ProcessState]) -> StackState:
    return StackState(supervisor=Identity(1, 0.0), url="", kafka="", database_url="", partitions=1, processes=processes)


def test_rotation_bounds_a_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"a" * 10)
    rotate(log, bytes_max=10)
    assert log.stat().st_size == 10
    rotate(log, bytes_max=9)
    assert (log.stat().st_size, (tmp_path / "x.log.1").read_bytes()) == (0, b"a" * 10)


@pytest.mark.parametrize(
    ("text", "last"),
    [("", ""), ("one\ntwo\n\n", "two"), ("Exception: boom\n\tat a.b(C.scala)\n\tat d.e(F.scala)\n", "Exception: boom")],
)
def test_tail_is_the_last_line_that_says_something(tmp_path: Path, text: str, last: str) -> None:
    (tmp_path / "log").write_text(text)
    assert tail(tmp_path / "log") == last


@pytest.mark.skipif(os.geteuid() != 0, reason="changes the user, which only root can")
@pytest.mark.parametrize("reach", ["search", "override"])
def test_unprivileged_child_passes_closed_folders(tmp_path: Path, reach: str) -> None:
    closed = tmp_path / "closed"
    own = closed / "own"
    own.mkdir(parents=True)
    closed.chmod(0o700)
    os.chown(own, 65534, 65534)
    wrapper = ["-IS", str(Path("deploy/local/child.py").resolve()), str(os.getpid()), "15"]
    command = [sys.executable, *wrapper, f"65534:65534+{reach}", "/bin/sh", "-c", f"cd {own} && id -u && id -G"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout.split() == ["65534", "65534"]
    without = [sys.executable, *wrapper, "65534:65534", "/bin/sh", "-c", f"cd {own}"]
    assert subprocess.run(without, capture_output=True, timeout=10, check=False).returncode != 0


def test_identity_of_an_ended_process_matches_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait(10)
    assert not psutil.pid_exists(ended.pid)
    assert identity_of(ended.pid).process() is None
