"""Ends a worker that has work and gets nowhere, or that does not end when asked to."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from processors import exits

SHUTDOWN_S = 9.0
"""Longest time from the request to stop to the end of the process."""
LOOK_EVERY_S = 1.0
_BEAT_S = 5.0


class Watchdog:
    """Looks every second, from a thread of its own: the event loop may be what hangs.

    `stall_s`: longest time with work at hand and none of it done. Processors that wait on purpose say so
    (`Context.alive`).
    """

    def __init__(self, has_work: Callable[[], bool], stall_s: float) -> None:
        self._has_work = has_work
        self._stall_s = stall_s
        self._moved_at = time.monotonic()
        self._loop_seen_at = self._moved_at
        self._stopped = threading.Event()

    def moved(self) -> None:
        """Note progress: a chunk done, a piece of the table recovered, a wait that is meant."""
        self._moved_at = time.monotonic()

    @property
    def still_s(self) -> float:
        """Seconds with work at hand and no progress."""
        return time.monotonic() - self._moved_at

    def start(self) -> None:
        """Begin to watch."""
        self.moved()
        self._loop_seen_at = time.monotonic()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    async def run(self) -> None:
        """Show that the event loop runs, and whether there is work; to be run as a task on that loop."""
        while not self._stopped.is_set():
            self._loop_seen_at = time.monotonic()
            if not self._has_work():
                self.moved()
            await asyncio.sleep(LOOK_EVERY_S)

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            now = time.monotonic()
            if now - self._loop_seen_at > self._stall_s:
                exits.leave(exits.STALLED, f"the event loop has not run for {now - self._loop_seen_at:.0f} s")
            if now - self._moved_at > self._stall_s:
                exits.leave(exits.STALLED, f"no progress for {now - self._moved_at:.0f} s although there is work")


def limit_shutdown(limit_s: float = SHUTDOWN_S) -> None:
    """From now on, end the process hard after `limit_s` seconds if it has not ended by then."""
    timer = threading.Timer(
        limit_s, exits.leave, (exits.SHUTDOWN, f"still running {limit_s:.0f} s after the request to stop")
    )
    timer.daemon = True
    timer.start()


@asynccontextmanager
async def beating(alive: Callable[[], None]) -> AsyncIterator[None]:
    """Call `alive` now and then: what happens here has limits of its own, and may take longer than a stall."""

    async def beat() -> None:
        while True:
            alive()
            await asyncio.sleep(_BEAT_S)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
