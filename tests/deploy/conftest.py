"""What the tests of the commands share."""

from collections.abc import Iterator

import pytest

from tests.deploy import letters
from tests.stack import Stack


@pytest.fixture(scope="module")
def failing_stack(shared_stack: Stack) -> Iterator[Stack]:
    """Gateway and worker for a module's tests, with a handler that refuses what its events tell it to refuse."""
    shared_stack.stop()
    shared_stack.start_worker(handlers=letters.HANDLERS)
    shared_stack.start_gateway()
    yield shared_stack
    shared_stack.stop()
