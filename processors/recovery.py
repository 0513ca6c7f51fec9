"""Recovery of the table from its changelog: Faust's, without its waits and with a check of what lies on the disk."""

import logging
from collections import Counter
from typing import Any, cast

from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.types import TP
from faust.types.transports import ConsumerT

from processors.table import DedupeTable

_log = logging.getLogger(__name__)


class ChunkRecovery(Recovery):
    """Recovers chunk by chunk; a store that claims more than its changelog holds is wiped first."""

    async def _build_offsets(self, consumer: ConsumerT, tps: set[TP], destination: Counter[TP], title: str) -> None:
        for tp in tps:
            kept, highwater = destination[tp], self.active_highwaters[tp]
            if title == "active" and kept is not None and highwater is not None and kept > highwater:
                _log.warning(
                    "table partition %d goes up to changelog offset %d, the changelog to %d: wiped, it is another's",
                    tp.partition,
                    kept,
                    highwater,
                )
                cast(DedupeTable, self.tp_to_table[tp]).forget(tp)
                destination[tp] = cast(int, None)
        await super()._build_offsets(consumer, tps, destination, title)


class ChunkTableManager(TableManager):
    """Starts at once: Faust waits a second for tables declared late, and here there are none."""

    async def on_start(self) -> None:
        """Register the table's changelog and get ready to recover."""
        await self._update_channels()
        await self.recovery.start()

    @property
    def recovery(self) -> Recovery:
        """The recovery service."""
        if self._recovery is None:
            self._recovery = ChunkRecovery(self.app, cast(Any, self), beacon=self.beacon, loop=self.loop)
        return self._recovery
