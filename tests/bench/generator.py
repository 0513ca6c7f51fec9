"""The parent's hand on a load generator."""

import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from deploy.process import guarded
from tests.bench.load import Order, Outcome, Target

_GRACE_S = 5.0
_SLACK_S = 60.0
_ROOT = Path(__file__).parents[2]


class Generator:
    """A running generator; ends with the ``with`` block, and with this process."""

    def __init__(self, target: Target) -> None:
        self._process = subprocess.Popen(
            guarded([sys.executable, "-m", "tests.bench.load"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env=os.environ | {"PYTHONPATH": os.fspath(_ROOT)},
            start_new_session=True,
        )
        self._tell(target)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def carry_out(self, order: Order) -> Outcome:
        """Have an order carried out; waits for the outcome."""
        self._tell(order)
        assert self._process.stdout is not None
        timeout_s = order.seconds + order.drain_s + _SLACK_S
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        assert ready, f"the load generator says nothing for {timeout_s} s"
        line = self._process.stdout.readline()
        assert line, "the load generator has ended"
        return msgspec.json.decode(line, type=Outcome)

    def _tell(self, what: msgspec.Struct) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(what) + b"\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        """Nothing more: it runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(_GRACE_S)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
