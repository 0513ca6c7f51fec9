"""Where many records come, a bundle waits a little for more of them, so that they share what a bundle itself costs.

While few come, none waits: see docs/decisions/0008-records-gather.md.
"""

from collections import deque

BUSY_RECORDS_PER_S = 4_000
PAUSE_S = 0.15
"""From one bundle to the next, while many records come and no half of a bundle waits already."""
_LATELY_S = 0.5


class Gathering:
    """Knows how many records came lately, and from that how long to wait before the next are taken."""

    def __init__(self) -> None:
        self._taken: deque[tuple[float, int]] = deque()  # when, and how many, oldest first
        self._records = 0  # in all of these

    def took(self, now: float, records: int) -> None:
        """Note that a bundle of so many records was taken."""
        self._taken.append((now, records))
        self._records += records

    def wait_s(self, now: float) -> float:
        """How long to let records gather from `now` on, 0 for not at all. Times in seconds of one clock."""
        taken = self._taken
        while taken and taken[0][0] < now - _LATELY_S:
            self._records -= taken.popleft()[1]
        if self._records < BUSY_RECORDS_PER_S * _LATELY_S:
            return 0.0
        return max(0.0, taken[-1][0] + PAUSE_S - now)
