"""The watchdog and the shutdown limit, in processes of their own: what they do is end one."""

import subprocess
import sys
import time

import pytest

from processors import exits

_FRAME = """
import asyncio, time
from processors.watchdog import Watchdog, limit_shutdown
async def main():
    watchdog = Watchdog(lambda: {has_work}, stall_s=1.5)
    watchdog.start()
    running = asyncio.create_task(watchdog.run())
    for _ in range(40):
        await asyncio.sleep(0.1)
        {step}
    watchdog.stop()
asyncio.run(main())
"""


def _exit_code(program: str) -> int:
    return subprocess.run([sys.executable, "-c", program], check=False, timeout=30, capture_output=True).returncode


@pytest.mark.parametrize(
    ("has_work", "step", "code"),
    [
        ("True", "pass", exits.STALLED),
        ("False", "pass", 0),
        ("True", "watchdog.moved()", 0),
        ("False", "time.sleep(30)", exits.STALLED),
    ],
    ids=["work and no progress", "no work", "progress", "the event loop hangs"],
)
def test_a_worker_that_gets_nowhere_ends(has_work: str, step: str, code: int) -> None:
    assert _exit_code(_FRAME.format(has_work=has_work, step=step)) == code


def test_a_shutdown_that_takes_too_long_ends_hard() -> None:
    begun = time.monotonic()
    program = "import time\nfrom processors.watchdog import limit_shutdown\nlimit_shutdown(0.5)\ntime.sleep(20)"
    assert _exit_code(program) == exits.SHUTDOWN
    assert time.monotonic() - begun < 10
