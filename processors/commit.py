"""Which offset may be committed: pure book-keeping of chunks delivered and acknowledged.

A partition's committed offset is the end of the last chunk for which it and every chunk before it are acknowledged.
Chunks must join: where one begins is where the one before it ended, across whatever holes compaction and transaction
markers have left. So a hole in the offsets is never mistaken for work that is done, and a chunk that went missing
between the broker and the agent is noticed at the next one.
"""

from collections import deque

from faust.types import TP


class PositionJumpError(RuntimeError):
    """A chunk does not begin where the one before it ended: going on would commit past records never processed."""


class _Delivered:
    __slots__ = ("acked", "end", "ticket")

    def __init__(self, end: int, ticket: int) -> None:
        self.end = end
        self.ticket = ticket
        self.acked = False


class Ledger:
    """Chunks delivered and acknowledged, by partition, within one generation of the consumer group."""

    def __init__(self) -> None:
        self._generation = -1
        self._expected: dict[TP, int] = {}
        self._waiting: dict[TP, deque[_Delivered]] = {}
        self._done: dict[TP, int] = {}
        self._committed: dict[TP, int] = {}
        self._tickets = 0
        self._in_flight = 0

    @property
    def generation(self) -> int:
        """The group's generation that is under way; -1 before the first."""
        return self._generation

    @property
    def in_flight(self) -> int:
        """Chunks delivered and not yet acknowledged."""
        return self._in_flight

    def begin(self, generation: int) -> None:
        """Start over with a new assignment: what belongs to earlier ones counts for nothing from now on."""
        self._generation = generation
        self._expected.clear()
        self._waiting.clear()
        self._done.clear()
        self._committed.clear()
        self._in_flight = 0

    def deliver(self, tp: TP, start: int, end: int, *, first: bool, generation: int) -> int | None:
        """Note that offsets [`start`, `end`) go to the agent; returns the ticket with which to acknowledge them.

        `first`: this is the first chunk that was taken from the partition since it was assigned. Returns None for a
        chunk of another generation, which must be dropped. Raises :class:`PositionJumpError`.
        """
        if generation != self._generation:
            return None
        expected = self._expected.get(tp)
        joins = first if expected is None else start == expected
        if not joins:
            raise PositionJumpError(f"{tp.topic}[{tp.partition}]: chunk begins at {start}, expected {expected}")
        self._tickets += 1
        self._in_flight += 1
        self._expected[tp] = end
        self._waiting.setdefault(tp, deque()).append(_Delivered(end, self._tickets))
        return self._tickets

    def acknowledge(self, tp: TP, ticket: int) -> bool:
        """Note that the chunk with `ticket` is processed; False when it belongs to an assignment that has ended."""
        waiting = self._waiting.get(tp, deque())
        for delivered in waiting:
            if delivered.ticket == ticket and not delivered.acked:
                delivered.acked = True
                self._in_flight -= 1
                break
        else:
            return False
        while waiting and waiting[0].acked:
            self._done[tp] = waiting.popleft().end
        return True

    def committable(self) -> dict[TP, int]:
        """Offsets to commit: the first one not known to be processed, for partitions where it has moved."""
        return {tp: end for tp, end in self._done.items() if self._committed.get(tp, -1) < end}

    def committed(self, offsets: dict[TP, int]) -> None:
        """Note that the broker has taken `offsets`."""
        for tp, end in offsets.items():
            if tp in self._done:
                self._committed[tp] = end

    def positions(self) -> dict[TP, int]:
        """The offset after the last one delivered, by partition."""
        return dict(self._expected)
