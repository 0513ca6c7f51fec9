"""Bundles overlap by stages, and pass each of them in the order in which they came."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from processors.drain import Drain
from processors.ports import Part

pytestmark = pytest.mark.anyio


class Slow:
    """A processor that takes long for bundles of many parts, and notes its steps."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []

    async def _step(self, name: str, number: int, turns: int) -> None:
        self.steps.append((f"{name} begins", number))
        for _ in range(turns):
            await asyncio.sleep(0)
        self.steps.append((f"{name} ends", number))

    async def read(self, parts: Sequence[Part]) -> tuple[int, int]:
        """Lets others go on as many times as there are parts."""
        number = parts[0].partition
        await self._step("read", number, len(parts))
        return number, len(parts)

    async def commit(self, reading: tuple[int, int]) -> SimpleNamespace:
        """The same."""
        await self._step("commit", *reading)
        return SimpleNamespace(entries={}, reading=reading)

    async def tell(self, committed: SimpleNamespace) -> None:
        """The same."""
        await self._step("tell", *committed.reading)


async def test_bundles_pass_each_stage_one_by_one_in_their_order() -> None:
    async def write(*_: object) -> None:
        """There is no table."""

    table = SimpleNamespace(expect=lambda _: None, write=write)
    source = SimpleNamespace(holds=lambda _: True, acknowledge=lambda _: True)
    watchdog = SimpleNamespace(moved=lambda: None)
    untyped: Any = Drain
    drain = cast(Drain, untyped(None, table, None, lambda: source, watchdog))
    slow: Any = Slow()
    sizes = [40, 1, 9, 1, 25]
    bundles: Any = [
        [SimpleNamespace(tp=TP("t", number), records=[], end=0)] * size for number, size in enumerate(sizes)
    ]
    await asyncio.gather(*(drain._process_bundle(slow, bundle) for bundle in bundles))  # noqa: SLF001
    for stage in ("read", "commit", "tell"):
        own = [step for step in slow.steps if step[0].startswith(stage)]
        assert own == [(f"{stage} {edge}", number) for number in range(len(sizes)) for edge in ("begins", "ends")]
    steps = slow.steps
    assert steps.index(("read begins", 1)) < steps.index(("commit ends", 0)), "one is read while another is committed"
