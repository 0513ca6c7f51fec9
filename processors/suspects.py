"""Which events a worker was at when it died, so that one that kills it every time is found, and then left alone.

A handler that blocks the event loop, ends the process or makes it crash gives nobody a chance to note what it was at.
So before each call the ids of its events go into a small file beside the dedupe table, and after it they are taken
out again; a worker that finds some there when it starts knows at what the one before it died. The file is not synced:
it must outlive the process, not the machine.

Events at which workers have died twice in a row are called one at a time; one at which three have died while it was
alone is not called any more. The waits for Postgres are outside: a worker killed there suspects nobody.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from processors import exits

ALONE_AFTER = 2
"""Deaths at a group of events after which each is called alone."""
GIVEN_UP_AFTER = 3
"""Deaths at an event that was alone after which it is not called again."""

_log = logging.getLogger("headrace.worker")


class Deaths(msgspec.Struct):
    """How many workers have died at an event: in company, and alone."""

    together: int = 0
    alone: int = 0


class _Note(msgspec.Struct):
    under_way: list[bytes] = []
    deaths: dict[str, Deaths] = {}


_decode = msgspec.msgpack.Decoder(_Note).decode
_encode = msgspec.msgpack.Encoder().encode


class Suspects:
    """One worker's note. `path` None: nothing is kept, nobody suspected."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._deaths: dict[bytes, Deaths] = {}
        self._settled: set[bytes] = set()
        if path is not None:
            self._begin(path)

    def _begin(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = _read(path)
        ids = before.under_way
        known = {bytes.fromhex(id_): deaths for id_, deaths in before.deaths.items()}
        # Who was in company then and is not under way now has been left behind.
        self._deaths = {id_: deaths for id_, deaths in known.items() if deaths.alone or not ids}
        for id_ in ids:
            deaths = self._deaths[id_] = known.get(id_, Deaths())
            if len(ids) == 1:
                deaths.alone += 1
            else:
                deaths.together += 1
        if ids:
            _log.warning("the worker before this one died while handlers were at %d event(s)", len(ids))
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._write([])
        exits.before_leaving.append(self.on_leaving)

    def close(self) -> None:
        """Let go of the file."""
        if self._path is not None:
            exits.before_leaving.remove(self.on_leaving)
            self._path = None
            os.close(self._descriptor)

    def on_leaving(self, code: int) -> None:
        """A worker that ends for a reason of its own leaves no suspects; one whose event loop stood still does."""
        if code != exits.STALLED:
            self._write([])

    def is_given_up(self, id_: bytes) -> bool:
        """Whether an event has ended so many workers that it must not be called again."""
        deaths = self._deaths.get(id_)
        return deaths is not None and deaths.alone >= GIVEN_UP_AFTER

    def groups(self, ids: Sequence[bytes]) -> list[list[int]]:
        """Numbers of `ids` in order, in groups to be called together; those given up are in none."""
        if not self._deaths:
            return [list(range(len(ids)))]
        self._forget(ids)
        groups: list[list[int]] = [[]]
        for number, id_ in enumerate(ids):
            deaths = self._deaths.get(id_)
            if deaths is None or (deaths.together < ALONE_AFTER and not deaths.alone):
                groups[-1].append(number)
            elif not self.is_given_up(id_):
                groups += [[number], []]
        return [group for group in groups if group]

    @contextmanager
    def under_way(self, ids: Sequence[bytes]) -> Iterator[None]:
        """Note `ids` while they are handled."""
        self._write(ids)
        try:
            yield
        finally:
            self._write([])

    def settled(self, ids: Sequence[bytes]) -> None:
        """The handlers are done with `ids`: forget them once others have their turn, since these are committed then."""
        self._settled |= self._deaths.keys() & set(ids)

    def _forget(self, ids: Sequence[bytes]) -> None:
        if self._settled and self._settled.isdisjoint(ids):
            for id_ in self._settled:
                self._deaths.pop(id_, None)
            self._settled.clear()

    def _write(self, ids: Sequence[bytes]) -> None:
        if self._path is None:
            return
        deaths = {id_.hex(): deaths for id_, deaths in self._deaths.items()}
        note = _encode({"under_way": ids, "deaths": deaths})
        # The length stands in front, so that one write replaces the note whatever lies behind it.
        try:
            os.pwrite(self._descriptor, len(note).to_bytes(4, "big") + note, 0)
        except OSError as error:  # no room, say: processing must not fail for it
            _log.warning("%s cannot be written: %s", self._path, error)


def _read(path: Path) -> _Note:
    try:
        content = path.read_bytes()
        return _decode(content[4 : 4 + int.from_bytes(content[:4], "big")])
    except FileNotFoundError:
        return _Note()
    except msgspec.MsgspecError:
        _log.warning("%s cannot be read: nobody is suspected", path)
        return _Note()
